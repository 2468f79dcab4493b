"""What a lane and a schedule say of themselves, in virtual time."""

import pytest

from service.domain import log_group
from service.domain.command import Priority, Trigger
from service.domain.lane import Lane
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.domain.status import Hold, LanesStatus, LaneStatus, Trouble
from service.domain.work import Work
from tests.support import fakes
from tests.support.fakes import LANE, OTHER_LANE, Deliveries, ensure, lane_number

START = 1000.0
NOTHING = dict.fromkeys(Priority, 0)
URGENT, RETRY, SWEEP = Priority


def new_lane(lane: log_group.Lane = LANE, owned_since: float = START) -> Lane:
    return fakes.new_lane(lane, owned_since)


def add(lane: Lane, *names: str, trigger: Trigger = Trigger.CREATED, at: float = START, deferrals: int = 0) -> None:
    deliveries = Deliveries()
    for name in names:
        lane.add(ensure(name, trigger, deferrals=deferrals), deliveries.next(), at)


def start(lane: Lane, now: float) -> Work:
    work = lane.next(now)
    assert work is not None
    return work


def status_of(number: int = 0, *, waiting: int = 0, in_flight: int = 0, hold: Hold | None = None, **more) -> LaneStatus:
    return LaneStatus(
        lane=lane_number(number),
        waiting=NOTHING | {URGENT: waiting},
        in_flight=in_flight,
        rate_per_s=5.0,
        ceiling_per_s=5.0,
        hold=hold,
        **more,
    )


# -- one lane


def test_a_lane_without_work_has_nothing_to_say_but_its_rate():
    assert new_lane().status(START) == LaneStatus(
        lane=LANE, waiting=NOTHING, in_flight=0, rate_per_s=5.0, ceiling_per_s=5.0
    )


def test_what_waits_is_counted_by_priority_and_what_has_started_apart_from_it():
    lane = new_lane()
    add(lane, "a", "b", "c")
    add(lane, "d", "e", deferrals=1)
    add(lane, "f", trigger=Trigger.SWEEP)
    start(lane, START + 1)
    status = lane.status(START + 1)
    assert status.waiting == {URGENT: 2, RETRY: 2, SWEEP: 1}
    assert (status.in_flight, status.total_waiting) == (1, 5)


def test_a_group_that_became_more_urgent_is_counted_once_and_as_what_it_is_now():
    lane = new_lane()
    add(lane, "a", trigger=Trigger.SWEEP)
    add(lane, "a")
    assert lane.status(START).waiting == {URGENT: 1, RETRY: 0, SWEEP: 0}


def test_a_group_asked_for_again_while_it_runs_is_in_flight_and_waits_too():
    lane = new_lane()
    add(lane, "a")
    start(lane, START + 1)
    add(lane, "a", trigger=Trigger.SWEEP, at=START + 2)
    status = lane.status(START + 5)
    assert (status.in_flight, status.waiting[SWEEP], status.oldest_waiting_s) == (1, 1, 3.0)


@pytest.mark.parametrize("quota", [None, *Quota])
def test_a_command_that_waits_for_a_token_or_an_answer_is_in_flight(quota: Quota | None):
    lane = new_lane()
    add(lane, "a")
    work = start(lane, START + 1)
    lane.park(work) if quota is None else lane.wait(work, quota)
    assert (lane.status(START + 2).in_flight, lane.status(START + 2).total_waiting) == (1, 0)


def test_the_oldest_is_the_one_that_waits_longest_and_not_the_next_to_start():
    lane = new_lane()
    add(lane, "old", trigger=Trigger.SWEEP)
    add(lane, "new", at=START + 10)
    assert lane.status(START + 15).oldest_waiting_s == 15.0
    assert start(lane, START + 15).key == "new"


def test_a_command_that_is_put_back_is_as_old_as_it_was():
    lane = new_lane()
    add(lane, "a")
    lane.put_back(start(lane, START + 1))
    assert lane.status(START + 3).oldest_waiting_s == 3.0


