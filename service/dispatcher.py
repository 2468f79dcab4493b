"""Runs the schedule: starts commands when their lane may call, lets them call again, finishes their records, drains.

The only task that exists for a command is the one that works it now; the rest are entries in the schedule. One timer wakes the
dispatcher when the next lane is due, so an idle service uses no CPU.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from service.domain import log_group
from service.domain.command import EnsureCommand
from service.domain.lane import Work
from service.domain.offsets import Delivery
from service.domain.outcome import FailureClass
from service.domain.schedule import Schedule
from service.ports import Clock, GivenUpError

_FRESH_S: Final = 0.1  # a token spent this late moves a call by half an interval at 5 a second


@dataclass(frozen=True, slots=True)
class Held:
    """The command failed for a fault that is not its own: it stays in its lane, which waits."""

    failure: FailureClass
    detail: str


class Turn:
    """A command's hold on its lane while it is worked. It starts with one token: the right to one AssociateKmsKey call."""

    __slots__ = ("_dispatcher", "_taken_at", "_work", "has_called", "has_token")

    def __init__(self, dispatcher: "Dispatcher", work: Work, taken_at: float) -> None:
        self._dispatcher = dispatcher
        self._work = work
        self._taken_at = taken_at
        self.has_called = False
        self.has_token = True

    def give_back(self) -> None:
        """Say that no call is needed now: another command may have the token at once, unless its time is past."""
        if self.has_token:
            self.has_token = False
            if not self._is_stale:
                self._dispatcher.give_back(self._work)

    async def ready(self) -> None:
        """Return with a token to spend now. One that has grown old is exchanged: tokens saved up would all be spent at once."""
        if self._is_stale or not self.has_token:
            await self.again(0)

    @property
    def _is_stale(self) -> bool:
        return self._dispatcher.now() - self._taken_at > _FRESH_S

    def spend(self) -> None:
        """Say that the call is about to be made."""
        self.has_called = True
        self.has_token = False

    async def again(self, delay_s: float) -> None:
        """Wait `delay_s` seconds and for the lane's next token, which goes to retries before new commands.

        A token that is not spent yet goes back first. Raises GivenUpError when the dispatcher drains meanwhile.
        """
        self.give_back()
        await self._dispatcher.resume(self._work, delay_s)
        self._taken_at = self._dispatcher.now()
        self.has_token = True

    def throttled(self) -> None:
        """AWS refused the call for its rate: the whole lane slows down."""
        self._dispatcher.throttled(self._work)


class Dispatcher:
    """Works submitted commands, each lane at its pace, at most `max_calling` of the schedule at once.

    `work` returns None when the command's outcome is durable, or Held. Anything it raises is a bug and ends `run`, and with it the
    process, with nothing finished that was not done. Times are the clock's, which must be the event loop's own.
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
    ) -> None:
        self.schedule = schedule
        self._work = work
        self._clock = clock
        self._hold_s = hold_s
        self._max_hold_s = max_hold_s
        self._on_held = on_held
        self._tasks: asyncio.TaskGroup | None = None
        self._active: dict[Work, asyncio.Task[None]] = {}
        self._paused: dict[Work, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_progress: float | None = None

    async def run(self) -> None:
        """Work until cancelled. What is under way then is cancelled too: drain first."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._pump()
                await asyncio.Event().wait()
        finally:
            self._tasks = None
            if self._timer is not None:
                self._timer.cancel()

    def submit(self, command: EnsureCommand, delivery: Delivery) -> None:
        """Queue a command; its delivery is finished when its outcome is durable."""
        self.schedule.add(command, delivery, self._clock.now())
        self._pump()

    async def drain(self, deadline_s: float) -> int:
        """Start nothing more, let what is calling end for up to `deadline_s` seconds, then cancel it.

        Returns how many were cancelled. Work goes on after `restart`.
        """
        self._is_draining = True
        for work in self.schedule.drop(self._clock.now()):
            self._paused.pop(work).set_exception(GivenUpError())
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
        self._is_draining = False
        self._pump()

    # -- for Turn

    async def resume(self, work: Work, delay_s: float) -> None:
        if self._is_draining:
            raise GivenUpError
        now = self._clock.now()
        future = self._paused[work] = asyncio.get_running_loop().create_future()
        self.schedule.pause(work, now + delay_s, now)
        self._pump()
        await future

    def now(self) -> float:
        return self._clock.now()

    def give_back(self, work: Work) -> None:
        self.schedule.give_back(work, self._clock.now())
        self._pump()

    def throttled(self, work: Work) -> None:
        self.schedule.lane_of(work).pacer.throttled(self._clock.now())

    # -- inside

    def _pump(self) -> None:
        """Start and resume everything that may call now, and set the timer for the next time."""
        if self._tasks is None or self._is_draining:
            return
        now = self._clock.now()
        while (work := self.schedule.next(now)) is not None:
            if (paused := self._paused.pop(work, None)) is not None:
                paused.set_result(None)
            else:
                self._idle.clear()
                self._active[work] = self._tasks.create_task(self._run(work))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (wake_at := self.schedule.wake_at()) is not None:
            self._timer = asyncio.get_running_loop().call_at(wake_at, self._pump)

    async def _run(self, work: Work) -> None:
        turn = Turn(self, work, self._clock.now())
        try:
            held = await self._work(work.command, turn)
        except GivenUpError:
            self._leave(work, turn)  # not finished: its records are to be read again
            self._pump()
        except BaseException:  # late in a drain, the end of `run`, or a bug, which ends it: nothing more is started
            self._is_draining = True
            self._leave(work, turn)
            raise
        else:
            if held is None:
                self._finished(work, turn)
            else:
                self._held(work, turn, held)
            self._pump()

    def _finished(self, work: Work, turn: Turn) -> None:
        self.last_progress = self._clock.now()
        for delivery in work.deliveries:
            delivery.finish()
        if turn.has_called:  # and AWS answered: whatever held the lane is over
            self.schedule.lane_of(work).release()
        self._leave(work, turn)

    def _held(self, work: Work, turn: Turn, held: Held) -> None:
        if self._is_draining:
            return self._leave(work, turn)
        now = self._clock.now()
        lane = self.schedule.lane_of(work)
        if lane.hold(now, held.failure.label, first_s=self._hold_s, longest_s=self._max_hold_s):
            self._on_held(lane.id, held.failure, held.detail)
        return self._leave(work, turn, is_put_back=True)

    def _leave(self, work: Work, turn: Turn, *, is_put_back: bool = False) -> None:
        now = self._clock.now()
        turn.give_back()
        if is_put_back:
            self.schedule.put_back(work, now)
        else:
            self.schedule.finish(work, now)
        del self._active[work]
        if not self._active:
            self._idle.set()
