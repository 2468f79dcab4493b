import math
import random

import pytest

from service.domain.pacing import Pacer, Quota
from tests.support.fakes import busiest_second

START = 1000.0
RATES = [0.5, 1.0, 2.5, 5.0, 50.0, 1000.0]


def call_whenever_due(
    pacer: Pacer, *, seconds: float, late_s: float = 0.0, throttled: float = 0.0, seed: int = 0
) -> list[float]:
    """Take every token as it falls due, up to `late_s` seconds late, as a timer would; AWS throttles a share of the calls."""
    random_ = random.Random(seed)
    calls = []
    while (now := pacer.due + random_.uniform(0, late_s)) < START + seconds:
        pacer.take(now)
        calls.append(now)
        if random_.random() < throttled:
            pacer.throttled(now)
    return calls


def call_from(pacer: Pacer, now: float, *, seconds: float) -> list[float]:
    """Take the first token at a given time, though it may have been due earlier, and every other one as it falls due."""
    end, calls = now + seconds, []
    while now <= end + 1e-9:
        pacer.take(now)
        calls.append(now)
        now = pacer.due
    return calls


# -- the quota


@pytest.mark.parametrize("rate", RATES)
def test_a_pacer_starts_empty(rate: float):
    assert Pacer(ceiling_per_s=rate, owned_since=START).due == START + 1 / rate


@pytest.mark.parametrize("rate", RATES)
def test_all_of_the_quota_is_used_while_work_waits(rate: float):
    calls = call_whenever_due(Pacer(ceiling_per_s=rate, owned_since=START), seconds=100)
    assert len(calls) >= math.floor(rate * 100) - 1
    assert busiest_second(calls) <= math.ceil(rate)


