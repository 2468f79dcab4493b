import gc
import heapq
import math
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest

from service.domain import log_group
from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.lane import Crowd, Lane
from service.domain.log_group import AccountId, Region
from service.domain.offsets import OffsetLedger
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.domain.work import Work
from tests.support.fakes import LANE, OTHER_LANE, Deliveries, busiest_second, ensure, lane_number, new_lane
from tests.support.virtual_time import EPOCH_MS

START = 1000.0
INTERVAL_S = 0.2
IDLE_S = 60.0


class Bench:
    """A schedule and a clock, driven as the dispatcher does: nothing is looked at between one wake_at and the next."""

    def __init__(self, max_under_way: int = 256) -> None:
        self.schedule = Schedule(new_lane=new_lane, max_under_way=max_under_way)
        self.deliveries = Deliveries()
        self.now = START
        self.waits: set[Work] = set()

    def add(self, lane: log_group.Lane = LANE, name: str = "g", trigger: Trigger = Trigger.CREATED) -> None:
        self.schedule.add(ensure(name, trigger, lane=lane), self.deliveries.next(), self.now)

    def next(self) -> Work | None:
        """Start what may be started now, each waiting for its token at once, until one has it."""
        while (work := self.schedule.next(self.now)) is not None:
            if work in self.waits:
                self.waits.remove(work)
                return work
            self.wait(work)
        return None

    def wait(self, work: Work, quota: Quota = Quota.ASSOCIATE) -> None:
        self.schedule.wait(work, quota, self.now)
        self.waits.add(work)

    def calls(self) -> list[Work]:
        """All that may call now."""
        works = []
        while (work := self.next()) is not None:
            works.append(work)
        return works

    def sleep(self) -> bool:
        """Move to the time at which the schedule wants to be looked at again; False if there is none."""
        wake_at = self.schedule.wake_at()
        assert wake_at is None or wake_at > self.now, "the timer would fire again and again"
        if wake_at is None:
            return False
        self.now = wake_at
        return True

    def call(self) -> Work:
        """Sleep until one may call."""
        while (work := self.next()) is None:
            assert self.sleep(), "nothing to call"
        return work

    def finish(self, work: Work) -> None:
        self.schedule.finish(work, self.now)

    def work_off(self) -> list[tuple[float, str]]:
        """Start everything there is and end it at once; when, and which."""
        started = []
        while True:
            for work in self.calls():
                started.append((self.now, work.key))
                self.finish(work)
            if not any(not lane.is_idle for lane in self.schedule):
                return started
            assert self.sleep(), "the schedule sleeps for good on commands that wait"


def test_an_empty_schedule_wants_nothing():
    bench = Bench()
    assert bench.schedule.next(START) is None
    assert bench.schedule.wake_at() is None
    assert len(bench.schedule) == 0


# -- whose turn it is


def test_lanes_take_turns_when_fewer_may_call_than_could():
    bench = Bench(max_under_way=1)
    lanes = [lane_number(n) for n in range(3)]
    for lane in lanes:
        for name in "ab":
            bench.add(lane, name)
    bench.now += 60  # every lane could call
    order = []
    for _ in range(6):
        work = bench.call()
        order.append(work.lane)
        bench.now += 1
        bench.finish(work)
    assert order == lanes * 2


def test_a_lane_that_comes_last_is_served_before_the_others_are_served_twice():
    bench = Bench(max_under_way=1)
    for lane in range(10):
        for name in range(100):
            bench.add(lane_number(lane), str(name))
    bench.now += 60
    works = [bench.call()]
    bench.add(OTHER_LANE, "late")
    bench.now += 1
    for _ in range(12):
        bench.finish(works[-1])
        works.append(bench.call())
        bench.now += 1
    lanes = [work.lane for work in works]
    assert OTHER_LANE in lanes
    assert max(Counter(lanes[: lanes.index(OTHER_LANE)]).values()) <= 2


