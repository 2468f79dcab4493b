"""Ensure on the real dispatcher, in virtual time: whatever is slow is waited for without a token, so calls stay apart."""

import asyncio
from itertools import pairwise

import pytest

from service.core.dispatcher import Dispatcher
from service.core.ensure import Ensure, Policy
from service.core.turn import Held, Turn
from service.domain.command import EnsureCommand
from service.domain.outcome import FailureClass
from service.domain.schedule import Schedule
from service.domain.status import LaneStatus
from tests.support.fakes import (
    LANE,
    Deliveries,
    FakeDirectory,
    RecordingObserver,
    TimedLogGroups,
    busiest_second,
    ensure,
    group,
    new_lane,
)
from tests.support.keys import FakeKeys
from tests.support.virtual_time import EPOCH_MS, START_S, VirtualClock, virtual_time

RATE = 5.0


class Bench:
    """A lane whose commands are ensured, `rate_per_s` calls a second; AWS answers in a tenth of a second."""

    def __init__(self, *, rate_per_s: float = RATE, attempts: int = 1) -> None:
        self.directory = FakeDirectory()
        self.log_groups = TimedLogGroups(latency_s=0.1)
        self.observer = RecordingObserver()
        self.deliveries = Deliveries()
        self.ensure = Ensure(
            directory=self.directory,
            log_groups=self.log_groups,
            keys=FakeKeys(takes_any=True),
            clock=VirtualClock(),
            policy=Policy(attempts=attempts, max_wait_s=5.0, observe_after_s=3600.0),
        )
        self.dispatcher = Dispatcher(
            schedule=Schedule(new_lane=lambda lane, at: new_lane(lane, at, rate_per_s=rate_per_s), max_under_way=256),
            work=self._work,
            clock=VirtualClock(),
            hold_s=5.0,
            max_hold_s=60.0,
            on_retry=self.observer.lane_retries,
        )
        self.failures: list[FailureClass] = []

    async def _work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        outcome = await self.ensure(command, turn)
        if outcome.failure is not None:
            self.failures.append(outcome.failure)
        return None

    async def run(self, count: int, *, meanwhile=()) -> list[float]:
        """When the calls for so many new groups were made; `meanwhile` are times (seconds from the start) and what happens then."""
        for number in range(count):
            at_ms = EPOCH_MS + int(START_S * 1000)
            self.dispatcher.submit(ensure(f"g{number}", at_ms=at_ms, shown_key=""), self.deliveries.next())
        loop = asyncio.get_running_loop()
        for at, happen in meanwhile:
            loop.call_at(START_S + at, happen)
        running = asyncio.create_task(self.dispatcher.run())
        while self.deliveries.open:
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
        return [at - START_S for at in self.log_groups.started(LANE)]

    def change(self) -> None:
        """The registry says that it has changed, and whoever wants to know what it says now waits for two seconds."""
        self.directory.is_outdated = True
        self.directory.latency_s = 2.0


@virtual_time
async def test_calls_do_not_come_together_after_a_session_that_was_slow_to_get():
    bench = Bench()
    bench.log_groups.session_s = 3.0
    calls = await bench.run(20)
    assert calls[0] == pytest.approx(3.0, abs=0.05)
    assert busiest_second(calls) <= RATE + 1
    assert calls[-1] <= 3.0 + 20 / RATE


@virtual_time
async def test_calls_do_not_come_together_after_a_look_up_of_the_registry():
    bench = Bench()
    calls = await bench.run(
        40, meanwhile=[(2.0, bench.change), (4.5, lambda: setattr(bench.directory, "latency_s", 0.0))]
    )
    assert len(calls) == 40
    assert busiest_second(calls) <= RATE + 1
    assert min(b - a for a, b in pairwise(calls)) >= 0.49 / RATE


@virtual_time
async def test_a_lane_slower_than_the_registry_forgets_calls_all_the_same():
    bench = Bench(rate_per_s=0.01)
    every_s = 20.0
    outdated = [(every_s * number, lambda: setattr(bench.directory, "is_outdated", True)) for number in range(1, 20)]
    calls = await bench.run(2, meanwhile=outdated)
    assert calls == pytest.approx([100.0, 200.0])


@virtual_time
async def test_a_role_that_cannot_be_assumed_costs_no_token():
    bench = Bench()
    bench.log_groups.session_failure = FailureClass.ROLE_NOT_ASSUMABLE
    assert await bench.run(3) == []
    assert bench.failures == [FailureClass.ROLE_NOT_ASSUMABLE] * 3


@virtual_time
async def test_tags_that_a_command_has_looked_up_before_a_pause_do_not_decide_after_it():
    bench = Bench()
    bench.directory.by_tags = bench.directory.ignored_are_listed = True

    def resume_with_other_tags() -> None:
        bench.log_groups.tags |= {group(f"g{number}"): {"logwarden:ignore": "yes"} for number in range(3)}
        bench.dispatcher.resume()

    calls = await bench.run(3, meanwhile=[(0.45, bench.dispatcher.suspend), (3600.0, resume_with_other_tags)])
    assert len(bench.log_groups.lookups) > 3, "some were looked up before the pause, too"
    assert all(at < 0.45 for at in calls), "they are to be left alone by then"


@virtual_time
async def test_tags_that_decide_are_looked_up_again_before_a_call_is_repeated_after_a_while():
    bench = Bench(attempts=8)
    bench.directory.by_tags = bench.directory.ignored_are_listed = True
    bench.log_groups.failures[group("g0")].extend([FailureClass.OPERATION_ABORTED] * 8)
    retag = {group("g0"): {"logwarden:ignore": "yes"}}
    calls = await bench.run(1, meanwhile=[(1.0, lambda: bench.log_groups.tags.update(retag))])
    assert len(calls) < 8
    assert max(calls) < 1.0 + 3.0 + 1.0
    assert bench.failures == []


@virtual_time
async def test_a_silent_aws_shows_from_the_first_call_that_gets_no_answer_until_one_does():
    bench = Bench(attempts=6)
    bench.log_groups.failure, bench.log_groups.latency_s = FailureClass.UNREACHABLE, 10.0

    def lane() -> LaneStatus:
        [status] = bench.dispatcher.schedule.status(VirtualClock().now()).lanes
        return status

    def answers() -> None:
        shown.append(lane())
        bench.log_groups.failure, bench.log_groups.latency_s = None, 0.1

    shown: list[LaneStatus] = []
    await bench.run(
        100,
        meanwhile=[(5, lambda: shown.append(lane())), (12, answers), (25, lambda: shown.append(lane()))],
    )
    before, silent, after = shown
    assert before.trouble is None, "nobody knows yet"
    assert silent.trouble is not None
    assert (silent.trouble.reason, silent.hold, silent.estimated_end_s) == ("unreachable", None, None)
    assert after.trouble is None
    assert [(where, failure) for where, failure, _ in bench.observer.retries] == [(LANE, FailureClass.UNREACHABLE)]
