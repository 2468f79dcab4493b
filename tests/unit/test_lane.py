from collections import Counter

import pytest

from service.domain import lane as lanes
from service.domain.command import EnsureCommand, Priority, Trigger
from service.domain.lane import Crowd, Lane
from service.domain.offsets import untracked
from service.domain.pacing import Quota
from service.domain.queue import PATIENCE_S
from service.domain.sweep import SweepCommand
from service.domain.work import Work
from tests.support import fakes
from tests.support.fakes import LANE, Deliveries, ensure, lane_number

START = 1000.0
INTERVAL_S = 0.2
EARLY = START - 0.15  # before there is any token
AHEAD = 5  # commands that wait for AssociateKmsKey, or are on their way there, before no other is started


def new_lane(max_under_way: int = 16) -> Lane:
    """A lane of 5 calls a second, whose first token is there at START."""
    return fakes.new_lane(owned_since=START - INTERVAL_S, max_under_way=max_under_way)


class Bench:
    """A lane with a clock that jumps to whenever the lane is ready."""

    def __init__(self, max_under_way: int = 16) -> None:
        self.lane = new_lane(max_under_way)
        self.deliveries = Deliveries(owned_since=START - INTERVAL_S)
        self.now = START
        self.waits: set[Work] = set()

    def add(self, name: str = "g", trigger: Trigger = Trigger.CREATED, *, deferrals: int = 0) -> None:
        self.lane.add(ensure(name, trigger, deferrals=deferrals), self.deliveries.next(), self.now)

    def next(self) -> Work:
        """The next command that starts, or that gets its token."""
        ready_at = self.lane.ready_at()
        assert ready_at is not None, "nothing to start"
        self.now = max(self.now, ready_at)
        work = self.lane.next(self.now)
        assert work is not None
        self.waits.discard(work)
        return work

    def wait(self, work: Work, quota: Quota = Quota.ASSOCIATE) -> None:
        self.lane.wait(work, quota)
        self.waits.add(work)

    def call(self) -> Work:
        """Start what may be started, each waiting for its token at once, until one has it."""
        while True:
            waits = set(self.waits)
            work = self.next()
            if work in waits:
                return work
            self.wait(work)

    def start_all(self) -> list[Work]:
        """Start what may be started now, each waiting for its token at once."""
        started = []
        while (work := self.lane.next(self.now)) is not None:
            started.append(work)
            self.wait(work)
        return started

    def finish(self, work: Work) -> None:
        self.lane.finish(work, self.now)

    def names(self, count: int) -> str:
        """Let so many call and end, and say which they were."""
        works = []
        for _ in range(count):
            works.append(self.call())
            self.finish(works[-1])
        return " ".join(work.key for work in works)


# -- one at a time


def test_an_empty_lane_has_nothing_and_waits_for_nothing():
    lane = new_lane()
    assert lane.next(START + 1) is None
    assert lane.ready_at() is None
    assert lane.is_idle


def test_commands_for_a_group_that_waits_are_worked_once_and_end_together():
    bench = Bench()
    for _ in range(3):
        bench.add("a")
    work = bench.next()
    assert [d.offset for d in work.deliveries] == [0, 1, 2]
    bench.finish(work)
    assert bench.lane.is_idle


@pytest.mark.parametrize("state", ["under way", "waiting for a token", "parked"])
def test_a_group_that_runs_does_not_start_again_until_it_has_ended(state: str):
    bench = Bench()
    bench.add("a")
    first = bench.next()
    if state == "parked":
        bench.lane.park(first)
    if state == "waiting for a token":
        bench.wait(first, Quota.TAGS)
    bench.add("a", Trigger.SWEEP)
    bench.add("a", Trigger.REQUEST)
    if state == "waiting for a token":
        assert bench.next() is first
    assert bench.lane.next(bench.now + 60) is None
    assert bench.lane.ready_at() is None
    if state == "parked":
        bench.lane.unpark()
    bench.finish(first)
    again = bench.next()
    assert [d.offset for d in first.deliveries] == [0]
    assert [d.offset for d in again.deliveries] == [1, 2]
    assert isinstance(again.command, EnsureCommand)
    assert again.command.trigger is Trigger.REQUEST
    bench.finish(again)
    assert bench.lane.is_idle