def test_a_lane_with_20_000_groups_waiting_delays_no_other():
    bench = Bench()
    for number in range(20_000):
        bench.add(LANE, str(number), Trigger.SWEEP)
    lanes = [lane_number(n) for n in range(200)]
    started: dict[log_group.Lane, list[float]] = {lane: [] for lane in [LANE, *lanes]}
    asked: dict[log_group.Lane, float] = {}
    delays = []
    end = START + 60
    due = {lane: START + 1 + n / 200 for n, lane in enumerate(lanes)}  # each is asked for something once a second
    while bench.now < end:
        for work in bench.calls():
            lane = work.lane
            started[lane].append(bench.now)
            if lane in asked:
                delays.append(bench.now - asked.pop(lane))
            bench.finish(work)
        next_lane = min(due, key=lambda lane: due[lane])
        wake_at = bench.schedule.wake_at()
        if wake_at is None or due[next_lane] < wake_at:
            bench.now = due[next_lane]
            due[next_lane] += 1.0
            asked[next_lane] = bench.now
            bench.add(next_lane, "trickle")
        else:
            bench.now = wake_at
    assert len(delays) > 200 * 55
    assert max(delays) <= 1e-9, (
        "each lane has been ours for longer than an interval when it is first asked for something"
    )
    assert len(started[LANE]) >= 0.97 * 5 * 60


# -- when to look again


def test_looking_only_when_told_serves_every_lane_at_its_quota():
    bench = Bench()
    for lane in range(20):
        for name in range(50):
            bench.add(lane_number(lane), f"{lane}/{name}")
    started = bench.work_off()
    assert len({name for _, name in started}) == len(started) == 20 * 50
    for lane in range(20):
        times = [at for at, name in started if name.startswith(f"{lane}/")]
        assert busiest_second(times) <= 6
        assert times[-1] - START == pytest.approx(50 * INTERVAL_S)


def test_a_command_for_a_lane_that_waits_for_its_token_does_not_wake_anybody_early():
    bench = Bench()
    for name in "abcde":  # as many as are made ready at once
        bench.add(name=name)
    assert bench.calls() == []
    wake_at = bench.schedule.wake_at()
    assert wake_at == START + INTERVAL_S
    for number in range(100):
        bench.add(name=str(number))
        assert bench.schedule.wake_at() == wake_at
    assert len(bench.schedule._later) == 1  # nor does each leave an entry behind


def test_a_lane_is_looked_at_again_when_its_hold_is_over():
    bench = Bench()
    bench.add()
    work = bench.call()
    lane = bench.schedule.lane_of(work)
    lane.fault.hold(bench.now, "unreachable", first_s=5.0, longest_s=60.0)
    held_at = bench.now
    bench.schedule.put_back(work, bench.now)
    assert bench.call() is work
    assert bench.now == held_at + 5


def test_a_lane_that_is_slowed_down_is_looked_at_again_when_it_may_call():
    bench = Bench()
    for name in "abc":
        bench.add(name=name)
    work = bench.call()
    bench.schedule.throttled(work, Quota.ASSOCIATE, bench.now)
    before = bench.now
    bench.call()
    assert bench.now == pytest.approx(before + 2 * INTERVAL_S)


def test_nothing_is_looked_at_while_all_there_is_is_under_way():
    bench = Bench()
    bench.add()
    work = bench.call()
    bench.add()
    assert bench.schedule.wake_at() is None
    bench.finish(work)
    assert bench.schedule.wake_at() is not None


# -- how many at once


def test_no_more_commands_call_at_once_than_the_limit():
    bench = Bench(max_under_way=3)
    for lane in range(10):
        bench.add(lane_number(lane))
    bench.now += 1
    works = bench.calls()
    assert len(works) == bench.schedule.under_way == 3
    bench.now += 1000
    assert bench.calls() == []
    bench.finish(works[0])
    assert len(bench.calls()) == 1


@pytest.mark.parametrize("quota", Quota)
def test_a_command_that_waits_for_a_token_leaves_its_place_to_others(quota: Quota):
    bench = Bench(max_under_way=1)
    bench.add(LANE, "a")
    bench.add(OTHER_LANE, "b")
    first = bench.schedule.next(bench.now)
    assert first is not None
    assert bench.schedule.next(bench.now) is None
    bench.schedule.wait(first, quota, bench.now)
    assert bench.schedule.under_way == 0
    second = bench.schedule.next(bench.now)
    assert second is not None
    assert second.lane != first.lane
    bench.now += 60
    assert bench.schedule.next(bench.now) is None  # its token is there, but not its place
    bench.finish(second)
    assert bench.schedule.next(bench.now) is first
    assert bench.schedule.under_way == 1