def test_a_throttle_shows_in_the_rate_until_it_has_recovered():
    lane = new_lane()
    lane.throttled(Quota.ASSOCIATE, START + 1)
    at_once, later, recovered = (lane.status(START + s) for s in (1, 3, 10))
    assert (at_once.rate_per_s, at_once.throttled_ago_s) == (2.5, 0.0)
    assert 2.5 < later.rate_per_s < 5.0
    assert (recovered.rate_per_s, recovered.ceiling_per_s, recovered.throttled_ago_s) == (5.0, 5.0, 9.0)


def test_the_last_throttle_of_any_quota_is_shown_and_slows_only_its_own():
    lane = new_lane()
    assert lane.status(START).throttled_operation is None
    lane.throttled(Quota.ASSOCIATE, START + 1)
    lane.throttled(Quota.DESCRIBE, START + 7)
    status = lane.status(START + 8)
    assert (status.throttled_ago_s, status.throttled_operation) == (1.0, "DescribeLogGroups")
    assert status.rate_per_s == 5.0


def test_a_held_lane_says_why_and_for_how_long_until_a_call_succeeds():
    lane = new_lane()
    add(lane, "a", "b")
    lane.put_back(start(lane, START + 1))
    lane.fault.hold(START + 1, "unreachable", "no route", first_s=5.0, longest_s=60.0)
    assert lane.status(START + 2).hold == Hold("unreachable", 4.0, "no route")
    assert lane.status(START + 6).hold == Hold("unreachable", 0.0, "no route"), "it tries, and nobody knows yet"
    work = start(lane, START + 6)
    lane.fault.release()
    lane.finish(work, START + 7)
    assert lane.status(START + 7).hold is None


def test_a_lane_whose_calls_come_to_nothing_says_so_once_until_one_does_or_it_is_held_for_it():
    lane = new_lane()
    add(lane, "a", "b")
    work = start(lane, START + 1)
    assert lane.fault.retries(START + 1, "unreachable", "no route")
    assert not lane.fault.retries(START + 3, "service-unavailable", "try later"), "no news"
    status = lane.status(START + 4)
    assert status.trouble == Trouble("service-unavailable", "try later", START + 1)
    assert status.estimated_end_s is None
    assert LanesStatus.of([status]).in_trouble == {"service-unavailable": 1}
    lane.put_back(work)
    lane.fault.hold(START + 4, "unreachable", first_s=5.0, longest_s=60.0)
    assert LanesStatus.of([lane.status(START + 5)]).in_trouble == {}
    lane.fault.release()
    lane.fault.answered()
    assert (lane.status(START + 6).trouble, lane.status(START + 6).estimated_end_s) == (None, 0.4)


def test_a_held_lane_without_work_is_not_held():
    lane = new_lane()
    add(lane, "a")
    work = start(lane, START + 1)
    lane.fault.hold(START + 1, "unreachable", first_s=5.0, longest_s=60.0)
    lane.finish(work, START + 1)
    assert lane.status(START + 2).hold is None


def test_looking_changes_nothing():
    lane, twin = new_lane(), new_lane()
    for each in (lane, twin):
        add(each, "a", "b", trigger=Trigger.SWEEP)
        add(each, "b", "c")
    order = []
    for step in range(3):
        lane.status(START + step)
        order.append((start(lane, START + 1 + step).key, start(twin, START + 1 + step).key))
    assert all(looked_at == left_alone for looked_at, left_alone in order)


# -- when it ends


def test_the_end_is_where_the_last_of_what_waits_has_started():
    lane = new_lane()
    add(lane, *(str(n) for n in range(100)))
    now, waits = START, set[Work]()
    expected = lane.status(START).estimated_end_s
    while (ready_at := lane.ready_at()) is not None:
        now = max(now, ready_at)
        work = start(lane, now)
        if work in waits:
            lane.finish(work, now)
        else:
            lane.wait(work, Quota.ASSOCIATE)
            waits.add(work)
    assert len(waits) == 100
    assert now - START == pytest.approx(expected)


def test_the_end_is_later_at_a_lower_rate():
    slow = status_of(waiting=100)
    assert slow.estimated_end_s == 20.0
    throttled = LaneStatus(lane=LANE, waiting=NOTHING | {SWEEP: 100}, in_flight=0, rate_per_s=2.5, ceiling_per_s=5.0)
    assert throttled.estimated_end_s == 40.0


