import gc
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest

from service.domain import log_group
from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.lane import Lane, Work
from service.domain.offsets import OffsetLedger
from service.domain.pacing import Pacer
from service.domain.schedule import Schedule
from tests.support.fakes import LANE, OTHER_LANE, Deliveries, busiest_second, ensure, lane_number
from tests.support.virtual_time import EPOCH_MS

START = 1000.0
INTERVAL_S = 0.2
IDLE_S = 60.0


def new_lane(lane: log_group.Lane, now: float) -> Lane:
    return Lane(lane, pacer=Pacer(ceiling_per_s=5.0, now=now), max_running=16)


class Bench:
    """A schedule and a clock, driven as the dispatcher does: nothing is looked at between one wake_at and the next."""

    def __init__(self, max_calling: int = 256) -> None:
        self.schedule = Schedule(new_lane=new_lane, max_calling=max_calling)
        self.deliveries = Deliveries()
        self.now = START

    def add(self, lane: log_group.Lane = LANE, name: str = "g", trigger: Trigger = Trigger.CREATED) -> None:
        self.schedule.add(ensure(name, trigger, lane=lane), self.deliveries.next(), self.now)

    def startable(self) -> list[Work]:
        works = []
        while (work := self.schedule.next(self.now)) is not None:
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

    def start(self) -> Work:
        while (work := self.schedule.next(self.now)) is None:
            assert self.sleep(), "nothing to start"
        return work

    def finish(self, work: Work) -> None:
        self.schedule.finish(work, self.now)

    def work_off(self) -> list[tuple[float, str]]:
        """Start everything there is and end it at once; when, and which."""
        started = []
        while True:
            for work in self.startable():
                started.append((self.now, work.log_group.name))
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
    bench = Bench(max_calling=1)
    lanes = [lane_number(n) for n in range(3)]
    for lane in lanes:
        for name in "ab":
            bench.add(lane, name)
    bench.now += 60  # every lane could call
    order = []
    for _ in range(6):
        work = bench.start()
        order.append(work.log_group.lane)
        bench.now += 1
        bench.finish(work)
    assert order == lanes * 2


def test_a_lane_that_comes_last_is_served_before_the_others_are_served_twice():
    bench = Bench(max_calling=1)
    for lane in range(10):
        for name in range(100):
            bench.add(lane_number(lane), str(name))
    bench.now += 60
    works = [bench.start()]
    bench.add(OTHER_LANE, "late")
    bench.now += 1
    for _ in range(12):
        bench.finish(works[-1])
        works.append(bench.start())
        bench.now += 1
    lanes = [work.log_group.lane for work in works]
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
        for work in bench.startable():
            lane = work.log_group.lane
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
    assert max(delays) <= INTERVAL_S + 1e-9  # only the first, since a lane begins without a token
    assert sum(delay > 1e-9 for delay in delays) == len(lanes)
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
    bench.add()
    wake_at = bench.schedule.wake_at()
    assert wake_at == START + INTERVAL_S
    for number in range(100):
        bench.add(name=str(number))
        assert bench.schedule.wake_at() == wake_at
    assert len(bench.schedule._later) == 1  # nor does each leave an entry behind


def test_a_lane_is_looked_at_again_when_its_hold_is_over():
    bench = Bench()
    bench.add()
    work = bench.start()
    lane = bench.schedule.lane_of(work)
    lane.hold(bench.now, "unreachable", first_s=5.0, longest_s=60.0)
    held_at = bench.now
    bench.schedule.put_back(work, bench.now)
    assert bench.start() is work
    assert bench.now == held_at + 5


def test_a_lane_that_is_slowed_down_is_looked_at_again_when_it_may_call():
    bench = Bench()
    for name in "abc":
        bench.add(name=name)
    work = bench.start()
    bench.schedule.lane_of(work).pacer.throttled(bench.now)
    before = bench.now
    bench.start()
    assert bench.now == pytest.approx(before + 2 * INTERVAL_S)


def test_a_token_given_back_is_there_for_the_next_command_at_once():
    bench = Bench()
    for name in "ab":
        bench.add(name=name)
    first = bench.start()
    at = bench.now
    bench.schedule.give_back(first, bench.now)
    assert bench.start().log_group.name == "b"
    assert bench.now == at


def test_nothing_is_looked_at_while_all_there_is_is_under_way():
    bench = Bench()
    bench.add()
    work = bench.start()
    bench.add()
    assert bench.schedule.wake_at() is None
    bench.finish(work)
    assert bench.schedule.wake_at() is not None


