import pytest

from service.domain.command import Priority, Trigger
from service.domain.lane import PATIENCE_S, Lane, Work
from service.domain.pacing import Pacer
from tests.support.fakes import LANE, Deliveries, ensure

START = 1000.0
INTERVAL_S = 0.2


def new_lane(max_running: int = 16) -> Lane:
    """A lane of 5 calls a second, whose first token is there at START."""
    return Lane(LANE, pacer=Pacer(ceiling_per_s=5.0, now=START - INTERVAL_S), max_running=max_running)


class Bench:
    """A lane with a clock that jumps to whenever the lane is ready."""

    def __init__(self, max_running: int = 16) -> None:
        self.lane = new_lane(max_running)
        self.deliveries = Deliveries()
        self.now = START

    def add(self, name: str = "g", trigger: Trigger = Trigger.CREATED, *, deferrals: int = 0) -> None:
        self.lane.add(ensure(name, trigger, deferrals=deferrals), self.deliveries.next(), self.now)

    def start(self) -> Work:
        ready_at = self.lane.ready_at()
        assert ready_at is not None, "nothing to start"
        self.now = max(self.now, ready_at)
        work = self.lane.next(self.now)
        assert work is not None
        return work

    def finish(self, work: Work) -> None:
        self.lane.finish(work, self.now)

    def names(self, count: int) -> str:
        """Start and finish so many, and say which they were."""
        works = []
        for _ in range(count):
            works.append(self.start())
            self.finish(works[-1])
        return " ".join(work.log_group.name for work in works)


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
    work = bench.start()
    assert [d.offset for d in work.deliveries] == [0, 1, 2]
    bench.finish(work)
    assert bench.lane.is_idle


def test_a_group_that_runs_does_not_start_again_until_it_has_ended():
    bench = Bench()
    bench.add("a")
    first = bench.start()
    bench.add("a", Trigger.SWEEP)
    bench.add("a", Trigger.REQUEST)
    assert bench.lane.next(bench.now + 60) is None
    assert bench.lane.ready_at() is None
    bench.finish(first)
    again = bench.start()
    assert [d.offset for d in first.deliveries] == [0]
    assert [d.offset for d in again.deliveries] == [1, 2]
    assert again.command.trigger is Trigger.REQUEST
    bench.finish(again)
    assert bench.lane.is_idle


def test_a_group_asked_for_while_it_runs_is_as_urgent_as_the_most_urgent_of_those_who_ask():
    bench = Bench()
    bench.add("a")
    running = bench.start()
    bench.add("a", Trigger.SWEEP)
    bench.add("a", Trigger.REQUEST)
    bench.add("b", Trigger.CREATED, deferrals=1)
    assert bench.lane.waiting() == {Priority.URGENT: 1, Priority.RETRY: 1, Priority.SWEEP: 0}
    bench.finish(running)
    assert bench.names(2) == "a b"


def test_no_more_commands_run_at_once_than_the_limit():
    bench = Bench(max_running=2)
    for name in "abc":
        bench.add(name)
    first, _ = bench.start(), bench.start()
    assert bench.lane.running == 2
    assert bench.lane.next(bench.now + 60) is None
    assert bench.lane.ready_at() is None
    bench.finish(first)
    assert bench.start().log_group.name == "c"


# -- who goes first


def test_the_urgent_go_before_retries_and_those_before_sweeps():
    bench = Bench()
    bench.add("sweep", Trigger.SWEEP)
    bench.add("retry", deferrals=1)
    bench.add("event")
    bench.add("request", Trigger.REQUEST)
    assert bench.names(4) == "event request retry sweep"


def test_a_waiting_sweep_that_somebody_asks_for_goes_with_the_urgent():
    bench = Bench()
    for name in ("s1", "s2", "s3"):
        bench.add(name, Trigger.SWEEP)
    bench.add("event")
    bench.add("s2", Trigger.REQUEST)
    assert bench.lane.waiting() == {Priority.URGENT: 2, Priority.RETRY: 0, Priority.SWEEP: 2}
    assert bench.names(4) == "event s2 s1 s3"
    assert bench.lane.is_idle


