"""The commands of a lane that have not been started, in the order of their urgency. Pure: every time is in monotonic seconds.

Whoever has waited longest beyond the patience of their class goes first: a sweep that waits five minutes is as urgent as an event of this
moment, so nothing starves. But a large backlog of aged commands must not block events: of each class at most one call in so many is as
urgent as an event, so that at least half of the calls are for the urgent.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from service.domain.command import Priority
from service.domain.work import Work

PATIENCE_S: Final = 0.0, 30.0, 300.0  # by Priority; a tuple and no dict: an enum hashes slowly, and every call asks
SPACING: Final = 0, 3, 6  # calls, by Priority
# What a class was served beyond that, while nobody else wanted to call, is held against it for so long at most.
MAX_DEBT_S: Final = 60.0

_PRIORITIES: Final = tuple(Priority)  # an enum is slow to walk, and this is done five times a command
_NEVER: Final = float("inf")


class CommandQueue:
    """One command for each key. Those of a class go out in the order of their coming."""

    __slots__ = ("_by_key", "_classes", "_earliest", "_rate_per_s")

    def __init__(self, *, rate_per_s: float) -> None:
        """`rate_per_s` is how many calls a second there are to share."""
        self._rate_per_s = rate_per_s
        self._by_key: dict[str, Work] = {}
        self._classes: tuple[deque[Work], ...] = tuple(deque() for _ in Priority)
        self._earliest = [0.0 for _ in Priority]  # the rank of the next of a class, if it has waited for longer

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Work]:
        """In no order."""
        return iter(self._by_key.values())

    def get(self, key: str) -> Work | None:
        return self._by_key.get(key)

    def put(self, work: Work, *, is_first: bool = False) -> None:
        """Queue a command whose key is not there yet: behind the others of its class, or before them."""
        work.priority = work.command.priority
        self._by_key[work.key] = work
        waiting = self._classes[work.priority]
        (waiting.appendleft if is_first else waiting.append)(work)

    def promote(self, work: Work) -> None:
        """Move a command up that has absorbed a more urgent one; the entry left behind is skipped when it comes up."""
        if work.command.priority < work.priority:
            work.priority = work.command.priority
            self._classes[work.priority].append(work)

    def first(self, *, is_urgent_only: bool = False) -> tuple[Work, float] | None:
        """The most urgent command and its rank, lower is more urgent; None where there is none."""
        first, first_rank = None, _NEVER
        for priority in _PRIORITIES[:1] if is_urgent_only else _PRIORITIES:
            head = self._head(priority)
            if head is not None and (rank := self._rank_of(head)) < first_rank:
                first, first_rank = head, rank
        return None if first is None else (first, first_rank)

    def take(self, work: Work, now: float) -> None:
        """Remove what `first` has named, and settle its rank and that of the next of its class."""
        self._classes[work.priority].popleft()
        del self._by_key[work.key]
        work.rank = self._rank_of(work)
        if calls := SPACING[work.priority]:
            urgent = self._head(Priority.URGENT)
            present = now if urgent is None else urgent.since  # for one class as for the other
            spaced = max(work.rank + calls / self._rate_per_s, present)
            self._earliest[work.priority] = min(spaced, now + MAX_DEBT_S)

    def made_no_call(self, work: Work) -> None:
        """Be told of a command that was taken for nothing: that is held against its class no more."""
        if work.priority is work.command.priority:  # or it was promoted since, and its rank says nothing of its class
            self._earliest[work.priority] = min(self._earliest[work.priority], work.rank)

    def remove(self, works: list[Work]) -> None:
        """Take out some, wherever they stand. Looks at every one."""
        removed = set(works)
        for priority, queue in zip(Priority, self._classes, strict=True):
            left = [work for work in queue if work not in removed and work.priority is priority]
            queue.clear()
            queue.extend(left)
        for work in works:
            del self._by_key[work.key]

    def clear(self) -> None:
        self._by_key.clear()
        for waiting in self._classes:
            waiting.clear()

    def _head(self, priority: Priority) -> Work | None:
        """The first live entry of a class: those that were promoted out of it, for good, are dropped here."""
        waiting = self._classes[priority]
        while waiting and waiting[0].priority is not priority:
            waiting.popleft()
        return waiting[0] if waiting else None

    def _rank_of(self, head: Work) -> float:
        return max(head.since + PATIENCE_S[head.priority], self._earliest[head.priority])
