import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from service.core.dispatcher import FENCED, Dispatcher
from service.core.turn import Held, Turn
from service.domain import log_group
from service.domain.command import EnsureCommand, Trigger
from service.domain.lane import Lane
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.domain.verify import VerifyCommand
from service.ports import GivenUpError
from tests.support.fakes import (
    LANE,
    OTHER_LANE,
    Deliveries,
    RecordingObserver,
    TimedLogGroups,
    busiest_second,
    ensure,
    group,
    key_of,
    lane_number,
    new_lane,
)
from tests.support.virtual_time import NothingToWaitForError, VirtualClock, run_in_virtual_time, virtual_time

RATE = 5.0
Work = Callable[[EnsureCommand, Turn], Awaitable[Held | None]]


def now() -> float:
    return asyncio.get_running_loop().time()


async def call_again(turn: Turn, *, after_s: float) -> None:
    await turn.pause(after_s)
    async with turn.call(Quota.ASSOCIATE):
        pass


class Bench:
    """A dispatcher whose work, unless another is given, is one call, tried again after half a second while it fails."""

    def __init__(
        self,
        work: Work | None = None,
        *,
        max_under_way: int = 256,
        max_lane: int = 16,
        latency_s: float = 0.1,
        **postponing: Any,
    ):
        self.log_groups = TimedLogGroups(latency_s=latency_s)
        self.deliveries = Deliveries()
        self.observer = RecordingObserver()
        self.released: list[log_group.Lane] = []
        self.dispatcher = Dispatcher(
            schedule=Schedule(
                new_lane=lambda lane, at: new_lane(lane, at, rate_per_s=RATE, max_under_way=max_lane),
                max_under_way=max_under_way,
            ),
            work=work or self.call_until_it_succeeds,
            clock=VirtualClock(),
            hold_s=5.0,
            max_hold_s=60.0,
            on_held=self.observer.lane_held,
            on_released=self.released.append,
            **postponing,
        )

    async def call_until_it_succeeds(self, command: EnsureCommand, turn: Turn) -> Held | None:
        while True:
            try:
                async with turn.call(Quota.ASSOCIATE):
                    await self.log_groups.associate(command.log_group, key_of(command.log_group.lane))
            except CallFailedError as e:
                if e.failure is FailureClass.UNREACHABLE:
                    return Held(e.failure, e.detail)
                await turn.pause(0.5)
            else:
                return None

    def submit(self, name: str = "g", lane: log_group.Lane = LANE, trigger: Trigger = Trigger.CREATED) -> None:
        self.dispatcher.submit(ensure(name, trigger, lane=lane), self.deliveries.next())

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        run = asyncio.create_task(self.dispatcher.run())
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError):
                await run

    async def until_idle(self) -> None:
        while not all(lane.is_idle for lane in self.dispatcher.schedule):
            await asyncio.sleep(0.05)


# -- what a call needs


async def at_once(value: int) -> int:
    return value


async def nothing() -> None:
    pass


async def after(seconds: float, value: int) -> int:
    with suppress(ZeroDivisionError):
        await asyncio.sleep(seconds / 2)
    await asyncio.sleep(seconds / 2)
    return value


@virtual_time
async def test_what_is_at_hand_keeps_the_place_and_what_is_waited_for_leaves_it_to_others():
    places: list[int] = []

    async def work(command: EnsureCommand, turn: Turn) -> None:
        assert await turn.prepare(at_once(7)) == 7
        places.append(bench.dispatcher.schedule.under_way)
        assert await turn.prepare(after(1, 8)) == 8
        places.append(bench.dispatcher.schedule.under_way)
        with pytest.raises(ValueError, match="no session"):
            await turn.prepare(failing())
        async with turn.call(Quota.ASSOCIATE):
            pass

    async def failing() -> None:
        await asyncio.sleep(0.1)
        raise ValueError("no session")

    bench = Bench(work, max_under_way=1)
    async with bench.running():
        for number in range(3):
            bench.submit("g", lane_number(number))
        started = now()
        await bench.until_idle()
        assert now() - started < 1.5, "all wait at once, though there is one place"
    assert not bench.deliveries.open
    assert places[:3] == [1, 1, 1]


@virtual_time
async def test_commands_that_wait_for_sessions_keep_no_lane_waiting_whose_session_is_there():
    ready = {lane_number(number) for number in range(20)}
    sealed: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> None:
        since = now()
        await turn.prepare(at_once(0) if command.log_group.lane in ready else after(30, 0))
        async with turn.call(Quota.ASSOCIATE):
            await asyncio.sleep(0.05)
        if command.log_group.lane in ready:
            sealed.append(now() - since)

    bench = Bench(work, max_under_way=64)
    async with bench.running():
        for number in range(20, 100):
            for name in range(16):
                bench.submit(str(name), lane_number(number))
        for second in range(20):
            await asyncio.sleep(1)
            for lane in ready:
                bench.submit(str(second), lane)
        await asyncio.sleep(2)
    assert len(sealed) == 20 * 20
    assert max(sealed) < 0.3


@virtual_time
async def test_the_pace_is_told_when_a_call_goes_out(monkeypatch: pytest.MonkeyPatch):
    sent: list[float] = []
    monkeypatch.setattr(Lane, "sent", lambda _, quota, at: sent.append(at))
    async with Bench(latency_s=0.05).running() as bench:
        started = now()
        bench.submit("a")
        bench.submit("b")
        await bench.until_idle()
    assert sent == pytest.approx([started + 0.2, started + 0.4])