def test_a_group_asked_for_while_it_runs_is_as_urgent_as_the_most_urgent_of_those_who_ask():
    bench = Bench()
    bench.add("a")
    running = bench.next()
    bench.add("a", Trigger.SWEEP)
    bench.add("a", Trigger.REQUEST)
    bench.add("b", Trigger.CREATED, deferrals=1)
    assert bench.lane.waiting() == {Priority.URGENT: 1, Priority.RETRY: 1, Priority.SWEEP: 0}
    bench.finish(running)
    assert bench.names(2) == "a b"


# -- how many at once


def test_no_more_commands_are_under_way_than_the_limit():
    bench = Bench(max_under_way=2)
    for name in "abc":
        bench.add(name)
    first, _ = bench.next(), bench.next()
    assert bench.lane.running == bench.lane.under_way == 2
    assert bench.lane.next(bench.now + 60) is None
    assert bench.lane.ready_at() is None
    bench.finish(first)
    assert bench.next().key == "c"


@pytest.mark.parametrize("quota", [None, *Quota])
def test_a_command_that_waits_leaves_its_place_to_another(quota: Quota | None):
    bench = Bench(max_under_way=1)
    for name in "ab":
        bench.add(name)
    first = bench.next()
    assert bench.lane.ready_at() is None
    bench.lane.park(first) if quota is None else bench.lane.wait(first, quota)
    assert (bench.lane.running, bench.lane.under_way) == (1, 0)
    second = bench.lane.next(EARLY)  # before there is a token
    assert second is not None
    assert second.key == "b"
    assert bench.lane.next(bench.now + 60) is None, "its token is there, but not its place"


def test_a_command_that_goes_on_with_an_answer_does_so_even_if_that_makes_one_too_many():
    bench = Bench(max_under_way=1)
    for name in "abc":
        bench.add(name)
    first = bench.next()
    bench.lane.park(first)
    second = bench.next()
    bench.lane.unpark()
    assert bench.lane.under_way == 2
    bench.finish(first)
    assert bench.lane.ready_at() is None
    bench.finish(second)
    assert bench.next().key == "c"


def test_a_command_is_started_without_a_token_and_calls_with_one():
    bench = Bench()
    lane = fakes.new_lane(owned_since=START)
    lane.add(ensure(), bench.deliveries.next(), START)
    assert lane.ready_at() == 0.0
    work = lane.next(START)
    assert work is not None
    lane.wait(work, Quota.ASSOCIATE)
    assert lane.next(START + INTERVAL_S - 1e-6) is None
    assert lane.ready_at() == START + INTERVAL_S
    assert lane.next(START + INTERVAL_S) is work


def test_enough_are_started_to_have_one_ready_for_every_token_and_no_more():
    bench = Bench()
    bench.now = EARLY
    for number in range(50):
        bench.add(str(number))
    assert len(bench.start_all()) == AHEAD
    for waiting in range(AHEAD + 1, AHEAD + 10):
        bench.finish(bench.next())  # a token for the first, and another is started in its stead
        assert len(bench.start_all()) == 1
        assert bench.lane.waiting()[Priority.URGENT] == 50 - waiting


def test_commands_on_their_way_to_a_token_count_as_if_they_waited_for_it():
    bench = Bench()
    for number in range(50):
        bench.add(str(number))
    works = [bench.next() for _ in range(AHEAD)]
    assert bench.lane.ready_at() is None
    bench.finish(works[0])  # it needed no call
    bench.next()
    assert bench.lane.ready_at() is None
    bench.lane.park(works[1])  # nor may this one
    bench.next()
    assert bench.lane.ready_at() is None
    bench.lane.unpark()
    assert bench.lane.ready_at() is None


def test_those_who_wait_for_a_token_and_those_on_their_way_to_it_are_counted_together():
    bench = Bench()
    bench.now = EARLY
    for number in range(50):
        bench.add(str(number))
    works = [bench.next() for _ in range(AHEAD)]
    for work in works[:3]:
        bench.wait(work)
    assert bench.lane.next(bench.now) is None
    bench.finish(works[3])
    assert bench.lane.next(bench.now) is not None
    assert bench.lane.next(bench.now) is None


def test_a_group_asked_for_while_it_runs_has_waited_since_the_end_of_that_run():
    bench = Bench()
    bench.add("a")
    work = bench.next()
    bench.add("a")
    bench.now += 10
    bench.finish(work)
    assert bench.lane.oldest_since() == START + 10