@pytest.mark.parametrize("late_ms", [1, 5, 15])
def test_timers_that_are_late_cost_less_than_a_percent(late_ms: int):
    calls = call_whenever_due(Pacer(ceiling_per_s=5.0, owned_since=START), seconds=600, late_s=late_ms / 1000)
    assert len(calls) >= 0.99 * 5 * 600
    assert busiest_second(calls) <= 6


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("late_in_intervals", [0.1, 0.5, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("throttled", [0.0, 0.1])
def test_no_second_holds_more_than_one_call_above_the_rate_however_late_the_timers(
    rate: float, late_in_intervals: float, throttled: float
):
    for seed in range(5):
        pacer = Pacer(ceiling_per_s=rate, owned_since=START)
        seconds = max(200 / rate, 5)
        calls = call_whenever_due(
            pacer, seconds=seconds, late_s=late_in_intervals / rate, throttled=throttled, seed=seed
        )
        assert len(calls) > 2
        assert busiest_second(calls) <= math.ceil(rate) + 1


def test_tokens_do_not_pile_up_while_nothing_is_called():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    calls = call_from(pacer, START + 3600, seconds=60)
    assert [round(call - START - 3600, 3) for call in calls[:3]] == [0, 0.167, 0.333]  # six a second,
    assert len(calls) == 1 + (60 + 0.4) * 5  # until two fifths of a second are made up for


@pytest.mark.parametrize("gap_s", [0.1, 0.3, 0.4])
def test_a_short_delay_costs_nothing_in_the_end(gap_s: float):
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    calls = call_from(pacer, START + 0.2 + gap_s, seconds=10 - gap_s - 0.2)
    assert len(calls) == 50
    assert busiest_second(calls) <= 6


@pytest.mark.parametrize("rate", [0.5, 2.5, 5.0, 10.0, 50.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_bucket_of_one_second_never_runs_dry_wherever_calls_were_late_or_took_longer_to_arrive(
    rate: float, seed: int
):
    """It is AWS's: a former owner has left it empty, five calls come in each second, or as many as the pacer is made for."""
    random_ = random.Random(seed)
    pacer = Pacer(ceiling_per_s=rate, owned_since=START)
    arrivals = []
    for _ in range(1000):
        late_s = random_.uniform(0, 3) if random_.random() < 0.02 else random_.expovariate(20 * rate)
        now = pacer.due + late_s
        pacer.take(now)
        arrivals.append(now + random_.uniform(0.0, 0.4))
    tokens, filled_at, per_s = 0.0, START, max(5.0, rate)
    for now in sorted(arrivals):
        tokens, filled_at = min(per_s, tokens + (now - filled_at) * per_s) - 1, now
        assert tokens >= -1e-6


def test_what_ran_over_in_aws_before_a_call_went_out_is_not_made_up_for():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    now = START + 3600
    pacer.take(now)
    pacer.sent(now + 0.3)  # the loop was busy
    calls = call_from(pacer, now + 0.3, seconds=60)
    assert len(calls) == (60 + 0.4) * 5  # and not what it would be from `now` on
    pacer.sent(calls[-1])
    assert pacer.due == pytest.approx(calls[-1] + 0.2), "a call that goes out at once changes nothing"


def test_each_quota_is_one_that_aws_counts_by_itself():
    assert {quota.value for quota in Quota} == {"AssociateKmsKey", "ListTagsForResource", "DescribeLogGroups"}


def test_after_a_change_of_owner_a_pacer_begins_empty_and_never_earlier():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    pacer.taken_over(START + 100)
    assert pacer.due == START + 100.2
    pacer.take(START + 100.2)
    pacer.taken_over(START + 100.2)
    assert pacer.due == pytest.approx(START + 100.4)


# -- throttles


def test_a_throttle_halves_the_rate_and_puts_off_the_next_call():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    pacer.throttled(START)
    assert pacer.rate(START) == 2.5
    assert pacer.due == START + 0.4


def test_the_answers_to_calls_already_under_way_do_not_halve_it_again():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    for ms in (0, 100, 500, 999):
        pacer.throttled(START + ms / 1000)
    assert pacer.rate(START) == 2.5
    pacer.throttled(START + 1.0)
    assert pacer.rate(START + 1.0) == pytest.approx((2.5 + 0.5) / 2)


def test_a_throttle_that_cuts_nothing_is_the_last_one_all_the_same():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    assert pacer.throttled_at is None
    for at in (START, START + 0.9, START + 1.1):
        pacer.throttled(at)
        assert pacer.throttled_at == at
    assert pacer.rate(START + 1.1) == pytest.approx((2.5 + 0.55) / 2), "two cuts, the grace being that of a cut"


def test_the_rate_recovers_steadily_to_its_ceiling_and_no_higher():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    pacer.throttled(START)
    assert [pacer.rate(START + s) for s in (0, 1, 2, 5, 6, 3600)] == pytest.approx([2.5, 3.0, 3.5, 5.0, 5.0, 5.0])
    assert pacer.settles_at(START) == pytest.approx(START + 5)


def test_a_slow_pacer_settles_when_its_next_token_is_there():
    pacer = Pacer(ceiling_per_s=0.01, owned_since=START)
    assert pacer.settles_at(START) == pacer.due == START + 100


@pytest.mark.parametrize("rate", RATES)
def test_a_lane_that_is_throttled_at_every_call_still_calls_and_is_soon_back(rate: float):
    pacer = Pacer(ceiling_per_s=rate, owned_since=START)
    now = START
    for _ in range(200):
        now = max(pacer.due, now + 1.0)
        pacer.take(now)
        pacer.throttled(now)
        assert rate / 10 <= pacer.rate(now) <= rate / 2  # what it recovers in a second bounds what it loses
    assert pacer.due - now <= 10 / rate + 1e-9
    assert pacer.rate(now + 10) == rate


def test_a_pacer_that_has_settled_is_as_a_new_one():
    pacer = Pacer(ceiling_per_s=5.0, owned_since=START)
    pacer.take(START + 0.2)
    pacer.throttled(START + 0.2)
    at = pacer.settles_at(START + 0.2)
    assert pacer.rate(at) == 5.0
    assert pacer.due <= at