@virtual_time
async def test_of_a_lane_whose_session_is_waited_for_no_more_start_than_will_have_a_token_soon():
    session: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> None:
        await turn.prepare(asyncio.shield(session))
        async with turn.call(Quota.ASSOCIATE):
            calls.append(now())

    async with Bench(work).running() as bench:
        for number in range(1000):
            bench.submit(str(number))
        await asyncio.sleep(1)
        [lane] = bench.dispatcher.schedule
        assert (lane.running, lane.under_way) == (5, 0)
        session.set_result(0)
        await asyncio.sleep(10)
    assert len(calls) >= 0.97 * RATE * 10


@virtual_time
async def test_nor_do_those_that_share_the_answer_of_one_that_waits_for_the_session():
    session: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work(command: EnsureCommand, turn: Turn) -> None:
        if command.log_group.name == "0":
            await turn.prepare(asyncio.shield(session))
            answer.set_result(0)
        else:
            await turn.shared(asyncio.shield(answer))

    async with Bench(work).running() as bench:
        for number in range(1000):
            bench.submit(str(number))
        await asyncio.sleep(1)
        [lane] = bench.dispatcher.schedule
        assert lane.running == 5
        session.set_result(0)
        await bench.until_idle()
    assert not bench.deliveries.open


@virtual_time
async def test_what_single_commands_wait_for_keeps_no_others_of_their_lane():
    """As the state of a tenant's key, where KMS does not answer: there is a session, as another lane of the account has had it."""
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> None:
        await turn.session(nothing())
        await turn.prepare(after(5 if command.log_group.name.startswith("silent") else 0.01, 0))
        async with turn.call(Quota.ASSOCIATE):
            calls.append(now())

    async with Bench(work).running() as bench:
        for number in range(20):
            bench.submit(f"silent-{number}", trigger=Trigger.SWEEP)
        await asyncio.sleep(0.1)
        for number in range(100):
            bench.submit(str(number))
        began = now()
        await asyncio.sleep(4.9)
    assert len([at for at in calls if at >= began]) >= 0.97 * RATE * 4.9


@virtual_time
async def test_while_sessions_fail_few_commands_of_a_lane_that_has_had_none_have_started():
    async def refused() -> None:
        raise CallFailedError(FailureClass.UNREACHABLE, "as a moment ago")

    async def work(command: EnsureCommand, turn: Turn) -> None:
        while True:
            with suppress(CallFailedError):
                await turn.session(refused())
            await turn.pause(1)

    async with Bench(work).running() as bench:
        for number in range(1000):
            bench.submit(str(number))
        await asyncio.sleep(10)
        assert [lane.running for lane in bench.dispatcher.schedule] == [5]


@virtual_time
async def test_a_lane_whose_commands_need_no_session_is_as_fast_as_they_are_written():
    async def work(command: EnsureCommand, turn: Turn) -> None:
        await turn.record(asyncio.sleep(1))

    async with Bench(work).running() as bench:
        for number in range(100):
            bench.submit(str(number))
        await asyncio.sleep(3)
    assert not bench.deliveries.open


@pytest.mark.parametrize("is_session", [True, False], ids=["a session", "a key, or the registry"])
@virtual_time
async def test_after_a_hold_no_second_command_waits_for_what_a_call_needs(*, is_session: bool):
    asked: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        asked.append(now() - started)
        if command.log_group.name == "first":
            await turn.session(nothing())
            async with turn.call(Quota.ASSOCIATE):
                pass
            return Held(FailureClass.UNREACHABLE, "away")
        await (turn.session if is_session else turn.prepare)(asyncio.sleep(30))
        return Held(FailureClass.UNREACHABLE, "not there")

    async with Bench(work).running() as bench:
        started = now()
        bench.submit("first")
        await asyncio.sleep(1)
        for number in range(100):
            bench.submit(str(number))
        await asyncio.sleep(30)
    assert [round(at) for at in asked] == [0, 5, 15], "the last one waits, and it alone"


@virtual_time
async def test_a_drain_leaves_nothing_that_has_begun_to_wait_half_done():
    lock = asyncio.Lock()
    begun = []

    async def locked() -> None:
        async with lock:
            await asyncio.sleep(30)

    async def work(command: EnsureCommand, turn: Turn) -> None:
        begun.append(locked())  # as an exception keeps it, whose traceback is kept
        await turn.session(begun[-1])

    async with Bench(work).running() as bench:
        bench.submit()
        await asyncio.sleep(0)  # its task is made, and has not run yet
        assert not begun
        await bench.dispatcher.drain(20)
        assert begun
        assert not lock.locked()
        assert bench.deliveries.open == {0}


@virtual_time
async def test_a_drain_does_not_wait_for_what_a_call_would_need():
    async def work(command: EnsureCommand, turn: Turn) -> None:
        await asyncio.sleep(0.1)
        await turn.prepare(after(30, 0))

    async with Bench(work).running() as bench:
        bench.submit("waits")
        await asyncio.sleep(1)
        bench.submit("would begin to wait")
        await asyncio.sleep(0.05)
        started = now()
        await bench.dispatcher.drain(20)
        assert now() - started < 0.2
        assert bench.deliveries.open == {0, 1}
        assert bench.dispatcher.schedule.under_way == 0


# -- the pace