@pytest.mark.parametrize("quota", [Quota.TAGS, Quota.DESCRIBE])
def test_of_those_who_wait_for_a_look_up_two_are_enough(quota: Quota):
    bench = Bench()
    bench.now = EARLY
    for number in range(50):
        bench.add(str(number))
    for _ in range(2):
        bench.wait(bench.next(), quota)
    assert bench.lane.next(bench.now) is None
    assert bench.lane.ready_at() is not None


def test_the_urgent_are_started_at_once_however_many_sweeps_wait_for_tokens():
    bench = Bench()
    bench.now = EARLY
    for number in range(50):
        bench.add(str(number), Trigger.SWEEP)
    assert len(bench.start_all()) == AHEAD
    bench.add("event")
    assert [work.key for work in bench.start_all()] == ["event"]
    assert bench.next().key == "event"


def test_a_lane_does_not_start_commands_without_end_and_keeps_room_for_the_urgent():
    bench = Bench()
    for number in range(1000):
        bench.add(str(number), Trigger.SWEEP)
    started = []
    while (work := bench.lane.next(bench.now)) is not None:
        started.append(work)
        bench.lane.has_session()
        bench.lane.park(work)
    assert len(started) == lanes._MAX_RUNNING_NOT_URGENT < 500
    for number in range(1000, 2000):
        bench.add(str(number))
    assert bench.next().key == "1000"
    bench.lane.park(bench.lane._running["1000"])
    while (work := bench.lane.next(bench.now)) is not None:
        assert work.command.priority is Priority.URGENT
        bench.lane.park(work)
    assert bench.lane.running == lanes._MAX_RUNNING < 500
    assert bench.lane.ready_at() is None


# -- who goes first


def test_sweeps_that_were_started_and_made_no_call_are_not_held_against_the_next():
    def served(interruptions: int) -> str:
        bench = Bench()
        for number in range(20):
            bench.add(f"sweep-{number}", Trigger.SWEEP)
        bench.now += 400  # they are as urgent as anything now, one in six calls is theirs
        for _ in range(interruptions):
            bench.start_all()
            for work in reversed(bench.lane.give_up_waits()):
                bench.lane.put_back(work, is_first=True)
            bench.waits.clear()
        for number in range(30):
            bench.add(f"event-{number}")
        return bench.names(30)

    assert served(interruptions=20) == served(interruptions=0)


def test_the_urgent_go_before_retries_and_those_before_sweeps():
    bench = Bench()
    bench.add("sweep", Trigger.SWEEP)
    bench.add("retry", deferrals=1)
    bench.add("event")
    bench.add("request", Trigger.REQUEST)
    assert bench.names(4) == "event request retry sweep"


def test_those_who_wait_for_a_token_get_it_in_the_order_of_their_urgency_and_not_of_their_start():
    bench = Bench()
    for name, trigger, deferrals in (
        ("sweep", Trigger.SWEEP, 0),
        ("retry", Trigger.CREATED, 1),
        ("event", Trigger.CREATED, 0),
        ("event2", Trigger.CREATED, 0),
    ):
        bench.add(name, trigger, deferrals=deferrals)
        work = bench.lane.next(EARLY)
        assert work is not None
        bench.wait(work)
    assert [bench.next().key for _ in range(4)] == ["event", "event2", "retry", "sweep"]


def test_a_waiting_sweep_that_somebody_asks_for_goes_with_the_urgent():
    bench = Bench()
    for name in ("s1", "s2", "s3"):
        bench.add(name, Trigger.SWEEP)
    bench.add("event")
    bench.add("s2", Trigger.REQUEST)
    assert bench.lane.waiting() == {Priority.URGENT: 2, Priority.RETRY: 0, Priority.SWEEP: 2}
    assert bench.names(4) == "event s2 s1 s3"
    assert bench.lane.is_idle


def test_a_sweep_that_waits_for_its_token_does_so_as_urgently_as_those_who_ask_for_it_meanwhile():
    bench = Bench()
    bench.now = START - 0.01
    for name in ("s1", "s2", "s3"):
        bench.add(name, Trigger.SWEEP)
    assert len(bench.start_all()) == 3
    bench.now += 0.005
    bench.add("event")
    bench.add("s2", Trigger.REQUEST)
    bench.add("s3", Trigger.SWEEP)
    assert [bench.call().key for _ in range(4)] == ["s2", "event", "s1", "s3"]