def test_a_held_lane_has_no_end_since_nobody_knows_when_its_fault_is_mended():
    held = status_of(waiting=100, hold=Hold("unreachable", 30.0))
    assert held.estimated_end_s is None
    assert LanesStatus.of([held, status_of(waiting=100)]).estimated_end_s is None


def test_what_waits_for_nothing_ends_now():
    assert status_of(in_flight=3, hold=Hold("unreachable", 30.0)).estimated_end_s == 0.0


def test_while_the_service_is_paused_only_what_is_empty_has_an_end():
    busy, idle = status_of(waiting=100), status_of(in_flight=3)
    assert LanesStatus.of([busy, idle]).estimated_end_s == busy.estimated_end_s
    paused = LanesStatus.of([busy, idle]).paused()
    assert [lane.estimated_end_s for lane in paused.lanes] == [None, 0.0]
    assert paused.estimated_end_s is None
    assert LanesStatus.of([idle]).paused().estimated_end_s == 0.0


# -- all lanes


def test_a_schedule_without_lanes_has_totals_of_nothing():
    status = Schedule(new_lane=new_lane, max_under_way=8).status(START)
    assert (status.lanes, status.waiting, status.in_flight, status.held) == ([], NOTHING, 0, {})
    assert (status.oldest_waiting_s, status.estimated_end_s) == (None, 0.0)


def test_a_held_lane_comes_before_the_fullest():
    held, full = status_of(1, waiting=1, hold=Hold("unreachable", 5.0)), status_of(2, waiting=100)
    assert LanesStatus.of([full, held]).lanes == [held, full]


def test_the_fullest_lane_comes_first():
    schedule, deliveries = Schedule(new_lane=new_lane, max_under_way=8), Deliveries()
    for lane, count in ((OTHER_LANE, 2), (LANE, 5), (lane_number(7), 1)):
        for n in range(count):
            schedule.add(ensure(str(n), lane=lane), deliveries.next(), START)
    status = schedule.status(START)
    assert [(s.lane, s.total_waiting) for s in status.lanes] == [(LANE, 5), (OTHER_LANE, 2), (lane_number(7), 1)]
    assert status.waiting == {URGENT: 8, RETRY: 0, SWEEP: 0}


def test_lanes_as_full_as_each_other_are_in_order_whenever_one_looks():
    lanes = [status_of(3), status_of(1), status_of(2, in_flight=1)]
    order = [lane_number(n) for n in (2, 1, 3)]
    assert [s.lane for s in LanesStatus.of(lanes).lanes] == order
    assert [s.lane for s in LanesStatus.of(reversed(lanes)).lanes] == order


def test_a_schedule_shows_idle_lanes_until_it_forgets_them():
    schedule, deliveries = Schedule(new_lane=new_lane, max_under_way=8), Deliveries()
    schedule.add(ensure("a"), deliveries.next(), START)
    work = schedule.next(START + 1)
    assert work is not None
    schedule.finish(work, START + 1)
    (idle,) = schedule.status(START + 2).lanes
    assert not idle.has_work
    schedule.next(START + 120)
    assert schedule.status(START + 120).lanes == []


def test_totals_are_over_all_lanes():
    status = LanesStatus.of(
        [
            status_of(0, waiting=10, in_flight=1, oldest_waiting_s=5.0, hold=Hold("unreachable", 30.0)),
            status_of(1, waiting=100, in_flight=2, oldest_waiting_s=60.0),
            status_of(2, in_flight=4, hold=Hold("unreachable", 0.0)),
            status_of(3, waiting=1, oldest_waiting_s=0.5, hold=Hold("role-not-assumable", 2.0)),
        ]
    )
    assert status.waiting[URGENT] == 111
    assert status.in_flight == 7
    assert status.held == {"unreachable": 2, "role-not-assumable": 1}
    assert status.oldest_waiting_s == 60.0
    assert status.estimated_end_s is None, "two lanes with work are held"