@pytest.mark.parametrize("latency_s", [0.0, 0.1, 2.5])
@virtual_time
async def test_every_lane_gets_all_of_its_quota_and_no_more(latency_s: float):
    lanes = [lane_number(n) for n in range(5)]
    async with Bench(latency_s=latency_s).running() as bench:
        began = now()
        for lane in lanes:
            for number in range(600):
                bench.submit(str(number), lane)
        await asyncio.sleep(100)
        for lane in lanes:
            times = bench.log_groups.started(lane)
            assert len(times) >= 0.97 * RATE * 100
            assert busiest_second(times) <= RATE + 1
            assert times[0] >= began + 1 / RATE


@virtual_time
async def test_calls_that_are_tried_again_are_part_of_the_quota():
    async with Bench().running() as bench:
        for number in range(300):
            bench.submit(str(number))
            bench.log_groups.failures[group(str(number))].extend([FailureClass.OPERATION_ABORTED] * (number % 3))
        began = now()
        await bench.until_idle()
        times = bench.log_groups.started(LANE)
        assert len(times) == 600
        assert busiest_second(times) <= RATE + 1
        assert now() - began <= 600 / RATE / 0.97
    assert not bench.deliveries.open


@virtual_time
async def test_a_throttle_slows_its_lane_and_no_other():
    async with Bench().running() as bench:
        for number in range(100):
            bench.submit(str(number))
            bench.submit(str(number), OTHER_LANE)
        bench.log_groups.failures[group("0")].append(FailureClass.THROTTLED)
        await asyncio.sleep(2)
        assert len(bench.log_groups.started(LANE)) <= 6
        assert len(bench.log_groups.started(OTHER_LANE)) >= 9
        await asyncio.sleep(10)
        before = len(bench.log_groups.started(LANE))
        await asyncio.sleep(10)
        assert len(bench.log_groups.started(LANE)) - before >= 0.97 * RATE * 10


@virtual_time
async def test_commands_that_need_no_call_cost_none_of_the_quota():
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        if command.log_group.name.startswith("call"):
            async with turn.call(Quota.ASSOCIATE):
                calls.append(now())
        return None

    async with Bench(work).running() as bench:
        for number in range(50):
            bench.submit(f"call-{number}")
            for other in range(5):
                bench.submit(f"none-{number}-{other}")
        began = now()
        await bench.until_idle()
    assert len(calls) == 50
    assert busiest_second(calls) <= RATE + 1
    assert calls[-1] - began <= 50 / RATE / 0.97


@virtual_time
async def test_calls_that_waited_for_the_registry_do_not_come_all_at_once():
    calls: list[float] = []
    registry_is_back = asyncio.Event()

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        await registry_is_back.wait()
        async with turn.call(Quota.ASSOCIATE):
            calls.append(now())
            await asyncio.sleep(0.1)
        return None

    async with Bench(work).running() as bench:
        for number in range(100):
            bench.submit(str(number))
        await asyncio.sleep(4)
        registry_is_back.set()
        await asyncio.sleep(10)
    assert busiest_second(calls) <= RATE + 1


@pytest.mark.parametrize("look_up_s", [0.0, 0.15, 0.5, 0.8])
@virtual_time
async def test_a_look_up_before_each_call_costs_none_of_the_quota(look_up_s: float):
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        await asyncio.sleep(look_up_s)
        async with turn.call(Quota.ASSOCIATE):
            calls.append(now())
            await asyncio.sleep(0.1)
        return None

    async with Bench(work).running() as bench:
        for number in range(600):
            bench.submit(str(number))
        await asyncio.sleep(100)
    assert len(calls) >= 0.97 * RATE * 100


@virtual_time
async def test_writing_the_outcomes_of_commands_that_need_no_call_costs_none_of_the_quota():
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        if int(command.log_group.name) % 5 == 0:
            async with turn.call(Quota.ASSOCIATE):
                calls.append(now())
        await asyncio.sleep(0.05)  # until the broker has the outcome
        return None

    async with Bench(work).running() as bench:
        for number in range(4000):
            bench.submit(str(number))
        await asyncio.sleep(100)
    assert len(calls) >= 0.97 * RATE * 100


async def calls_and_records(turn: Turn, calls: list[float], *, after_s: float) -> None:
    async with turn.call(Quota.ASSOCIATE):
        calls.append(now())
    await turn.record(asyncio.sleep(after_s))  # until the broker has the outcome


@virtual_time
async def test_a_broker_that_is_slow_to_acknowledge_outcomes_costs_none_of_the_quota():
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> None:
        await calls_and_records(turn, calls, after_s=5)

    async with Bench(work, max_under_way=3, max_lane=2).running() as bench:
        for number in range(600):
            bench.submit(str(number))
        await asyncio.sleep(100)
    assert len(calls) >= 0.97 * RATE * 100


@virtual_time
async def test_where_outcomes_cannot_be_written_calls_end_soon_and_a_drain_waits_for_what_has_been_called():
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> None:
        await calls_and_records(turn, calls, after_s=3600)

    async with Bench(work).running() as bench:
        for number in range(600):
            bench.submit(str(number))
        await asyncio.sleep(600)
        assert 200 < len(calls) <= 256, "as many as may have started in a lane"
        assert not bench.deliveries.finished
        began = now()
        assert await bench.dispatcher.drain(20) == len(calls)
        assert now() == began + 20
        assert not bench.deliveries.finished


@virtual_time
async def test_a_hold_is_over_when_a_call_succeeds_and_not_when_that_is_written():
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        if not calls and not turn.is_probing:
            return Held(FailureClass.UNREACHABLE, "away")
        await calls_and_records(turn, calls, after_s=3)
        return None

    async with Bench(work).running() as bench:
        for number in range(20):
            bench.submit(str(number))
        await asyncio.sleep(4.9)
        assert calls == []
        await asyncio.sleep(2)
        assert bench.released == [LANE]
        assert bench.deliveries.open == set(range(20))
        assert len(calls) >= 9


