"""Fencing: a replica that can no longer prove its group membership stops calling AWS, because its partitions may have a new owner.

A member that loses only its coordinator would go on for ever with the records it has, while the group has given its partitions to
another: two would spend a lane's quota, and call for one log group at once. So each proof of membership is a lease: it counts from when
the proof was asked for, and ends before the group evicts a silent member. Calls that still hang right before that are broken off.
"""

import asyncio
from typing import Final

import structlog

from service.core.dispatcher import FENCED, Dispatcher
from service.ports import Clock

_NEVER: Final = float("-inf")
# Before the end of the session: for a loop that is late, and for a request that is on its way.
_BREAKS_OFF_S: Final = 0.5
_HINT: Final = (
    "The group's coordinator does not answer. Check that every broker can be reached; calls go on by themselves."
)

_log = structlog.get_logger(__name__)


class Fence:
    """The port Membership, between a consumer and the dispatcher of its commands.

    For `lasts_s` seconds after a proof calls may begin; `session_s` seconds after it none is under way. They must be in an event loop.
    """

    def __init__(self, *, clock: Clock, lasts_s: float, session_s: float) -> None:
        self._clock = clock
        self._lasts_s = lasts_s
        self._breaks_off_after_s = session_s - _BREAKS_OFF_S - lasts_s
        self._dispatcher: Dispatcher | None = None
        self._until = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._shut_at: float | None = None
        self._is_told = False

    @property
    def shut_s(self) -> float | None:
        """For how long calls have been kept back (seconds); None while they are not."""
        return None if self._shut_at is None else self._clock.now() - self._shut_at

    def attach(self, dispatcher: Dispatcher) -> None:
        """Let this dispatcher go on when membership is proven; it asks `may_call` itself."""
        self._dispatcher = dispatcher

    def may_call(self) -> bool:
        """Whether the partitions are ours for sure. Looked at for every start: a process that was frozen finds out before it calls."""
        now = self._clock.now()
        if now < self._until:
            return True
        if self._shut_at is None:
            self._shut_at = now
            self._is_told = self._until != _NEVER  # not of the moments between two assignments
            if self._is_told:
                _log.warning("calls_kept_back", silent_s=round(now - self._until + self._lasts_s, 3), hint=_HINT)
        return False

    def proven(self, sent_at: float) -> None:
        self._until = max(self._until, sent_at + self._lasts_s)
        if self._clock.now() >= self._until:
            return  # the answer came too late to be one
        if self._timer is None:
            self._timer = self._look_at(self._until + self._breaks_off_after_s)
        if (shut_s := self.shut_s) is not None:
            self._shut_at = None
            if self._is_told:
                _log.warning("calls_resumed", after_s=round(shut_s, 3))
        if self._dispatcher is not None:
            self._dispatcher.resume(FENCED)

    def refuted(self) -> None:
        self._until = _NEVER
        self._break_off()

    def _look_at(self, at: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        """Break off what is under way, unless there was another proof meanwhile."""
        ends_at = self._until + self._breaks_off_after_s
        if self._clock.now() < ends_at:
            self._timer = self._look_at(ends_at)
        else:
            self._timer = None
            self._break_off()

    def _break_off(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.break_off()
