"""Who does not hear from the group makes no calls, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from service.core.dispatcher import Dispatcher
from service.core.fence import Fence
from service.core.turn import Held, Turn
from service.domain.command import EnsureCommand
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from tests.support.fakes import Deliveries, ensure, new_lane
from tests.support.virtual_time import START_S, VirtualClock, virtual_time

LASTS_S, SESSION_S = 7.0, 10.0


class Bench:
    """A fenced dispatcher of one lane at 5 calls a second, each of which takes a tenth of one."""

    def __init__(self, *, latency_s: float = 0.1) -> None:
        self.clock = VirtualClock()
        self.latency_s = latency_s
        self.calls: list[float] = []  # seconds since the start
        self.broken_off: list[float] = []
        self.ended = 0
        self.fence = Fence(clock=self.clock, lasts_s=LASTS_S, session_s=SESSION_S)
        self.dispatcher = Dispatcher(
            schedule=Schedule(new_lane=new_lane, max_under_way=16),
            work=self._work,
            clock=self.clock,
            hold_s=5.0,
            max_hold_s=60.0,
            may_call=self.fence.may_call,
        )
        self.fence.attach(self.dispatcher)

    async def _work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        async with turn.call(Quota.ASSOCIATE):
            self.calls.append(self.now)
            try:
                await asyncio.sleep(self.latency_s)
            except asyncio.CancelledError:
                self.broken_off.append(self.now)
                raise
        self.ended += 1
        return None

    @property
    def now(self) -> float:
        return self.clock.now() - START_S

    @asynccontextmanager
    async def running(self, commands: int = 1000) -> AsyncIterator["Bench"]:
        task = asyncio.create_task(self.dispatcher.run())
        deliveries = Deliveries()
        for number in range(commands):
            self.dispatcher.submit(ensure(str(number)), deliveries.next())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])


@virtual_time
async def test_no_call_is_made_before_the_group_has_confirmed_whose_the_lanes_are():
    async with Bench().running() as bench:
        await asyncio.sleep(60)
        assert bench.calls == []
        bench.fence.proven(bench.clock.now())
        await asyncio.sleep(1)
        assert bench.calls[0] == 60


@virtual_time
async def test_calls_end_when_no_proof_has_come_for_a_while_counted_from_when_it_was_asked_for():
    with capture_logs() as logs:
        async with Bench().running() as bench:
            for _ in range(5):
                asked_at = bench.clock.now()
                await asyncio.sleep(1.5)  # until the answer
                bench.fence.proven(asked_at)
            await asyncio.sleep(60)
    assert 12.5 < bench.calls[-1] < 6 + LASTS_S
    assert bench.ended == len(bench.calls), "what was under way ended as it would"
    assert bench.fence.shut_s is not None
    assert [log["event"] for log in logs] == ["calls_kept_back"]


@virtual_time
async def test_what_hangs_until_the_session_may_have_ended_is_broken_off_and_called_again_after_the_next_proof():
    bench = Bench(latency_s=30.0)
    async with bench.running(commands=1):
        bench.fence.proven(bench.clock.now())
        await asyncio.sleep(5)
        bench.fence.proven(bench.clock.now())
        await asyncio.sleep(9)
        assert bench.broken_off == []
        await asyncio.sleep(1)
        assert bench.broken_off == [pytest.approx(5 + SESSION_S - 0.5)]
        await asyncio.sleep(60)
        assert bench.calls == [pytest.approx(0.2)]
        bench.latency_s = 0.1
        bench.fence.proven(bench.clock.now())
        await asyncio.sleep(1)
        assert (len(bench.calls), bench.ended) == (2, 1)


@virtual_time
async def test_a_refusal_breaks_off_what_is_under_way_and_a_drain_of_the_same_moment_ends_it():
    for is_drained in (False, True):
        bench = Bench(latency_s=30.0)
        async with bench.running(commands=1):
            bench.fence.proven(bench.clock.now())
            await asyncio.sleep(1)
            draining = asyncio.create_task(bench.dispatcher.drain(0)) if is_drained else None
            await asyncio.sleep(0)
            refuted_at = bench.now
            bench.fence.refuted()
            await asyncio.sleep(0.1)
            assert bench.broken_off == [refuted_at]
            assert len(bench.dispatcher.schedule) == 1
            assert [lane.is_idle for lane in bench.dispatcher.schedule] == [is_drained]
            assert draining is None or draining.done()


@virtual_time
async def test_they_go_on_by_themselves_after_the_next_proof():
    with capture_logs() as logs:
        async with Bench().running() as bench:
            bench.fence.proven(bench.clock.now())
            await asyncio.sleep(60)
            before = len(bench.calls)
            bench.fence.proven(bench.clock.now())
            assert bench.fence.shut_s is None
            await asyncio.sleep(2)
    assert 2 * 5 < len(bench.calls) - before <= 2 * (5 + 1), "a little is made up for, as after any delay"
    assert [log["event"] for log in logs] == ["calls_kept_back", "calls_resumed"]


@virtual_time
async def test_an_answer_that_comes_too_late_proves_nothing():
    async with Bench().running() as bench:
        bench.fence.proven(bench.clock.now() - LASTS_S)
        await asyncio.sleep(60)
        assert bench.calls == []


@virtual_time
async def test_a_refusal_ends_calls_at_once():
    async with Bench().running() as bench:
        bench.fence.proven(bench.clock.now())
        await asyncio.sleep(1)
        before = len(bench.calls)
        bench.fence.refuted()
        await asyncio.sleep(5)
        assert len(bench.calls) == before > 0


@virtual_time
async def test_a_process_that_was_frozen_finds_out_before_it_calls():
    async with Bench().running() as bench:
        bench.fence.proven(bench.clock.now())
        await asyncio.sleep(1)
        before = len(bench.calls)
        asyncio.get_running_loop()._jumping.now += 60  # type: ignore[attr-defined]
        await asyncio.sleep(10)
        assert len(bench.calls) == before > 0


@virtual_time
async def test_a_pause_and_the_fence_each_keep_calls_back_and_it_takes_the_end_of_both():
    for resumed_first in (True, False):
        async with Bench().running() as bench:
            bench.dispatcher.suspend()
            await asyncio.sleep(1)
            bench.dispatcher.resume()
            await asyncio.sleep(1)
            bench.dispatcher.suspend()
            assert not bench.fence.may_call()
            ends = [bench.dispatcher.resume, lambda: bench.fence.proven(bench.clock.now())]
            first, second = ends if resumed_first else reversed(ends)
            first()
            await asyncio.sleep(3)
            assert bench.calls == []
            second()
            await asyncio.sleep(3)
            assert len(bench.calls) > 10