def test_an_idle_dispatcher_sets_no_timer():
    async def idle() -> None:
        async with Bench().running():
            await asyncio.Event().wait()

    with pytest.raises(NothingToWaitForError):  # virtual time has nowhere to jump to
        run_in_virtual_time(idle())


@virtual_time
async def test_no_more_commands_call_at_once_than_the_limit():
    async with Bench(max_under_way=3, latency_s=10).running() as bench:
        for number in range(9):
            bench.submit("g", lane_number(number))
        for finished in (0, 3, 6):
            await asyncio.sleep(9)
            assert bench.log_groups.running == 3
            assert len(bench.deliveries.finished) == finished
            await asyncio.sleep(1.1)


# -- whose deliveries end when


@virtual_time
async def test_a_delivery_is_finished_when_its_work_has_ended_and_not_before():
    async with Bench(latency_s=10).running() as bench:
        bench.submit()
        await asyncio.sleep(10.1)
        assert bench.deliveries.open == {0}
        assert bench.dispatcher.last_progress is None
        await asyncio.sleep(0.2)
        assert not bench.deliveries.open
        assert bench.dispatcher.last_progress == pytest.approx(now(), abs=0.2)


@virtual_time
async def test_a_group_asked_for_again_and_again_is_never_called_twice_at_once():
    async with Bench(latency_s=1).running() as bench:
        for _ in range(40):
            bench.submit()
            await asyncio.sleep(0.25)
        await bench.until_idle()
    assert bench.log_groups.overlaps == []
    assert 5 <= len(bench.log_groups.calls) <= 12
    assert not bench.deliveries.open
    assert not bench.deliveries.finished_twice


@virtual_time
async def test_what_is_submitted_before_the_start_is_worked_after_it():
    bench = Bench()
    bench.submit()
    await asyncio.sleep(60)
    assert bench.log_groups.calls == []
    async with bench.running():
        await bench.until_idle()
    assert not bench.deliveries.open


# -- faults that are nobody's own


@virtual_time
async def test_a_held_command_is_put_back_and_worked_again_until_it_succeeds():
    async with Bench().running() as bench:
        bench.log_groups.failure = FailureClass.UNREACHABLE
        bench.submit()
        await asyncio.sleep(100)
        times = bench.log_groups.started(LANE)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps == pytest.approx([5.1, 10.1, 20.1, 40.1])  # each hold, and the tenth of a second until the answer
        assert bench.deliveries.open == {0}
        assert bench.released == []
        bench.log_groups.failure = None
        await bench.until_idle()
        assert not bench.deliveries.open
        lane = next(iter(bench.dispatcher.schedule))
        assert lane.fault.reason is None
        bench.submit("another")
        await bench.until_idle()
        assert bench.released == [LANE], "once"


@virtual_time
async def test_a_fault_that_many_commands_meet_is_told_once_for_each_hold():
    async with Bench(latency_s=1).running() as bench:
        bench.log_groups.failure = FailureClass.UNREACHABLE
        for number in range(16):
            bench.submit(str(number))
        await asyncio.sleep(5)
        assert len(bench.log_groups.calls) > 3
        assert bench.observer.holds == [(LANE, FailureClass.UNREACHABLE, "as told")]


@virtual_time
async def test_a_lane_that_is_held_delays_no_other():
    async with Bench().running() as bench:
        bench.log_groups.failures[group("sick")].extend([FailureClass.UNREACHABLE] * 100)
        for number in range(50):
            bench.submit("sick")
            bench.submit(str(number), OTHER_LANE)
        await asyncio.sleep(10.3)
        assert len(bench.log_groups.started(OTHER_LANE)) == 50


@virtual_time
async def test_what_waits_too_long_in_a_held_lane_is_postponed_and_lets_its_records_go():
    postponed: list[tuple[float, str, FailureClass]] = []

    async def postpone(command: EnsureCommand, held: Held) -> None:
        await asyncio.sleep(0.5)  # until the broker has it
        postponed.append((now() - began, command.log_group.name, held.failure))

    async with Bench(postpone=postpone, hold_at_most_s=900).running() as bench:
        bench.log_groups.failure = FailureClass.UNREACHABLE
        began = now()
        for number in range(40):
            bench.submit(str(number))
        await asyncio.sleep(600)
        bench.submit("young")
        await asyncio.sleep(300)
        assert postponed == []
        await asyncio.sleep(500)
        assert bench.deliveries.open == {40}
        assert {failure for *_, failure in postponed} == {FailureClass.UNREACHABLE}
        assert sorted(name for _, name, _ in postponed) == sorted(map(str, range(40)))
        # those that had started already come back one after the other
        assert max(at for at, *_ in postponed) < 900 + 6 * 61
        bench.log_groups.failure = None
        await bench.until_idle()
    assert not bench.deliveries.open
    assert not bench.deliveries.finished_twice


@virtual_time
async def test_a_command_whose_own_fault_holds_its_lane_leaves_it_in_the_end_though_others_succeed():
    postponed: list[tuple[float, str]] = []

    async def postpone(command: EnsureCommand, held: Held) -> None:
        postponed.append((now() - began, command.log_group.name))

    async with Bench(postpone=postpone, hold_at_most_s=900).running() as bench:
        began = now()
        bench.log_groups.failures[group("sick")].extend([FailureClass.UNREACHABLE] * 10_000)
        bench.submit("sick")
        for number in range(1000):
            bench.submit(str(number))
            await asyncio.sleep(1)
        ((after_s, name),) = postponed
        assert name == "sick"
        assert 900 <= after_s < 910
        await bench.until_idle()
        assert not bench.deliveries.open