def test_how_urgent_a_command_was_for_those_who_waited_for_it_is_forgotten_when_it_is_put_back():
    bench = Bench()
    bench.add("leader", Trigger.SWEEP)
    work = bench.next()
    bench.lane.promote(work, Priority.URGENT)
    bench.lane.put_back(work)
    bench.add("retry", deferrals=1)
    assert bench.lane.waiting() == {Priority.URGENT: 0, Priority.RETRY: 1, Priority.SWEEP: 1}
    assert bench.names(2) == "retry leader"


def test_a_command_is_not_worked_again_for_the_place_it_left_in_another_queue():
    bench = Bench()
    for trigger, deferrals in ((Trigger.SWEEP, 0), (Trigger.CREATED, 1), (Trigger.CREATED, 0)):
        bench.add("a", trigger, deferrals=deferrals)
    work = bench.call()
    assert bench.lane.next(bench.now + 60) is None
    bench.lane.put_back(work)
    bench.add("b", Trigger.SWEEP)
    assert bench.names(2) == "a b"
    assert bench.lane.next(bench.now + 60) is None
    bench.add("a", Trigger.SWEEP)
    bench.add("c")
    assert bench.names(2) == "c a"


@pytest.mark.parametrize(("trigger", "deferrals"), [(Trigger.SWEEP, 0), (Trigger.CREATED, 1)])
def test_nothing_starves_under_a_flood_of_urgent_work(trigger: Trigger, deferrals: int):
    bench = Bench()
    bench.add("patient", trigger, deferrals=deferrals)
    patience_s = PATIENCE_S[ensure(trigger=trigger, deferrals=deferrals).priority]
    arrived, number, added_at = START, 0, {}
    while True:
        while arrived <= bench.now + INTERVAL_S:  # ten a second, twice what is served
            bench.lane.add(ensure(str(number)), bench.deliveries.next(), arrived)
            added_at[str(number)] = arrived
            arrived, number = arrived + 0.1, number + 1
        work = bench.call()
        bench.finish(work)
        if work.key == "patient":
            break
        assert added_at[work.key] <= START + patience_s
    assert bench.now >= START + patience_s


@pytest.mark.parametrize("waited_s", [0, 250, 301, 1000])
@pytest.mark.parametrize(("trigger", "deferrals"), [(Trigger.SWEEP, 0), (Trigger.CREATED, 1)])
def test_an_urgent_command_waits_for_two_others_at_most_however_many_have_lost_their_patience(
    waited_s: float, trigger: Trigger, deferrals: int
):
    bench = Bench()
    for number in range(10_000):
        bench.add(str(number), trigger, deferrals=deferrals)
    while bench.now < START + waited_s:
        bench.finish(bench.call())
    bench.add("urgent")
    assert "urgent" in bench.names(3).split()


def test_of_those_who_have_lost_their_patience_so_many_go_that_half_of_the_calls_are_for_the_urgent():
    bench = Bench()
    for number in range(2000):
        bench.add(f"sweep-{number}", Trigger.SWEEP)
        bench.add(f"retry-{number}", deferrals=1)
    bench.now += 1000  # nothing was called: an outage, or another owner
    counts: Counter[str] = Counter()
    for number in range(1000):
        if number % 2:
            bench.add(f"event-{number}")
        counts[bench.names(1).split("-")[0]] += 1
    assert counts["event"] == pytest.approx(500, abs=20)
    assert counts["retry"] == pytest.approx(333, abs=30)
    assert counts["sweep"] == pytest.approx(167, abs=30)


def test_what_a_class_was_served_while_nobody_else_called_is_held_against_it_for_a_minute():
    bench = Bench()
    for number in range(5000):
        bench.add(f"sweep-{number}", Trigger.SWEEP)
    while bench.now < START + 600:
        bench.finish(bench.call())
    began, served = bench.now, 0
    arrived, number = began, 0
    while bench.now < began + 200:
        while arrived <= bench.now + INTERVAL_S:  # more events than can be served
            bench.lane.add(ensure(f"event-{number}"), bench.deliveries.next(), arrived)
            arrived, number = arrived + 0.1, number + 1
        served += bench.names(1).startswith("sweep")
    assert 30 <= served <= 200


# -- the pace


def test_calls_are_as_far_apart_as_the_quota_wants():
    bench = Bench()
    for number in range(10):
        bench.add(str(number))
    times = []
    for _ in range(10):
        bench.call()
        times.append(bench.now)
    assert times == pytest.approx([START + n * INTERVAL_S for n in range(10)])