def test_a_command_that_waits_for_an_answer_leaves_its_place_and_takes_one_when_it_goes_on():
    bench = Bench(max_under_way=1)
    bench.add(LANE, "a")
    bench.add(OTHER_LANE, "b")
    bench.add(OTHER_LANE, "c")
    first = bench.schedule.next(bench.now)
    assert first is not None
    bench.schedule.park(first, bench.now)
    second = bench.schedule.next(bench.now)
    assert second is not None
    bench.schedule.unpark(first)
    assert bench.schedule.under_way == 2, "one too many, for a moment"
    bench.finish(second)
    assert bench.schedule.next(bench.now) is None
    assert bench.schedule.wake_at() is None or (bench.schedule.wake_at() or 0) > bench.now
    bench.finish(first)
    assert bench.schedule.next(bench.now) is not None


def test_a_command_that_is_cancelled_while_it_waits_for_a_token_has_a_place_until_its_end():
    bench = Bench(max_under_way=1)
    bench.add(LANE, "a")
    bench.add(OTHER_LANE, "b")
    first = bench.schedule.next(bench.now)
    assert first is not None
    bench.schedule.wait(first, Quota.ASSOCIATE, bench.now)
    bench.schedule.stop_waiting(first)
    assert bench.schedule.under_way == 1
    bench.now += 60
    assert bench.schedule.next(bench.now) is None
    bench.finish(first)
    assert bench.schedule.under_way == 0
    assert bench.schedule.next(bench.now) is not first
    assert LANE in {lane.id for lane in bench.schedule if lane.is_idle}


# -- Regions


SICK, WELL = Region("eu-central-1"), Region("ap-southeast-2")


def lane_in(region: Region, number: int) -> log_group.Lane:
    return log_group.Lane(AccountId(f"{number:012}"), region)


def test_one_region_leaves_a_quarter_of_the_places_to_the_others():
    bench = Bench(max_under_way=8)
    for number in range(20):
        bench.add(lane_in(SICK, number))
    bench.add(lane_in(WELL, 0), "first")
    bench.now += 1
    assert Counter(work.lane.region for work in bench.calls()) == {SICK: 6, WELL: 1}
    bench.now += 1000
    assert bench.calls() == []
    assert bench.schedule.wake_at() is None, "the timer would fire again and again"
    bench.add(lane_in(WELL, 0), "second")
    assert [work.key for work in bench.calls()] == ["second"]


@pytest.mark.parametrize("sick", [1, 2, 5, 20])
def test_several_sick_regions_together_leave_places_to_the_others(sick):
    bench = Bench(max_under_way=256)
    for number in range(sick * 100):
        bench.add(lane_in(Region(f"eu-sick-{number % sick}"), number))
    bench.add(lane_in(WELL, 0), "first")
    bench.now += 1
    places = Counter(work.lane.region for work in bench.calls())
    assert places.pop(WELL) == 1
    assert max(places.values()) - min(places.values()) <= 1, "they have as many each"
    for number in range(5):
        bench.add(lane_in(WELL, 1 + number), "another")
    bench.now += 1
    assert {work.lane.region for work in bench.calls()} == {WELL}


def test_a_region_that_is_alone_has_all_places():
    bench = Bench(max_under_way=8)
    for number in range(20):
        bench.add(lane_in(SICK, number))
    bench.now += 1
    assert len(bench.calls()) == 8


def test_a_region_has_all_places_again_when_the_lanes_of_the_others_are_forgotten():
    bench = Bench(max_under_way=8)
    bench.add(lane_in(WELL, 0))
    bench.finish(bench.call())
    for number in range(20):
        bench.add(lane_in(SICK, number))
    bench.now += 1
    assert len(bench.calls()) == 6
    while len(works := bench.calls()) == 0:
        assert bench.sleep()
    assert len(works) == 2
    assert bench.now <= START + 2 + IDLE_S


def test_a_place_that_becomes_free_in_a_region_with_its_share_goes_to_its_next_lane():
    bench = Bench(max_under_way=8)
    bench.add(lane_in(WELL, 0))
    for number in range(20):
        bench.add(lane_in(SICK, number))
    bench.now += 1
    seen = bench.calls()
    works = [work for work in seen if work.lane.region == SICK]
    while works:
        bench.finish(works.pop(0))
        bench.now += 0.01
        seen += (next_ones := bench.calls())
        works += next_ones
    assert len({(work.lane, work.key) for work in seen}) == len(seen) == 21