@virtual_time
async def test_what_waits_for_tokens_when_its_lane_is_held_or_all_is_suspended_starts_over():
    found_out: list[tuple[str, float]] = []
    called: list[tuple[str, float]] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        name = command.log_group.name
        found_out.append((name, now()))
        async with turn.call(Quota.ASSOCIATE):
            if name == "sick" and len([each for each, _ in found_out if each == "sick"]) == 1:
                return Held(FailureClass.UNREACHABLE, "as told")
            called.append((name, now()))
        return None

    async with Bench(work).running() as bench:
        for name in ("sick", "a", "b", "c"):
            bench.submit(name)
        await asyncio.sleep(2)
        assert called == []
        bench.dispatcher.suspend()
        await asyncio.sleep(3600)
        bench.dispatcher.resume()
        await bench.until_idle()
    assert [name for name, _ in called] == ["a", "b", "c", "sick"], "those that had no turn stand as they did"
    known_at = dict(found_out)
    assert all(at - known_at[name] <= 1.0 for name, at in called)


@virtual_time
async def test_a_hold_for_the_registry_ends_with_the_first_command_that_it_has_decided():
    is_away = True

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        return Held(FailureClass.REGISTRY_UNAVAILABLE, "away") if is_away else None  # excluded, say: no call is made

    async with Bench(work).running() as bench:
        for number in range(100):
            bench.submit(str(number))
        await asyncio.sleep(100)
        is_away = False
        await asyncio.sleep(60)
        assert not bench.deliveries.open
        (lane,) = bench.dispatcher.schedule
        assert lane.fault.reason is None


@virtual_time
async def test_an_answer_that_is_the_lanes_own_fault_ends_no_hold():
    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        with suppress(CallFailedError):
            async with turn.call(Quota.DESCRIBE):
                raise CallFailedError(FailureClass.UNREACHABLE, "as told")
        return Held(FailureClass.UNREACHABLE, "as told") if command.log_group.name == "held" else None  # it gives up

    async with Bench(work).running() as bench:
        bench.submit("held")
        await asyncio.sleep(0.5)
        bench.submit("gives-up")
        await asyncio.sleep(8)
        (lane,) = bench.dispatcher.schedule
        assert lane.fault.reason == "unreachable"


@virtual_time
async def test_a_drain_waits_for_what_is_being_postponed():
    async def postpone(command: EnsureCommand, held: Held) -> None:
        await asyncio.sleep(3)

    async with Bench(postpone=postpone, hold_at_most_s=60).running() as bench:
        bench.log_groups.failure = FailureClass.UNREACHABLE
        for number in range(10):
            bench.submit(str(number))
        while len(bench.deliveries.open) == 10:
            await asyncio.sleep(1)
            if any(lane.running > 8 for lane in bench.dispatcher.schedule):
                break
        assert await bench.dispatcher.drain(10) == 0
        assert len(bench.deliveries.open) < 10
        assert all(lane.is_idle and not lane.under_way for lane in bench.dispatcher.schedule)
        assert bench.dispatcher.schedule.under_way == 0


@virtual_time
async def test_a_success_wakes_a_held_lane_at_once():
    async with Bench(max_lane=2, latency_s=1).running() as bench:
        bench.log_groups.failures[group("sick")].append(FailureClass.UNREACHABLE)
        for name in ("sick", "well", "next"):
            bench.submit(name)
        await asyncio.sleep(1.3)
        assert next(iter(bench.dispatcher.schedule)).fault.reason == "unreachable"  # since the first answer
        await asyncio.sleep(0.15)  # and the second is here
        assert [call.log_group.name for call in bench.log_groups.calls] == ["sick", "well", "next"]


@pytest.mark.parametrize("failure", [FailureClass.UNREACHABLE, FailureClass.REGISTRY_UNAVAILABLE])
@virtual_time
async def test_an_answer_from_before_a_hold_that_is_written_after_it_began_does_not_end_it(failure: FailureClass):
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        with suppress(CallFailedError):
            async with turn.call(Quota.ASSOCIATE):
                calls.append(now() - started)
                if calls[-1] > 1.1:
                    raise CallFailedError(failure, "away")
            await turn.record(asyncio.sleep(3))
            return None
        return Held(failure, "away")

    async with Bench(work).running() as bench:
        started = now()
        for number in range(50):
            bench.submit(str(number))
        await asyncio.sleep(40)
        assert bench.released == []
    assert [round(at, 1) for at in calls if at > 1.1] == [1.2, 6.2, 16.2, 36.2], "each hold is twice as long"


@virtual_time
async def test_what_aws_answers_says_nothing_of_a_registry_that_holds_the_lane():
    asked: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        if command.log_group.name == "undecided":
            asked.append(now() - started)
            if len(asked) < 3:
                return Held(FailureClass.REGISTRY_UNAVAILABLE, "away")
        else:
            async with turn.call(Quota.ASSOCIATE):
                await asyncio.sleep(3)
        return None

    async with Bench(work).running() as bench:
        started = now()
        bench.submit("decided before")
        await asyncio.sleep(1)
        bench.submit("undecided")
        await asyncio.sleep(30)
        assert bench.released == [LANE]
    assert [round(at) for at in asked] == [1, 6, 16]