def test_a_command_is_not_worked_again_for_the_place_it_left_in_another_queue():
    bench = Bench()
    for trigger, deferrals in ((Trigger.SWEEP, 0), (Trigger.CREATED, 1), (Trigger.CREATED, 0)):
        bench.add("a", trigger, deferrals=deferrals)
    work = bench.start()
    assert bench.lane.next(bench.now + 60) is None
    bench.lane.put_back(work, bench.now)
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
        work = bench.start()
        bench.finish(work)
        if work.log_group.name == "patient":
            break
        assert added_at[work.log_group.name] <= START + patience_s
    assert bench.now >= START + patience_s


# -- the pace


def test_calls_are_as_far_apart_as_the_quota_wants():
    bench = Bench()
    for number in range(10):
        bench.add(str(number))
    times = []
    for _ in range(10):
        bench.start()
        times.append(bench.now)
    assert times == pytest.approx([START + n * INTERVAL_S for n in range(10)])


def test_a_look_before_the_time_finds_nothing_and_costs_nothing():
    bench = Bench()
    bench.add("a")
    bench.add("b")
    bench.start()
    ready_at = bench.lane.ready_at()
    assert ready_at is not None
    assert ready_at == pytest.approx(START + INTERVAL_S)
    for now in (START, START + 0.1, ready_at - 1e-6):
        assert bench.lane.next(now) is None
    assert bench.lane.ready_at() == ready_at
    assert bench.lane.next(ready_at) is not None


# -- calling again


def test_a_command_that_calls_again_goes_before_new_ones_when_its_time_has_come():
    bench = Bench()
    bench.add("again")
    work = bench.start()
    bench.lane.pause(work, bench.now + 0.5)
    for name in "abc":
        bench.add(name)
    order = [bench.start().log_group.name for _ in range(4)]
    assert order == ["a", "b", "again", "c"]  # at 0.2, 0.4, 0.6 and 0.8 s
    assert bench.now == pytest.approx(START + 0.8)


def test_a_command_that_calls_again_waits_for_a_token_like_any_other():
    bench = Bench()
    bench.add("a")
    work = bench.start()
    bench.lane.pause(work, START)
    assert bench.lane.next(START + 0.1) is None
    assert bench.lane.ready_at() == pytest.approx(START + INTERVAL_S)
    assert bench.start() is work
    assert bench.lane.next(bench.now + 60) is None


def test_commands_that_wait_to_call_again_do_so_in_the_order_of_their_times():
    bench = Bench()
    for name in "abcdef":
        bench.add(name)
    first, *others = [bench.start() for _ in range(6)]
    bench.lane.pause(first, START + 30)
    for work in others:
        bench.lane.pause(work, START + 10)
    assert [bench.start() for _ in range(6)] == [*others, first]
    assert bench.now == START + 30


def test_a_command_that_waits_to_call_again_is_still_running():
    bench = Bench(max_running=1)
    bench.add("a")
    work = bench.start()
    bench.lane.pause(work, START + 10)
    bench.add("a")
    bench.add("b")
    assert bench.lane.next(START + 5) is None
    assert bench.lane.ready_at() == START + 10
    assert not bench.lane.is_idle


def test_those_who_wait_to_call_again_can_be_given_up():
    bench = Bench()
    for name in "ab":
        bench.add(name)
    works = [bench.start(), bench.start()]
    for work in works:
        bench.lane.pause(work, START + 10)
    assert bench.lane.unpause() == works
    assert bench.lane.ready_at() is None
    for work in works:
        bench.finish(work)
    assert bench.lane.is_idle


# -- holding


def test_a_lane_that_is_held_starts_nothing_until_the_hold_is_over():
    bench = Bench()
    bench.add("a")
    bench.lane.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    assert bench.lane.next(START + 4.9) is None
    assert bench.lane.ready_at() == bench.lane.held_until == START + 5
    assert bench.lane.hold_reason == "unreachable"
    assert bench.lane.next(START + 5) is not None


