"""What a command may ask of whoever runs it while it is worked: tokens for its calls, and to give its place to others while it waits."""

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar

from service.domain.command import Priority
from service.domain.outcome import CallFailedError, FailureClass, Recourse
from service.domain.pacing import Quota
from service.domain.work import Work

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Held:
    """The command failed for a fault that is not its own: it stays in its lane, which waits."""

    failure: FailureClass
    detail: str


@dataclass(slots=True)
class Evidence:
    """What a command shows of whatever holds its lane, in monotonic seconds: when it began, and when it was last answered.

    AWS answers a call also by refusing it for what it asks. `tags_asked_at` is of a look-up of tags, whatever came of it.
    """

    began_at: float
    answered_at: float | None = None
    tags_asked_at: float | None = None


class Places(Protocol):
    """Whoever runs commands, and hands out their places; see `Turn` for what each promises."""

    def is_probing(self, work: Work) -> bool: ...
    async def token(self, work: Work, quota: Quota) -> None: ...
    def called(self, work: Work, error: BaseException | None) -> float: ...
    def answered(self, work: Work) -> None: ...
    def throttled(self, work: Work, quota: Quota) -> None: ...
    def retries(self, work: Work, error: CallFailedError) -> None: ...
    async def pause(self, work: Work, delay_s: float) -> None: ...
    async def parked(self, work: Work, answer: Awaitable[_T]) -> _T: ...
    async def session(self, work: Work, ready: Awaitable[None]) -> None: ...
    def prepared(self, work: Work, needed: Awaitable[_T]) -> Awaitable[_T]: ...
    def decided(self, work: Work, evidence: Evidence) -> None: ...
    def promote(self, work: Work, priority: Priority) -> None: ...


class Turn:
    """A command's place in its lane while it is worked: it leaves the place to others for as long as it waits."""

    __slots__ = ("_evidence", "_places", "_work")

    def __init__(self, places: Places, work: Work, *, began_at: float) -> None:
        """`began_at` is when the command was started, in monotonic seconds."""
        self._places = places
        self._work = work
        self._evidence = Evidence(began_at)

    @property
    def is_probing(self) -> bool:
        """Whether the lane is held, or this command finds out whether it still has to be: there is no use in trying twice."""
        return self._places.is_probing(self._work)

    def call(self, quota: Quota) -> AbstractAsyncContextManager[None]:
        """Wait for a token, to spend on the one call that is made in this context; a throttle of it slows the lane down.

        Raises GivenUpError when the dispatcher drains meanwhile, and StartOverError when the lane is held, the dispatcher suspended or the
        call broken off: by the time of another try, what the caller has learned would be stale. Waits for a few calls at most otherwise.
        """
        return _Call(self, quota)

    async def token(self, quota: Quota) -> None:
        """Wait for a token; for `call`."""
        await self._places.token(self._work, quota)

    def called(self, quota: Quota, error: BaseException | None) -> None:
        """Be told how a call ended; for `call`. Raises StartOverError where it was broken off."""
        now = self._places.called(self._work, error)
        if quota is Quota.TAGS:
            self._evidence.tags_asked_at = now
        if error is None or (isinstance(error, CallFailedError) and error.failure.recourse is not Recourse.HOLD):
            self._evidence.answered_at = now
        if error is None or (isinstance(error, CallFailedError) and not error.failure.is_silence):
            self._places.answered(self._work)
        if isinstance(error, CallFailedError) and error.failure is FailureClass.THROTTLED:
            self._places.throttled(self._work, quota)

    def retries(self, error: CallFailedError) -> None:
        """Say that a call has failed, and will be made again in place."""
        if error.failure.is_silence:
            self._places.retries(self._work, error)

    async def pause(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass. Raises GivenUpError when the dispatcher drains meanwhile."""
        await self._places.pause(self._work, delay_s)

    async def shared(self, answer: Awaitable[_T]) -> _T:
        """Wait for something that another command of the lane sees to."""
        return await self._places.parked(self._work, answer)

    async def record(self, written: Awaitable[_T]) -> _T:
        """Wait until what has come of the command is durable: others take the place, which is for calls, and a drain waits."""
        self.decided()
        return await self._places.parked(self._work, written)

    def decided(self) -> None:
        """Say that the command is not held, whatever comes of it: the hold of its lane is over where it shows that."""
        self._places.decided(self._work, self._evidence)

    async def session(self, ready: Awaitable[None]) -> None:
        """Have a session in the lane's account, which every call needs; `prepare` otherwise. Of a lane that has had none few start."""
        await self._places.session(self._work, ready)

    async def prepare(self, needed: Awaitable[_T]) -> _T:
        """Have what a call needs, a key or the registry's answer; where it has to be waited for, others take the place.

        Is cancelled when the dispatcher drains meanwhile: whoever owns the record begins again.
        """
        return await self._places.prepared(self._work, needed)

    @property
    def priority(self) -> Priority:
        """How urgent the command is, or whoever waits for its end."""
        return self._work.priority

    def promote(self, priority: Priority) -> None:
        """Be as urgent as another command of the lane, which waits for what this one does."""
        self._places.promote(self._work, priority)


class _Call(AbstractAsyncContextManager[None]):
    """`Turn.call`; a class, since a generator costs three times as much to enter and leave."""

    __slots__ = ("_quota", "_turn")

    def __init__(self, turn: Turn, quota: Quota) -> None:
        self._turn = turn
        self._quota = quota

    async def __aenter__(self) -> None:
        await self._turn.token(self._quota)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.called(self._quota, error)