@virtual_time
async def test_a_lane_that_may_not_read_tags_is_held_until_somebody_has_asked_for_some():
    asked: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        if command.log_group.name == "tagged":
            asked.append(now() - started)
            with suppress(CallFailedError):
                async with turn.call(Quota.TAGS):
                    if len(asked) < 4:
                        raise CallFailedError(FailureClass.NOT_AUTHORIZED, "no")
                return None
            return Held(FailureClass.TAGS_NOT_READABLE, "no")
        async with turn.call(Quota.ASSOCIATE):
            return None

    async with Bench(work).running() as bench:
        started = now()
        bench.submit("tagged")
        for number in range(40):
            await asyncio.sleep(1)
            bench.submit(str(number))
        assert bench.released == [LANE]
    assert [round(at) for at in asked] == [0, 5, 15, 37]


@virtual_time
async def test_a_second_look_says_nothing_of_a_registry_that_holds_the_lane():
    async def undecided(command: EnsureCommand, turn: Turn) -> Held | None:
        return Held(FailureClass.REGISTRY_UNAVAILABLE, "away") if now() - started < 40 else None

    async def look(command: VerifyCommand, turn: Turn) -> None:
        async with turn.call(Quota.DESCRIBE):
            looks.append(now())

    looks: list[float] = []
    async with Bench(undecided, verify=look).running() as bench:
        started = now()
        bench.submit("undecided", trigger=Trigger.SWEEP)  # it takes turns with the looks
        for number in range(30):
            await asyncio.sleep(1)
            bench.dispatcher.submit(VerifyCommand(lane=LANE, number=number, keys={}), bench.deliveries.next())
        assert len(looks) >= 2
        assert bench.released == []
        await asyncio.sleep(60)
        assert bench.released == [LANE]


@virtual_time
async def test_a_command_that_is_given_up_leaves_its_place_to_the_next():
    worked: list[str] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        async with turn.call(Quota.ASSOCIATE):
            await asyncio.sleep(1)
        if command.log_group.name == "refused":  # past the limit of dead letters, for one
            raise GivenUpError
        worked.append(command.log_group.name)
        return None

    async with Bench(work, max_lane=1).running() as bench:
        for name in ("refused", "next"):
            bench.submit(name)
        await bench.until_idle()
    assert worked == ["next"]
    assert bench.deliveries.open == {0}


@virtual_time
async def test_a_command_that_made_no_call_proves_nothing_about_the_fault():
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        if command.log_group.name == "excluded":
            await asyncio.sleep(1)
            return None
        with suppress(CallFailedError):
            async with turn.call(Quota.ASSOCIATE):
                calls.append(now())
                raise CallFailedError(FailureClass.UNREACHABLE, "x")
        return Held(FailureClass.UNREACHABLE, "x")

    async with Bench(work).running() as bench:
        for name in ("excluded", "sick"):
            bench.submit(name)
        await asyncio.sleep(3)
        assert bench.deliveries.open == {1}
        assert len(calls) == 1
        (lane,) = bench.dispatcher.schedule
        assert lane.fault.held_until == calls[0] + 5


# -- bugs


@virtual_time
async def test_a_bug_ends_the_run_with_nothing_finished_that_was_not_done():
    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        async with turn.call(Quota.ASSOCIATE):
            if command.log_group.name == "bug":
                raise ZeroDivisionError
            if command.log_group.name == "slow":
                await asyncio.sleep(3600)
        if command.log_group.name == "again":
            await call_again(turn, after_s=3600)
        return None

    bench = Bench(work)
    for name in ("done", "again", "slow", "bug", "waiting"):
        bench.submit(name)
    with pytest.raises(ExceptionGroup) as ended:
        await bench.dispatcher.run()
    assert ended.group_contains(ZeroDivisionError)
    assert len(ended.value.exceptions) == 1
    assert bench.deliveries.finished == {0: 1}


@virtual_time
async def test_after_a_bug_nothing_more_is_started_while_the_rest_ends():
    started: list[str] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        started.append(command.log_group.name)
        async with turn.call(Quota.ASSOCIATE):
            if command.log_group.name == "bug":
                raise ZeroDivisionError
        if command.log_group.name == "again":
            await call_again(turn, after_s=0.5)
        else:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(60)  # a connection that is slow to close
        return None

    bench = Bench(work)
    for name in ("slow", "again", "bug", *"abcde", "waiting"):
        bench.submit(name)
    with pytest.raises(ExceptionGroup):
        await bench.dispatcher.run()
    assert started[:3] == ["slow", "again", "bug"]
    assert "waiting" not in started
    assert not bench.deliveries.finished


@virtual_time
async def test_a_cancelled_run_leaves_nothing_behind():
    bench = Bench(latency_s=1000)
    bench.log_groups.failures[group("again")].extend([FailureClass.SERVICE_UNAVAILABLE] * 10)
    async with bench.running():
        for number in range(30):
            bench.submit(str(number))
        bench.submit("again", OTHER_LANE)
        await asyncio.sleep(1000.5)
    assert bench.log_groups.running == 0
    assert bench.deliveries.open
    # virtual_time looks for tasks left behind; a timer left behind would move this:
    calls = len(bench.log_groups.calls)
    await asyncio.sleep(3600)
    assert len(bench.log_groups.calls) == calls


# -- draining


@virtual_time
async def test_draining_lets_what_is_calling_end_and_starts_nothing_more():
    async with Bench(latency_s=3).running() as bench:
        for number in range(100):
            bench.submit(str(number))
        await asyncio.sleep(1.1)
        calls = len(bench.log_groups.calls)
        assert calls == 5
        began = now()
        assert await bench.dispatcher.drain(20) == 0
        assert now() - began <= 3
        assert bench.deliveries.finished.keys() == set(range(calls))
        await asyncio.sleep(100)
        assert len(bench.log_groups.calls) == calls