def test_commands_that_wait_to_call_again_are_held_too():
    bench = Bench()
    bench.add("a")
    bench.lane.pause(bench.start(), START + 1)
    bench.lane.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    assert bench.lane.next(START + 1) is None
    assert bench.lane.ready_at() == START + 5


def test_each_hold_is_twice_as_long_as_the_last_up_to_the_longest():
    lane, now, lengths = new_lane(), START, []
    for _ in range(7):
        lane.hold(now, "unreachable", first_s=5.0, longest_s=60.0)
        lengths.append(lane.held_until - now)
        now = lane.held_until
    assert lengths == [5, 10, 20, 40, 60, 60, 60]


def test_an_outage_of_weeks_is_only_many_holds():
    lane, now = new_lane(), START
    for _ in range(20_000):  # of a minute
        lane.hold(now, "role-not-assumable", first_s=5.0, longest_s=60.0)
        now = lane.held_until
    assert lane.held_until == now
    lane.release()
    lane.hold(now, "unreachable", first_s=5.0, longest_s=60.0)
    assert lane.held_until == now + 5


def test_commands_that_fail_during_a_hold_do_not_make_it_longer():
    lane = new_lane()
    lane.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    for ms in (0, 1, 4999):
        lane.hold(START + ms / 1000, "unreachable", first_s=5.0, longest_s=60.0)
    assert lane.held_until == START + 5
    lane.hold(START + 5, "unreachable", first_s=5.0, longest_s=60.0)
    assert lane.held_until == START + 15


def test_a_success_ends_the_hold_and_forgets_how_long_it_was():
    bench = Bench()
    bench.add("a")
    bench.lane.hold(START, "unreachable", first_s=5.0, longest_s=60.0)
    bench.lane.hold(START + 5, "unreachable", first_s=5.0, longest_s=60.0)
    bench.lane.release()
    assert bench.lane.hold_reason is None
    assert bench.lane.next(START + 5) is not None
    bench.lane.hold(START + 6, "unreachable", first_s=5.0, longest_s=60.0)
    assert bench.lane.held_until == START + 11


def test_a_command_that_is_put_back_waits_its_turn_with_all_that_was_asked_meanwhile():
    bench = Bench()
    for name in "ab":
        bench.add(name, Trigger.SWEEP)
    work = bench.start()
    bench.add("a", Trigger.REQUEST)
    bench.add("a", Trigger.SWEEP)
    bench.lane.put_back(work, bench.now)
    assert bench.lane.running == 0
    again = bench.start()
    assert again.log_group.name == "a"
    assert [d.offset for d in again.deliveries] == [0, 2, 3]
    assert again.command.trigger is Trigger.REQUEST


def test_a_command_that_is_put_back_lets_the_others_of_its_class_go_first():
    bench = Bench()
    for name in "abc":
        bench.add(name)
    bench.lane.put_back(bench.start(), bench.now)  # one command that always fails must not be the only one tried
    assert bench.names(3) == "b c a"


# -- letting go


def test_dropping_forgets_all_that_has_not_started_and_nothing_else():
    bench = Bench()
    for name in "abc":
        bench.add(name)
    running = bench.start()
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
    assert bench.names(3) == "e1 e2 s"
    assert bench.lane.oldest_since() is None


def test_after_a_hold_one_command_tries_before_the_others_follow():
    bench = Bench()
    for name in "abc":
        bench.add(name)
    first = bench.start()
    bench.lane.hold(bench.now, "unreachable", first_s=5.0, longest_s=60.0)
    bench.lane.put_back(first, bench.now)
    trying = bench.start()
    assert bench.now == pytest.approx(START + 5.0)
    assert bench.lane.ready_at() is None, "a fault that persists takes one slot"
    bench.lane.release()
    bench.lane.finish(trying, bench.now)
    assert {bench.start().log_group.name, bench.start().log_group.name} | {trying.log_group.name} == set("abc")