def test_each_quota_is_spent_by_itself():
    bench = Bench()
    bench.now = EARLY
    works = []
    for number in range(6):
        bench.add(str(number))
        works.append(bench.next())
        if number >= 3:  # the first three are on their way meanwhile
            bench.lane.park(works[number])
        else:
            bench.wait(works[number], list(Quota)[number])
    for number in range(3, 6):
        bench.lane.unpark()
        bench.wait(works[number], list(Quota)[number - 3])
    times: dict[str, float] = {}
    for _ in range(6):
        name = bench.next().key
        times[name] = round(bench.now - START + INTERVAL_S, 3)  # since the lane is there
    assert times == {"0": 0.2, "1": 0.2, "2": 0.1, "3": 0.4, "4": 0.4, "5": 0.2}


def test_a_look_before_the_time_finds_nothing_and_costs_nothing():
    bench = Bench()
    bench.add("a")
    bench.add("b")
    bench.call()
    bench.start_all()
    ready_at = bench.lane.ready_at()
    assert ready_at is not None
    assert ready_at == pytest.approx(START + INTERVAL_S)
    for now in (START, START + 0.1, ready_at - 1e-6):
        assert bench.lane.next(now) is None
    assert bench.lane.ready_at() == ready_at
    assert bench.lane.next(ready_at) is not None


def test_a_throttle_slows_the_quota_that_it_was_for_and_no_other():
    bench = Bench()
    for name, quota in (("t", Quota.TAGS), ("a", Quota.ASSOCIATE)):
        bench.add(name)
        work = bench.lane.next(EARLY)
        assert work is not None
        bench.wait(work, quota)
    bench.lane.throttled(Quota.TAGS, START)
    assert bench.next().key == "a"
    assert bench.now == START
    assert bench.next().key == "t"
    assert bench.now == START + 2 * INTERVAL_S


def test_where_a_record_says_that_the_lane_was_somebody_elses_no_quota_has_a_token():
    bench = Bench()
    bench.now = EARLY
    for quota in Quota:
        bench.add(quota.value)
        bench.wait(bench.next(), quota)
    bench.lane.add(ensure("first of the new assignment"), Deliveries(owned_since=START + 100).next(), START + 100)
    assert bench.next().key == "first of the new assignment"
    at = bench.lane.ready_at()
    assert at == pytest.approx(START + 100 + 0.1), "a description"
    assert {(bench.next().key, round(bench.now - START, 3)) for _ in Quota} == {
        ("DescribeLogGroups", 100.1),
        ("AssociateKmsKey", 100.2),
        ("ListTagsForResource", 100.2),
    }


def test_a_lane_settles_when_its_slowest_quota_has():
    lane = new_lane()
    assert lane.settles_at(START + 10) == START + 10
    lane.throttled(Quota.DESCRIBE, START + 10)
    assert lane.settles_at(START + 10) == pytest.approx(START + 15)


# -- calling again


def test_a_command_that_calls_again_goes_before_those_that_came_after_it():
    bench = Bench()
    bench.add("again")
    work = bench.call()
    bench.now += 0.01
    for name in "abc":
        bench.add(name)
    bench.lane.park(work)  # for half a second, as its task does
    names = [bench.call().key for _ in range(2)]
    bench.lane.unpark()
    bench.wait(work)
    names += [bench.call().key for _ in range(2)]
    assert names == ["a", "b", "again", "c"]
    assert bench.now == pytest.approx(START + 0.8)


def test_a_command_that_calls_again_waits_for_a_token_like_any_other():
    bench = Bench()
    bench.add("a")
    work = bench.call()
    bench.wait(work)
    assert bench.lane.next(START + 0.1) is None
    assert bench.lane.ready_at() == pytest.approx(START + INTERVAL_S)
    assert bench.next() is work
    assert bench.lane.next(bench.now + 60) is None


def test_those_who_wait_for_tokens_can_be_given_up():
    bench = Bench()
    bench.now = EARLY
    works = []
    for name, quota in zip("abc", Quota, strict=True):
        bench.add(name)
        works.append(bench.next())
        bench.lane.wait(works[-1], quota)
    assert bench.lane.under_way == 0
    assert set(bench.lane.give_up_waits()) == set(works)
    assert bench.lane.under_way == 3
    assert bench.lane.ready_at() is None
    for work in works:
        bench.finish(work)
    assert bench.lane.is_idle
    assert bench.lane.under_way == 0