@virtual_time
async def test_draining_an_idle_dispatcher_takes_no_time():
    async with Bench().running() as bench:
        began = now()
        assert await bench.dispatcher.drain(20) == 0
        assert await bench.dispatcher.drain(0) == 0
        assert now() == began


@virtual_time
async def test_work_that_is_late_is_cancelled_and_its_deliveries_stay_open():
    async with Bench(latency_s=100).running() as bench:
        for name in "ab":
            bench.submit(name)
        await asyncio.sleep(1)
        began = now()
        assert await bench.dispatcher.drain(20) == 2
        assert now() - began == 20
        assert bench.log_groups.running == 0
        await asyncio.sleep(200)
        assert not bench.deliveries.finished


@virtual_time
async def test_what_waits_to_call_again_is_given_up_at_once():
    seen: list[BaseException] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        try:
            await call_again(turn, after_s=3600)
        except GivenUpError as e:
            seen.append(e)
            raise
        return None

    async with Bench(work).running() as bench:
        for name in "ab":
            bench.submit(name)
        await asyncio.sleep(1)
        began = now()
        assert await bench.dispatcher.drain(20) == 0
        assert now() == began
    assert len(seen) == 2
    assert not bench.deliveries.finished


@virtual_time
async def test_what_wants_to_call_again_during_a_drain_is_given_up():
    async with Bench(latency_s=1).running() as bench:
        bench.log_groups.failure = FailureClass.SERVICE_UNAVAILABLE
        bench.submit()
        await asyncio.sleep(0.5)
        assert await bench.dispatcher.drain(20) == 0
        assert len(bench.log_groups.calls) == 1
        assert not bench.deliveries.finished


@virtual_time
async def test_what_fails_for_a_global_fault_during_a_drain_is_left_to_the_next_owner():
    async with Bench(latency_s=1).running() as bench:
        bench.log_groups.failure = FailureClass.UNREACHABLE
        bench.submit()
        await asyncio.sleep(0.5)
        assert await bench.dispatcher.drain(20) == 0
        bench.dispatcher.restart()
        await asyncio.sleep(3600)
        assert len(bench.log_groups.calls) == 1
        assert not bench.deliveries.finished


@virtual_time
async def test_a_lane_that_was_another_owners_meanwhile_begins_with_no_token_left_over():
    async with Bench(latency_s=0).running() as bench:
        bench.submit("before")
        await asyncio.sleep(10)
        await bench.dispatcher.drain(20)
        await asyncio.sleep(14)  # a drain may take long, and the tokens are back by then
        restarted = now()
        bench.dispatcher.restart()
        bench.deliveries = Deliveries(owned_since=restarted)
        for number in range(21):
            bench.submit(str(number))
        await bench.until_idle()
        times = bench.log_groups.started(LANE)[1:]
        assert len(times) == 21
        assert times[0] >= restarted + 1 / RATE  # the former owner may have called a moment ago
        assert busiest_second(times) <= RATE + 1
    assert not bench.deliveries.open


@virtual_time
async def test_a_token_that_was_handed_out_right_before_membership_ended_is_not_called_with():
    is_member = True
    calls: list[float] = []

    async def work(command: EnsureCommand, turn: Turn) -> None:
        async with turn.call(Quota.ASSOCIATE):
            calls.append(now())

    def end_membership() -> None:
        nonlocal is_member
        is_member = False

    bench = Bench(work, may_call=lambda: is_member)
    async with bench.running():
        bench.submit()
        await asyncio.sleep(0.05)
        due = bench.dispatcher.schedule.wake_at()
        assert due is not None
        asyncio.get_running_loop().call_at(due, end_membership)  # in the same turn of the loop, after the token
        await asyncio.sleep(5)
        assert calls == []
        is_member = True
        bench.dispatcher.resume(FENCED)
        await bench.until_idle()
        assert len(calls) == 1


@virtual_time
async def test_a_long_queue_that_meets_a_short_hold_is_not_postponed():
    postponed: list[str] = []

    async def postpone(command: EnsureCommand, held: Held) -> None:
        postponed.append(command.log_group.name)

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        async with turn.call(Quota.ASSOCIATE):
            is_away = began + 1000 <= now() < began + 1008
        return Held(FailureClass.CREDENTIALS_MISSING, "for 8 s") if is_away else None

    began = now()
    bench = Bench(work, postpone=postpone, hold_at_most_s=900.0)
    for number in range(5100):  # 17 minutes of the quota
        bench.submit(str(number))
    async with bench.running():
        await bench.until_idle()
    assert postponed == []
    assert not bench.deliveries.open


@virtual_time
async def test_a_lane_that_stays_ours_in_a_rebalance_loses_only_the_time_that_it_takes():
    async with Bench(latency_s=0).running() as bench:
        for number in range(100):
            bench.submit(str(number))
        await asyncio.sleep(10)
        await bench.dispatcher.drain(20)
        await asyncio.sleep(0.05)
        bench.dispatcher.restart()
        for number in range(100, 200):
            bench.submit(str(number))
        await asyncio.sleep(10)
        times = bench.log_groups.started(LANE)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(gaps) == pytest.approx(1 / RATE + 0.05)