def test_regions_take_turns_when_fewer_may_call_than_could():
    bench = Bench(max_under_way=1)
    for number in range(10):
        bench.add(lane_in(SICK, number))
    for name in "abc":
        bench.add(lane_in(WELL, 0), name)
    bench.calls()
    bench.now += 60
    regions = []
    for _ in range(6):
        work = bench.call()
        regions.append(work.lane.region)
        bench.now += 1
        bench.finish(work)
    assert regions == [SICK, WELL] * 3


@pytest.mark.parametrize("hang_s", [10.0, 60.0])
def test_a_region_whose_calls_hang_costs_the_others_none_of_their_quota(hang_s: float):
    bench = Bench()
    lanes = 100
    for number in range(lanes):
        for name in range(150):
            bench.add(lane_in(SICK, number), str(name))
            bench.add(lane_in(WELL, number), str(name))
    ends: list[tuple[float, int, Work]] = []
    called: dict[log_group.Lane, list[float]] = {lane_in(WELL, number): [] for number in range(lanes)}
    serial = 0
    while bench.now < START + 25:
        for work in bench.calls():
            serial += 1
            is_well = work.lane.region == WELL
            heapq.heappush(ends, (bench.now + (0.1 if is_well else hang_s), serial, work))
            if is_well:
                called[work.lane].append(bench.now - START)
        wake_at = bench.schedule.wake_at()
        assert wake_at is None or wake_at > bench.now
        bench.now = min(ends[0][0] if ends else math.inf, math.inf if wake_at is None else wake_at)
        while ends and ends[0][0] <= bench.now:
            bench.finish(heapq.heappop(ends)[2])
    for times in called.values():
        for second in range(24):  # from the first on; a lane begins without a token
            window = [at for at in times if second < at <= second + 1 + 1e-6]
            assert len(window) >= 4 + (second > 0), f"in second {second}"
        assert len(times) >= 0.97 * 5 * 25


# -- which lanes there are


def test_an_idle_lane_is_forgotten_once_its_pace_is_normal_again():
    bench = Bench()
    bench.add()
    work = bench.call()
    bench.schedule.throttled(work, Quota.ASSOCIATE, bench.now)
    bench.finish(work)
    settled = bench.now + 5
    assert bench.sleep()
    assert bench.now == pytest.approx(settled + IDLE_S)
    assert bench.calls() == []
    assert len(bench.schedule) == 0
    assert bench.schedule.wake_at() is None


def test_a_lane_that_gets_work_in_time_is_kept_and_forgotten_later():
    bench = Bench()
    bench.add()
    bench.finish(bench.call())
    bench.now += IDLE_S - 1
    bench.add()
    bench.finish(bench.call())
    assert (bench.schedule.wake_at() or 0) > bench.now + IDLE_S
    bench.now += 2  # the time at which it would have been forgotten is past
    assert bench.calls() == []
    assert len(bench.schedule) == 1
    while bench.sleep():
        assert bench.calls() == []
    assert len(bench.schedule) == 0


@pytest.mark.parametrize("state", ["waiting", "held", "under way", "waiting for a token", "parked", "dirty"])
def test_a_lane_is_not_forgotten_while_anything_is_in_it(state: str):
    bench = Bench(max_under_way=1)
    bench.add()
    if state == "waiting":
        bench.add(OTHER_LANE)
        bench.now += 1
        bench.calls()  # the other lane's turn never ends
    elif state == "held":
        next(iter(bench.schedule)).fault.hold(bench.now, "unreachable", first_s=1e9, longest_s=1e9)
    else:
        work = bench.call()
        if state == "waiting for a token":
            bench.wait(work)
        if state == "parked":
            bench.schedule.park(work, bench.now)
        if state == "dirty":
            bench.add()
    for _ in range(100):
        bench.now += 1000
        bench.calls()
        assert LANE in {lane.id for lane in bench.schedule}


