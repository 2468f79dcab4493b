"""Runs the schedule: starts commands, lets them call when there is a token, finishes their records, drains.

The only task that exists for a command is the one that works it now; the rest are entries in the schedule. One timer wakes the
dispatcher when the next lane is due, so an idle service uses no CPU.
"""

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeVar, cast

from service.core.turn import Evidence, Held, Turn
from service.domain import log_group
from service.domain.command import EnsureCommand, Priority
from service.domain.offsets import Delivery
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.domain.sweep import Command, SweepCommand
from service.domain.verify import VerifyCommand
from service.domain.work import Work
from service.ports import Clock, GivenUpError, StartOverError

FENCED: Final = "fence"  # why it is suspended when it may not call

_T = TypeVar("_T")


async def _nobody(command: Command, turn: Turn) -> None:  # noqa: ARG001
    raise RuntimeError(f"nobody here takes a {type(command).__name__}")


async def _nowhere(command: EnsureCommand, held: Held) -> None:  # noqa: ARG001
    raise RuntimeError("nobody here postpones")


class Dispatcher:
    """Works submitted commands, each lane at its pace, at most `max_under_way` of the schedule at once.

    `may_call` is asked before anything is started; once it is False, it takes a `resume(FENCED)` to go on.

    `work`, `sweep` for a page of a sweep and `verify` for a second look return None when all that follows is durable, or Held. A command
    older than `hold_at_most_s` in a held lane goes to `postpone`, which returns once it is durable on a retry topic; then its records
    are finished. Anything else that they raise is a bug and ends `run`, and with it the process, with nothing finished that was not
    done. Times are in seconds of the clock, which must be the event loop's own.
    """

    def __init__(
        self,
        *,
        schedule: Schedule,
        work: Callable[[EnsureCommand, Turn], Awaitable[Held | None]],
        clock: Clock,
        hold_s: float,
        max_hold_s: float,
        on_held: Callable[[log_group.Lane, FailureClass, str], None] = lambda *_: None,
        on_released: Callable[[log_group.Lane], None] = lambda _: None,
        on_retry: Callable[[log_group.Lane, FailureClass, str], None] = lambda *_: None,
        may_call: Callable[[], bool] = lambda: True,
        sweep: Callable[[SweepCommand, Turn], Awaitable[Held | None]] = _nobody,
        verify: Callable[[VerifyCommand, Turn], Awaitable[Held | None]] = _nobody,
        postpone: Callable[[EnsureCommand, Held], Awaitable[None]] = _nowhere,
        hold_at_most_s: float = float("inf"),
    ) -> None:
        self.schedule = schedule
        self._work = work
        self._clock = clock
        self._hold_s = hold_s
        self._max_hold_s = max_hold_s
        self._on_held = on_held
        self._on_released = on_released
        self._on_retry = on_retry
        self._may_call = may_call
        self._sweep = sweep
        self._verify = verify
        self._postpone = postpone
        self._hold_at_most_s = hold_at_most_s
        self._tasks: asyncio.TaskGroup | None = None
        self._active: dict[Work, asyncio.Task[None]] = {}
        self._waiting: dict[Work, asyncio.Future[None]] = {}  # for tokens
        self._preparing: set[Work] = set()  # waiting for what a call needs
        self._calling: set[Work] = set()
        self._broken_off: set[Work] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_pump_due = False
        self._suspended_for: set[str] = set()
        self._draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_progress: float | None = None

    async def run(self) -> None:
        """Work until cancelled. What is under way then is cancelled too: drain first."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                self._pump_soon()
                await asyncio.Event().wait()
            finally:
                self._stop()

    def submit(self, command: Command, delivery: Delivery) -> None:
        """Queue a command; its delivery is finished when its outcome is durable. During a drain the lanes may be somebody else's: nothing
        is queued then, and whoever owns the record reads it again.
        """
        if self._draining.is_set():
            return
        self.schedule.add(command, delivery, self._clock.now())
        self._pump_soon()

    async def drain(self, deadline_s: float) -> int:
        """Start nothing more, let calls that are under way end for up to `deadline_s` seconds, then cancel them.

        Returns how many were cancelled. Work goes on after `restart`.
        """
        self._draining.set()
        self._interrupt(self.schedule.drop(self._clock.now()), GivenUpError)
        for work in self._preparing:
            self._active[work].cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        late = list(self._active.values())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return len(late)

    def restart(self) -> None:
        """Start commands again after a drain."""
        self._draining.clear()
        self._pump_soon()

    def suspend(self, why: str = "pause") -> None:
        """Start nothing more and hand out no token until `resume`; calls that are under way end as they would.

        Suspended for two reasons it goes on when it was resumed for both.
        """
        self._suspended_for.add(why)
        self._wake_at(None)
        for lane in self.schedule:
            self._interrupt(self.schedule.give_up_waits(lane), StartOverError)

    def resume(self, why: str = "pause") -> None:
        """Go on after `suspend`."""
        if why in self._suspended_for:
            self._suspended_for.remove(why)
            self._pump_soon()

    def break_off(self) -> None:
        """Cancel the calls that are under way; their commands start over. For calls that outlast our right to make them."""
        for work in self._calling - self._broken_off:
            self._broken_off.add(work)
            self._active[work].cancel()

    # -- for Turn

    def is_probing(self, work: Work) -> bool:
        return self.schedule.lane_of(work).fault.is_probing

    async def token(self, work: Work, quota: Quota) -> None:
        if self._draining.is_set():
            raise GivenUpError
        if self._suspended_for or self.schedule.lane_of(work).fault.held_until > self._clock.now():
            raise StartOverError
        future = self._waiting[work] = asyncio.get_running_loop().create_future()
        self.schedule.wait(work, quota, self._clock.now())
        self._pump_soon()
        try:
            await future
        except asyncio.CancelledError:
            if self._waiting.pop(work, None) is not None:
                self.schedule.stop_waiting(work)
            raise
        if not self._may_call():  # any more, since the token was handed out
            raise StartOverError
        self.schedule.lane_of(work).sent(quota, self._clock.now())
        self._calling.add(work)

    def called(self, work: Work, error: BaseException | None) -> float:
        """When the call ended. Raises StartOverError where it was broken off."""
        self._calling.discard(work)
        if work in self._broken_off:
            self._broken_off.discard(work)
            if self._active[work].uncancel() == 0:  # else a drain has cancelled it too
                raise StartOverError from error
        return self._clock.now()

    async def pause(self, work: Work, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self.parked(work, self._draining.wait())
                raise GivenUpError

    async def parked(self, work: Work, answer: Awaitable[_T]) -> _T:
        self.schedule.park(work, self._clock.now())
        self._pump_soon()
        try:
            return await answer
        finally:
            self.schedule.unpark(work)

    async def session(self, work: Work, ready: Awaitable[None]) -> None:
        await self.prepared(work, ready)
        self.schedule.lane_of(work).has_session()

    @types.coroutine
    def prepared(self, work: Work, needed: Awaitable[_T]) -> Generator[Any, Any, _T]:
        """`Turn.prepare`. Driven by hand, since nearly always there is nothing to wait for, and the place is to be kept then."""
        steps = needed.__await__()
        try:
            waits_for = next(steps)
        except StopIteration as end:
            return cast("_T", end.value)
        if self._draining.is_set():
            self._active[work].cancel()  # it has begun to wait, and may hold what others wait for: it is to clean up
        lane = self.schedule.lane_of(work)
        lane.need()
        self.schedule.park(work, self._clock.now())
        self._preparing.add(work)
        self._pump_soon()
        try:
            while True:
                try:
                    yield waits_for
                except BaseException as error:  # noqa: BLE001  what awaits it handles it, a cancellation too
                    waits_for = steps.throw(error)
                else:
                    waits_for = next(steps)
        except StopIteration as end:
            return cast("_T", end.value)
        finally:
            lane.had()
            self._preparing.discard(work)
            self.schedule.unpark(work)

    def decided(self, work: Work, evidence: Evidence) -> None:
        """An answer from before the hold, of which only the outcome took until now, says nothing. Nor does one to another question.

        The registry has answered whoever was begun after the hold and has ended, but second looks, which do not ask it.
        """
        lane = self.schedule.lane_of(work)
        if lane.fault.reason is None:
            return
        if lane.fault.reason == FailureClass.REGISTRY_UNAVAILABLE.label:
            proof_at = None if isinstance(work.command, VerifyCommand) else evidence.began_at
        elif lane.fault.reason == FailureClass.TAGS_NOT_READABLE.label:
            proof_at = evidence.tags_asked_at
        else:
            proof_at = evidence.answered_at
        if proof_at is not None and proof_at > lane.fault.began_at:
            lane.fault.release()
            self._on_released(lane.id)

    def answered(self, work: Work) -> None:
        self.schedule.lane_of(work).fault.answered()

    def retries(self, work: Work, error: CallFailedError) -> None:
        lane = self.schedule.lane_of(work)
        if lane.fault.retries(self._clock.now(), error.failure.label, error.detail) and not lane.fault.is_probing:
            self._on_retry(lane.id, error.failure, error.detail)

    def throttled(self, work: Work, quota: Quota) -> None:
        self.schedule.throttled(work, quota, self._clock.now())

    def promote(self, work: Work, priority: Priority) -> None:
        self.schedule.lane_of(work).promote(work, priority)

    # -- inside

    def _interrupt(self, works: list[Work], error: type[GivenUpError]) -> None:
        """Wake commands that wait for tokens; the last first, so that those that are put back stand as they did."""
        for work in reversed(works):
            if not (waiting := self._waiting.pop(work)).done():  # cancelled this moment
                waiting.set_exception(error())

    def _pump_soon(self) -> None:
        """Pump once for all that happens in this turn of the loop: the records of one fetch are joined before any of them starts."""
        if not self._is_pump_due:
            self._is_pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Start what may be started now, hand out the tokens that there are, and set the timer for the next time."""
        self._is_pump_due = False
        if self._tasks is None or self._draining.is_set() or self._suspended_for:
            return
        if not self._may_call():
            self.suspend(FENCED)
            return
        now = self._clock.now()
        while (work := self.schedule.next(now)) is not None:
            if (waiting := self._waiting.pop(work, None)) is not None:
                if not waiting.done():  # cancelled this moment
                    waiting.set_result(None)
            else:
                self._idle.clear()
                self._active[work] = self._tasks.create_task(self._run(work))
        self._wake_at(self.schedule.wake_at())

    def _wake_at(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else asyncio.get_running_loop().call_at(at, self._pump)

    def _stop(self) -> None:
        """Start nothing more, ever."""
        self._tasks = None
        self._wake_at(None)

    async def _run(self, work: Work, overdue: Held | None = None) -> None:
        """Work a command, or postpone one that has waited too long for what holds its lane."""
        turn = Turn(self, work, began_at=self._clock.now())
        try:
            held = None if overdue is not None else await self._worked(work.command, turn)
            if held is not None and self._hold(work, held):
                overdue = held
            if overdue is not None:
                await self._postponed(work, overdue)
        except StartOverError:
            self._leave(work, is_put_back=True, is_first=True)
        except GivenUpError:
            self._leave(work)  # not finished: its records are to be read again
        except BaseException as e:  # a cancellation too: its place in the lane has to be left
            is_asked_for = self._active[work].cancelling() > 0  # late in a drain, or at the end of `run`
            self._leave(work)
            if isinstance(e, asyncio.CancelledError) and not is_asked_for:
                raise RuntimeError("a command was cancelled by nobody") from e  # TaskGroup would not look at it
            raise  # a bug ends `run`
        else:
            if held is not None and overdue is None:
                self._leave(work, is_put_back=True)
            else:
                if overdue is None:
                    turn.decided()
                self._finished(work)

    def _worked(self, command: Command, turn: Turn) -> Awaitable[Held | None]:
        match command:
            case EnsureCommand():
                return self._work(command, turn)
            case SweepCommand():
                return self._sweep(command, turn)
            case VerifyCommand():
                return self._verify(command, turn)

    async def _postponed(self, work: Work, held: Held) -> None:
        if isinstance(work.command, EnsureCommand):  # of the others none is ever overdue
            await self.parked(work, self._postpone(work.command, held))

    def _finished(self, work: Work) -> None:
        self.last_progress = self._clock.now()
        for delivery in work.deliveries:
            delivery.finish()
        self._leave(work)

    def _hold(self, work: Work, held: Held) -> bool:
        """Hold the command's lane, with all that has started in it; say whether the command has held it for too long to be put back."""
        if self._tasks is None or self._draining.is_set():
            return False
        now = self._clock.now()
        lane = self.schedule.lane_of(work)
        if lane.fault.hold(now, held.failure.label, held.detail, first_s=self._hold_s, longest_s=self._max_hold_s):
            self._on_held(lane.id, held.failure, held.detail)
            self._interrupt(self.schedule.give_up_waits(lane), StartOverError)
            for overdue in self.schedule.take_overdue(lane, now, after_s=self._hold_at_most_s):
                self._active[overdue] = self._tasks.create_task(self._run(overdue, held))
        if work.held_since is None:
            work.held_since = now
        return isinstance(work.command, EnsureCommand) and now - work.held_since >= self._hold_at_most_s

    def _leave(self, work: Work, *, is_put_back: bool = False, is_first: bool = False) -> None:
        now = self._clock.now()
        if is_put_back and not self._draining.is_set():
            self.schedule.put_back(work, now, is_first=is_first)
        else:
            self.schedule.finish(work, now)
        del self._active[work]
        if not self._active:
            self._idle.set()
        self._pump_soon()