@virtual_time
async def test_what_is_submitted_during_a_drain_is_left_to_the_next_owner_of_its_record():
    async with Bench(latency_s=5).running() as bench:
        bench.submit()
        await asyncio.sleep(1)
        drain = asyncio.create_task(bench.dispatcher.drain(20))
        await asyncio.sleep(1)
        bench.submit()
        bench.submit("other")
        await drain
        bench.submit("late")
        bench.dispatcher.restart()
        await asyncio.sleep(60)
        assert len(bench.log_groups.calls) == 1
        assert bench.deliveries.open == {1, 2, 3}
        bench.submit()
        await bench.until_idle()
        assert len(bench.log_groups.calls) == 2


@virtual_time
async def test_a_drain_makes_room_for_all_that_may_call_afterwards():
    async with Bench(max_under_way=2, latency_s=0.5).running() as bench:
        bench.log_groups.failure = FailureClass.SERVICE_UNAVAILABLE
        for number in range(8):
            bench.submit("g", lane_number(number))
        await asyncio.sleep(2)
        await bench.dispatcher.drain(20)
        assert bench.dispatcher.schedule.under_way == 0
        bench.log_groups.failure = None
        bench.log_groups.latency_s = 10
        bench.dispatcher.restart()
        for number in range(8):
            bench.submit("g", lane_number(number))
        await asyncio.sleep(5)
        assert bench.log_groups.running == 2


@virtual_time
async def test_what_wants_its_first_token_during_a_drain_is_given_up_at_once():
    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        await asyncio.sleep(1)  # asks the registry
        async with turn.call(Quota.ASSOCIATE):
            pass
        return None

    async with Bench(work).running() as bench:
        bench.submit()
        await asyncio.sleep(0.5)
        began = now()
        assert await bench.dispatcher.drain(20) == 0
        assert now() - began == pytest.approx(0.5)
        assert bench.dispatcher.schedule.under_way == 0
    assert not bench.deliveries.finished


@virtual_time
async def test_a_pause_is_given_up_and_does_not_just_end():
    seen: list[str] = []

    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        await turn.pause(3600)
        seen.append("went on")
        return None

    async with Bench(work).running() as bench:
        bench.submit()
        await asyncio.sleep(0.5)
        assert await bench.dispatcher.drain(20) == 0
    assert seen == []
    assert not bench.deliveries.finished


# -- cancelled


def task_of(bench: Bench, name: str) -> "asyncio.Task[None]":
    return next(task for work, task in bench.dispatcher._active.items() if work.key == name)


@virtual_time
async def test_a_command_that_is_cancelled_leaves_its_place_to_the_next_and_its_delivery_open():
    async with Bench(max_lane=1, latency_s=3600).running() as bench:
        for name in "ab":
            bench.submit(name)
        await asyncio.sleep(1)
        task_of(bench, "a").cancel()
        await asyncio.sleep(0.3)
        assert [call.log_group.name for call in bench.log_groups.calls] == ["a", "b"]
        assert bench.dispatcher.schedule.under_way == 1
    assert bench.deliveries.open == {0, 1}


@virtual_time
async def test_a_command_that_is_cancelled_while_it_waits_costs_no_token():
    async with Bench().running() as bench:
        for name in "abc":
            bench.submit(name)
        await asyncio.sleep(0.1)
        task_of(bench, "a").cancel()
        await bench.until_idle()
        times = bench.log_groups.started(LANE)
        assert [call.log_group.name for call in bench.log_groups.calls] == ["b", "c"]
        assert times[1] - times[0] == pytest.approx(1 / RATE)
        assert bench.dispatcher.schedule.under_way == 0


@pytest.mark.parametrize("is_drained", [True, False])
@virtual_time
async def test_a_command_may_be_cancelled_in_the_moment_that_it_gets_its_token_or_is_given_up(is_drained: bool):
    async with Bench().running() as bench:
        for name in "ab":
            bench.submit(name)
        await asyncio.sleep(0.1)
        task_of(bench, "a").cancel()
        if is_drained:
            assert await bench.dispatcher.drain(20) == 0
            bench.dispatcher.restart()
        else:
            bench.dispatcher._clock = LaterClock(10)
            bench.dispatcher._pump()
        await bench.until_idle()
        assert bench.dispatcher.schedule.under_way == 0
    assert 0 in bench.deliveries.open


class LaterClock(VirtualClock):
    def __init__(self, by_s: float) -> None:
        super().__init__()
        self._by_s = by_s

    def now(self) -> float:
        return super().now() + self._by_s


@virtual_time
async def test_a_cancellation_that_nobody_asked_for_is_a_bug_and_no_command_is_lost_in_silence():
    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        raise asyncio.CancelledError  # as a library does that cancels its own future

    bench = Bench(work)
    bench.submit()
    with pytest.raises(ExceptionGroup) as ended:
        await bench.dispatcher.run()
    assert ended.group_contains(RuntimeError, match="cancelled by nobody")
    assert not bench.deliveries.finished


@virtual_time
async def test_a_restart_after_a_bug_starts_nothing_while_the_rest_ends():
    async def work(command: EnsureCommand, turn: Turn) -> Held | None:
        if command.log_group.name == "bug":
            raise ZeroDivisionError
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(60)  # a connection that is slow to close
        return None

    bench = Bench(work)
    for name in ("slow", "bug"):
        bench.submit(name)
    run = asyncio.create_task(bench.dispatcher.run())
    await asyncio.sleep(1)
    await bench.dispatcher.drain(0.1)  # a rebalance
    bench.dispatcher.restart()
    bench.submit("late")
    with pytest.raises(ExceptionGroup) as ended:
        await run
    assert len(ended.value.exceptions) == 1
    assert not bench.deliveries.finished