def test_bad_input_does_not_pile_up_lanes():
    bench = Bench()
    for number in range(5000):
        bench.add(lane_number(number))
        bench.now += 0.1
        for work in bench.calls():
            bench.finish(work)
        assert len(bench.schedule) <= (IDLE_S + 1) / 0.1
    bench.work_off()
    while bench.sleep():
        bench.calls()
    assert len(bench.schedule) == 0


# -- letting go


def test_dropping_leaves_what_is_under_way_or_parked_and_hands_back_what_waits_for_tokens():
    bench = Bench()
    for name in "abcdefghijkl":
        bench.add(name=name)
        bench.add(OTHER_LANE, name)
    calling, parked = bench.call(), bench.call()
    bench.schedule.park(parked, bench.now)
    bench.calls()
    waiting = set(bench.waits)
    assert {work.lane for work in waiting} == {LANE, OTHER_LANE}
    given_up = bench.schedule.drop(bench.now)
    assert set(given_up) == waiting
    assert len(given_up) == len(waiting)
    assert bench.schedule.under_way == 1 + len(waiting)
    bench.now += 100
    assert bench.calls() == []
    bench.schedule.unpark(parked)
    for work in (*given_up, parked, calling):
        bench.finish(work)
    assert bench.schedule.under_way == 0
    assert all(lane.is_idle for lane in bench.schedule)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_lane_that_was_somebody_elses_begins_without_a_token_and_a_new_one_counts_from_the_same_moment(is_known):
    bench = Bench()
    if is_known:
        bench.add()
    bench.now += 100
    bench.schedule.drop(bench.now)
    bench.deliveries = Deliveries(owned_since=bench.now)
    bench.now += INTERVAL_S / 2
    bench.add()
    bench.call()
    assert bench.now == START + 100 + INTERVAL_S


def test_a_lane_that_stays_ours_keeps_its_pace_when_all_is_dropped():
    bench = Bench()
    bench.add(name="a")
    bench.call()
    called_at = bench.now
    bench.now += INTERVAL_S / 4
    bench.schedule.drop(bench.now)
    bench.add(name="b")
    bench.call()
    assert bench.now == pytest.approx(called_at + INTERVAL_S)


# -- what it costs


def test_a_command_that_waits_costs_less_than_a_kilobyte():
    # So 100,000 of them, the default limit of a replica, fit in 100 MB. Fewer here: tracemalloc is slow.
    lanes, names = 40, [f"/aws/lambda/some-service-of-a-tenant-{number:05}" for number in range(250)]
    wire = [
        replace(
            ensure(name, lane=lane_number(lane), at_ms=EPOCH_MS), origin=Origin("logwarden.events", 3, lane)
        ).to_bytes()
        for lane in range(lanes)
        for name in names
    ]
    schedule = Schedule(new_lane=new_lane, max_under_way=256)
    ledger = OffsetLedger()
    gc.collect()
    tracemalloc.start()
    try:
        for offset, value in enumerate(wire):
            schedule.add(EnsureCommand.from_bytes(value), ledger.see(offset), START)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sum(lane.waiting().values()) for lane in schedule) == len(wire) == 10_000
    assert size < 1000 * len(wire)


# -- a crowd


def test_a_lane_that_a_full_crowd_refused_is_looked_at_when_there_is_room_though_none_of_its_own_has_ended():
    crowd = Crowd(limit=6)
    rates = dict.fromkeys(Quota, 5.0)
    schedule = Schedule(
        new_lane=lambda lane, at: Lane(lane, rates_per_s=rates, max_under_way=16, owned_since=at, crowd=crowd),
        max_under_way=256,
    )
    deliveries, now = Deliveries(), 1000.0

    def started(lane: log_group.Lane, count: int) -> list[Work]:
        works = []
        for number in range(count):
            schedule.add(ensure(str(number), lane=lane), deliveries.next(), now)
        while (work := schedule.next(now)) is not None:
            works.append(work)
            schedule.park(work, now)
        return works

    first = started(LANE, 4)
    assert len(first) == 4
    assert len(started(OTHER_LANE, 10)) == 2, "two may start, whatever the crowd"
    assert crowd.is_full
    for work in first[:2]:
        schedule.unpark(work)
        schedule.finish(work, now)
    assert len(started(OTHER_LANE, 0)) == 2
    assert schedule.wake_at() is None