# -- how many at once


def test_no_more_commands_call_at_once_than_the_limit():
    bench = Bench(max_calling=3)
    for lane in range(10):
        bench.add(lane_number(lane))
    bench.now += 1
    works = bench.startable()
    assert len(works) == bench.schedule.calling == 3
    bench.now += 1000
    assert bench.startable() == []
    bench.finish(works[0])
    assert len(bench.startable()) == 1


def test_a_command_that_waits_to_call_again_leaves_its_place_to_others():
    bench = Bench(max_calling=1)
    bench.add(LANE, "a")
    bench.add(OTHER_LANE, "b")
    first = bench.start()
    bench.schedule.pause(first, bench.now + 30, bench.now)
    assert bench.schedule.calling == 0
    second = bench.start()
    assert second.log_group.lane != first.log_group.lane
    bench.now += 60
    assert bench.startable() == []  # its time has come, but not its place
    bench.finish(second)
    assert bench.startable() == [first]
    assert bench.schedule.calling == 1


# -- which lanes there are


def test_an_idle_lane_is_forgotten_once_its_pace_is_normal_again():
    bench = Bench()
    bench.add()
    work = bench.start()
    bench.schedule.lane_of(work).pacer.throttled(bench.now)
    bench.finish(work)
    settled = bench.now + 5
    assert bench.sleep()
    assert bench.now == pytest.approx(settled + IDLE_S)
    assert bench.startable() == []
    assert len(bench.schedule) == 0
    assert bench.schedule.wake_at() is None


def test_a_lane_that_gets_work_in_time_is_kept_and_forgotten_later():
    bench = Bench()
    bench.add()
    bench.finish(bench.start())
    bench.now += IDLE_S - 1
    bench.add()
    bench.finish(bench.start())
    assert (bench.schedule.wake_at() or 0) > bench.now + IDLE_S
    bench.now += 2  # the time at which it would have been forgotten is past
    assert bench.startable() == []
    assert len(bench.schedule) == 1
    while bench.sleep():
        assert bench.startable() == []
    assert len(bench.schedule) == 0


@pytest.mark.parametrize("state", ["waiting", "held", "calling", "waiting to call again", "dirty"])
def test_a_lane_is_not_forgotten_while_anything_is_in_it(state: str):
    bench = Bench(max_calling=1)
    bench.add()
    if state == "waiting":
        bench.add(OTHER_LANE)
        bench.now += 1
        bench.startable()  # the other lane's turn never ends
    elif state == "held":
        next(iter(bench.schedule)).hold(bench.now, "unreachable", first_s=1e9, longest_s=1e9)
    else:
        work = bench.start()
        if state == "waiting to call again":
            bench.schedule.pause(work, bench.now + 1e9, bench.now)
        if state == "dirty":
            bench.add()
    for _ in range(100):
        bench.now += 1000
        bench.startable()
        assert LANE in {lane.id for lane in bench.schedule}


def test_bad_input_does_not_pile_up_lanes():
    bench = Bench()
    for number in range(5000):
        bench.add(lane_number(number))
        bench.now += 0.1
        for work in bench.startable():
            bench.finish(work)
        assert len(bench.schedule) <= (IDLE_S + 1) / 0.1
    bench.work_off()
    while bench.sleep():
        bench.startable()
    assert len(bench.schedule) == 0


# -- letting go


def test_dropping_leaves_what_is_calling_and_hands_back_what_waits_to_call_again():
    bench = Bench()
    for name in "abc":
        bench.add(name=name)
    for name in "de":
        bench.add(OTHER_LANE, name)
    a, b = bench.start(), bench.start()
    paused, calling = (a, b) if a.log_group.lane == LANE else (b, a)
    bench.schedule.pause(paused, bench.now + 1, bench.now)
    assert bench.schedule.drop(bench.now) == [paused]
    assert bench.schedule.calling == 2
    bench.now += 100
    assert bench.startable() == []
    for work in (paused, calling):
        bench.finish(work)
    assert bench.schedule.calling == 0
    assert all(lane.is_idle for lane in bench.schedule)


def test_after_dropping_every_lane_begins_without_a_token():
    bench = Bench()
    bench.add()
    bench.now += 100
    bench.schedule.drop(bench.now)
    dropped_at = bench.now
    bench.add()
    bench.start()
    assert bench.now == dropped_at + INTERVAL_S


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
    schedule = Schedule(new_lane=new_lane, max_calling=256)
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