@pytest.mark.parametrize("quota", Quota)
def test_a_command_that_is_cancelled_while_it_waits_for_a_token_leaves_it_to_the_next(quota: Quota):
    bench = Bench()
    works = []
    for name in "abc":
        bench.add(name)
        work = bench.lane.next(EARLY)
        assert work is not None
        works.append(work)
    for work in works:
        bench.lane.wait(work, quota)
    bench.lane.stop_waiting(works[0])
    assert bench.lane.under_way == 1
    bench.finish(works[0])
    assert (bench.lane.under_way, bench.lane.running) == (0, 2)
    assert [bench.next(), bench.next()] == works[1:]
    assert bench.lane.ready_at() is None


# -- holding


def test_a_lane_that_is_held_starts_nothing_until_the_hold_is_over():
    bench = Bench()
    bench.add("a")
    bench.lane.fault.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    assert bench.lane.next(START + 4.9) is None
    assert bench.lane.ready_at() == bench.lane.fault.held_until == START + 5
    assert bench.lane.fault.reason == "unreachable"
    assert bench.lane.next(START + 5) is not None


def test_commands_that_wait_for_tokens_are_held_too():
    bench = Bench()
    bench.add("a")
    bench.wait(bench.next())
    bench.lane.fault.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    assert bench.lane.next(START + 1) is None
    assert bench.lane.ready_at() == START + 5


def test_each_hold_is_twice_as_long_as_the_last_up_to_the_longest():
    lane, now, lengths = new_lane(), START, []
    for _ in range(7):
        lane.fault.hold(now, "unreachable", first_s=5.0, longest_s=60.0)
        lengths.append(lane.fault.held_until - now)
        now = lane.fault.held_until
    assert lengths == [5, 10, 20, 40, 60, 60, 60]


def test_an_outage_of_weeks_is_only_many_holds():
    lane, now = new_lane(), START
    for _ in range(20_000):  # of a minute
        lane.fault.hold(now, "role-not-assumable", first_s=5.0, longest_s=60.0)
        now = lane.fault.held_until
    assert lane.fault.held_until == now
    lane.fault.release()
    lane.fault.hold(now, "unreachable", first_s=5.0, longest_s=60.0)
    assert lane.fault.held_until == now + 5


def test_a_hold_long_after_another_is_a_first_one():
    fault = new_lane().fault
    fault.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    fault.hold(START + 124, "unreachable", first_s=5.0, longest_s=60.0)
    assert (fault.held_until, fault.lasts_s(START + 125)) == (START + 134, 125)
    fault.hold(START + 255, "role-not-assumable", first_s=5.0, longest_s=60.0)
    assert (fault.held_until, fault.lasts_s(START + 256)) == (START + 260, 1)


def test_commands_that_fail_during_a_hold_do_not_make_it_longer():
    lane = new_lane()
    lane.fault.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    for ms in (0, 1, 4999):
        lane.fault.hold(START + ms / 1000, "unreachable", first_s=5.0, longest_s=60.0)
    assert lane.fault.held_until == START + 5
    lane.fault.hold(START + 5, "unreachable", first_s=5.0, longest_s=60.0)
    assert lane.fault.held_until == START + 15


def test_a_lane_is_held_for_what_held_it_until_another_hold_begins():
    fault = new_lane().fault
    fault.hold(START, "unreachable", "no answer", first_s=5.0, longest_s=60.0)
    fault.hold(START + 1, "registry-unavailable", "away", first_s=5.0, longest_s=60.0)
    assert (fault.reason, fault.detail) == ("unreachable", "no answer")
    fault.hold(START + 5, "registry-unavailable", "away", first_s=5.0, longest_s=60.0)
    assert (fault.reason, fault.detail) == ("registry-unavailable", "away")


def test_a_success_ends_the_hold_and_forgets_how_long_it_was():
    bench = Bench()
    bench.add("a")
    bench.lane.fault.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    bench.lane.fault.hold(START + 5, "unreachable", first_s=5.0, longest_s=60.0)
    bench.lane.fault.release()
    assert bench.lane.fault.reason is None
    assert bench.lane.next(START + 5) is not None
    bench.lane.fault.hold(START + 6, "unreachable", first_s=5.0, longest_s=60.0)
    assert bench.lane.fault.held_until == START + 11


