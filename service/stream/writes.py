"""Which topics cannot be written, and since when: of one topic, what waits for its acknowledgement and what failed.

Pure: times are monotonic seconds.
"""

from typing import Final

SLOW_S: Final = 3.0  # a broker acknowledges within milliseconds; aiokafka gives a batch up, and says why, after 40 s
_REMEMBERED_S: Final = 600.0  # after the last attempt that failed, where nobody tries again
_NO_ANSWER: Final = "no acknowledgement"


class Write:
    """One record on its way."""

    __slots__ = ("since",)

    def __init__(self, since: float) -> None:
        self.since = since


class Writes:
    """The records of one topic that are on their way.

    The topic fails from when a record is refused, or has waited for `SLOW_S`, until one is acknowledged while no other fails. A writer may
    give up before there is an answer, as a caller over HTTP does: that is remembered until the next acknowledgement, or for ten minutes
    in which nobody tries.
    """

    def __init__(self) -> None:
        self._under_way: dict[Write, None] = {}  # the oldest first
        self._failing: set[Write] = set()
        self._since = 0.0
        self._failed_at = float("-inf")
        self._error: str | None = None

    def begin(self, now: float) -> Write:
        write = Write(now)
        self._under_way[write] = None
        return write

    def failed(self, write: Write, error: str, now: float) -> bool:
        """The broker refuses a record, which is written again; say whether that is news."""
        is_news = self._remember(write, error, now)
        self._failing.add(write)
        return is_news

    def given_up(self, write: Write, now: float) -> bool:
        """Nobody waits for a record any more; say whether it is news that it could not be written."""
        self._end(write)
        is_slow = now - write.since >= SLOW_S
        return is_slow and self._remember(write, self._error or _NO_ANSWER, now)

    def acknowledged(self, write: Write, now: float) -> bool:
        """A record is written; say whether the topic could not be until now."""
        self._end(write)
        if self._error is None or self._failing or self._is_slow(now):
            return False
        self._error, self._failed_at = None, float("-inf")
        return True

    def failing(self, now: float) -> tuple[float, str] | None:
        """Since when the topic cannot be written, and why; None while it can."""
        if self._error is not None and (self._failing or now - self._failed_at < _REMEMBERED_S or self._is_slow(now)):
            return self._since, self._error
        return (next(iter(self._under_way)).since, _NO_ANSWER) if self._is_slow(now) else None

    def _remember(self, write: Write, error: str, now: float) -> bool:
        before = self.failing(now)
        is_news = before is None or self._error != error
        self._since = write.since if before is None else min(write.since, before[0])
        self._failed_at, self._error = now, error
        return is_news

    def _end(self, write: Write) -> None:
        del self._under_way[write]
        self._failing.discard(write)

    def _is_slow(self, now: float) -> bool:
        oldest = next(iter(self._under_way), None)
        return oldest is not None and now - oldest.since >= SLOW_S