def test_after_a_hold_one_command_tries_before_the_others_follow():
    bench = Bench()
    for name in "abc":
        bench.add(name)
    first = bench.next()
    bench.lane.fault.hold(bench.now, "unreachable", first_s=5.0, longest_s=60.0)
    bench.lane.put_back(first)
    trying = bench.next()
    assert bench.now == pytest.approx(START + 5.0)
    assert bench.lane.ready_at() is None, "a fault that persists takes one place"
    bench.lane.fault.release()
    bench.finish(trying)
    assert {bench.next().key, bench.next().key} | {trying.key} == set("abc")


def test_after_a_hold_one_of_those_who_wait_for_tokens_calls_before_the_others_do():
    bench = Bench()
    for number in range(10):
        bench.add(str(number))
    first = bench.call()
    bench.start_all()
    bench.lane.fault.hold(bench.now, "unreachable", first_s=5.0, longest_s=60.0)
    bench.lane.put_back(first)
    bench.next()
    assert bench.now == START + 5.0
    assert bench.lane.next(bench.now + 60) is None
    assert bench.lane.ready_at() is None


def held_for(bench: Bench, seconds: float) -> None:
    """Hold the lane, again and again, and find the fault still there at the end of it."""
    until = bench.now + seconds
    while bench.now < until:
        bench.lane.fault.hold(bench.now, "role-not-assumable", first_s=5.0, longest_s=60.0)
        bench.now = min(until, bench.lane.fault.held_until)


def test_what_has_waited_too_long_in_a_held_lane_is_taken_out_of_it_oldest_first():
    bench = Bench()
    for name, trigger in (("a", Trigger.SWEEP), ("b", Trigger.CREATED)):
        bench.add(name, trigger)
        bench.now += 1
    held_for(bench, 899)
    bench.add("young")
    assert bench.lane.take_overdue(bench.now, after_s=900) == []
    held_for(bench, 1)
    overdue = bench.lane.take_overdue(bench.now, after_s=900)
    assert [work.key for work in overdue] == ["a", "b"]
    assert (bench.lane.running, bench.lane.under_way) == (2, 2)
    assert sum(bench.lane.waiting().values()) == 1
    for work in overdue:
        bench.finish(work)
    assert bench.lane.under_way == 0
    assert bench.next().key == "young"


def test_a_group_that_is_asked_for_while_its_command_is_taken_out_waits_anew():
    bench = Bench()
    bench.add("a")
    held_for(bench, 900)
    (work,) = bench.lane.take_overdue(bench.now, after_s=900)
    bench.add("a")
    assert bench.lane.next(bench.now) is None, "two for one group"
    bench.finish(work)
    assert bench.lane.take_overdue(bench.now, after_s=900) == []
    assert [d.offset for d in bench.next().deliveries] == [1]


def test_commands_that_wait_for_their_turn_in_a_lane_that_was_held_a_moment_ago_are_not_overdue():
    bench = Bench()
    bench.add("a")
    bench.now += 5000
    bench.lane.fault.hold(bench.now, "unreachable", first_s=5.0, longest_s=60.0)
    assert bench.lane.take_overdue(bench.now, after_s=900) == []
    held_for(bench, 899)
    bench.lane.fault.release()
    bench.lane.fault.hold(bench.now, "unreachable", first_s=5.0, longest_s=60.0)
    bench.now += 5
    assert bench.lane.take_overdue(bench.now, after_s=900) == []


def test_no_more_are_taken_out_than_the_crowd_has_room_for():
    crowd = Crowd(limit=3)
    lane = Lane(LANE, rates_per_s=dict.fromkeys(Quota, 5.0), max_under_way=16, owned_since=START, crowd=crowd)
    deliveries = Deliveries()
    for name in "abcde":
        lane.add(ensure(name), deliveries.next(), START)
    lane.fault.hold(START, "unreachable", first_s=900.0, longest_s=900.0)
    assert len(lane.take_overdue(START + 900, after_s=900)) == 3
    assert crowd.started == 3
    assert lane.take_overdue(START + 900, after_s=900) == []


def test_pages_of_sweeps_stay_in_their_lane_however_long_it_is_held():
    lane = new_lane()
    lane.add(SweepCommand(lane=LANE, sweep_id="s", asked_at_ms=0), untracked(), START)
    lane.fault.hold(START, "unreachable", first_s=900.0, longest_s=900.0)
    assert lane.take_overdue(START + 900, after_s=900) == []
    assert lane.next(START + 900) is not None


def test_a_command_that_is_put_back_waits_its_turn_with_all_that_was_asked_meanwhile():
    bench = Bench()
    for name in "ab":
        bench.add(name, Trigger.SWEEP)
    work = bench.next()
    bench.add("a", Trigger.REQUEST)
    bench.add("a", Trigger.SWEEP)
    bench.lane.put_back(work)
    assert bench.lane.running == bench.lane.under_way == 0
    again = bench.next()
    assert again.key == "a"
    assert [d.offset for d in again.deliveries] == [0, 2, 3]
    assert isinstance(again.command, EnsureCommand)
    assert again.command.trigger is Trigger.REQUEST


def test_a_command_that_had_no_turn_is_put_back_where_it_was():
    bench = Bench()
    for name in "abc":
        bench.add(name)
    first, second = bench.next(), bench.next()
    bench.lane.put_back(second, is_first=True)
    bench.lane.put_back(first, is_first=True)
    assert bench.names(3) == "a b c"


def test_a_command_that_is_put_back_lets_the_others_of_its_class_go_first():
    bench = Bench()
    for name in "abc":
        bench.add(name)
    bench.lane.put_back(bench.next())  # one command that always fails must not be the only one tried
    assert bench.names(3) == "b c a"


# -- letting go


def test_dropping_forgets_all_that_has_not_started_and_nothing_else():
    bench = Bench()
    for name in "abc":
        bench.add(name)
    running = bench.next()
    bench.add("a", Trigger.REQUEST)
    dropped = bench.lane.drop_waiting()
    assert sorted(d.offset for work in dropped for d in work.deliveries) == [1, 2, 3]
    assert bench.lane.running == 1
    assert bench.lane.ready_at() is None
    bench.finish(running)
    assert bench.lane.is_idle
    bench.add("b")
    assert bench.names(1) == "b"
    assert bench.lane.is_idle


def test_what_waits_is_counted_by_urgency_and_by_age():
    bench = Bench()
    assert bench.lane.oldest_since() is None
    bench.add("s", Trigger.SWEEP)
    bench.now += 1
    bench.add("e1")
    bench.now += 1
    bench.add("e2")
    assert bench.lane.waiting() == {Priority.URGENT: 2, Priority.RETRY: 0, Priority.SWEEP: 1}
    assert bench.lane.oldest_since() == START
    bench.add("s", Trigger.REQUEST)  # now last among the urgent, and still the oldest
    assert bench.lane.waiting() == {Priority.URGENT: 3, Priority.RETRY: 0, Priority.SWEEP: 0}
    assert bench.lane.oldest_since() == START
    for name in ("e1", "e2", "s"):
        work = bench.next()
        assert work.key == name
        bench.finish(work)
    assert bench.lane.oldest_since() is None


def test_a_lane_may_be_as_fast_as_it_is_told():
    lane = fakes.new_lane(owned_since=START, rate_per_s=2.5)
    lane.add(ensure(), Deliveries().next(), START)
    work = lane.next(START)
    assert work is not None
    lane.wait(work, Quota.ASSOCIATE)
    assert lane.ready_at() == START + 0.4


def test_lanes_that_share_a_crowd_start_few_commands_each_when_it_is_full():
    crowd = Crowd(5)
    rates_per_s = {Quota.ASSOCIATE: 5.0, Quota.TAGS: 5.0, Quota.DESCRIBE: 10.0}
    crowded = [
        Lane(lane_number(n), rates_per_s=rates_per_s, max_under_way=16, owned_since=START, crowd=crowd)
        for n in range(3)
    ]
    deliveries = Deliveries()
    for lane in crowded:
        for number in range(10):
            lane.add(ensure(str(number), lane=lane.id), deliveries.next(), START)
    started: dict[object, list[Work]] = {lane.id: [] for lane in crowded}
    for lane in crowded:
        while (work := lane.next(START)) is not None:
            started[lane.id].append(work)
    assert [len(works) for works in started.values()] == [5, 2, 2]
    assert crowd.started == 9
    first, *_ = crowded
    for work in started[first.id]:
        first.finish(work, START)
    assert crowd.started == 4
    assert first.ready_at() is not None
