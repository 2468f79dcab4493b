"""Which offsets of an assigned partition are not finished yet, and so how far it is safe to commit.

One ledger lives for one assignment of one partition. When the partition is taken away its ledger is closed, and finishing an offset
of a closed ledger changes nothing: that is the fence against work that outlives its assignment.

A lane that is slow holds the position of its whole partition back. So that the next owner does not work again what other lanes have
finished above it, those offsets are committed with the position, as the text that Kafka keeps beside an offset.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Final

_MAX_METADATA: Final = 4000  # characters; a broker's offset.metadata.max.bytes is 4096 unless set otherwise
_MAX_OFFSETS: Final = 1_000_000  # in what we read back: more than a replica holds, so anything else is not ours
_SCHEME: Final = "f1:"  # finished offsets, first way to write them


@dataclass(frozen=True, slots=True)
class Progress:
    """What to commit: the position, and the finished offsets above it as text."""

    position: int
    metadata: str = ""


class OffsetLedger:
    """The incomplete offsets of one assignment: those actually seen, so that gaps (compaction, transactions) cost nothing.

    `adopt` takes over what a former owner left. `owned_since` is since when the partition has been ours without a break,
    in this assignment and those before (monotonic seconds). `on_finished` is called after each `finish`.
    """

    __slots__ = (
        "_adopted",
        "_adopted_at",
        "_finished",
        "_first",
        "_in_order",
        "_next",
        "_on_finished",
        "_open",
        "_progress",
        "is_open",
        "owned_since",
    )

    def __init__(self, *, owned_since: float = 0.0, on_finished: Callable[[], None] = lambda: None) -> None:
        self.owned_since = owned_since
        self._in_order: deque[int] = deque()  # seen, from the position on
        self._finished: set[int] = set()  # of those
        self._adopted: deque[int] = deque()  # finished by a former owner and not seen yet, ascending
        self._adopted_at = 0
        self._first: int | None = None
        self._next: int | None = None
        self._open = 0
        self._progress: Progress | None = None  # as it was last written; None once it has changed
        self._on_finished = on_finished
        self.is_open = True

    def __len__(self) -> int:
        """How many offsets are seen and not finished."""
        return self._open

    @property
    def window(self) -> int:
        """How many offsets are remembered: those from the position to the last seen."""
        return len(self._in_order)

    @property
    def next(self) -> int | None:
        """The lowest offset that may be seen next; None before the first, and once closed."""
        return self._next

    def adopt(self, committed: Progress) -> None:
        """Take over what a former owner finished, as far as it has not been seen yet.

        Nothing, where reading began below the position: the topic was truncated or the group reset, and its offsets mean other records.
        """
        if self._first is not None and self._first < committed.position:
            return
        self._progress = None
        self._adopted_at = committed.position
        unseen = (offset for offset in read_finished(committed) if self._next is None or offset >= self._next)
        self._adopted = deque(sorted(unseen))

    def see(self, offset: int) -> "Delivery":
        """Register an offset as it is read. Offsets ascend within an assignment; raises ValueError if they do not."""
        if self._next is not None and offset < self._next:
            raise ValueError(f"offset {offset} after {self._next - 1}")
        self._progress = None
        if self._first is None:
            self._first = offset
            if offset < self._adopted_at:
                self._adopted.clear()
        while self._adopted and self._adopted[0] < offset:
            self._adopted.popleft()  # it is no longer on the topic
        is_new = not self._adopted or self._adopted[0] != offset
        self._in_order.append(offset)
        self._next = offset + 1
        if is_new:
            self._open += 1
        else:
            self._finished.add(self._adopted.popleft())
            self._advance()
        return Delivery(self, offset, is_new)

    def pass_over(self, first: int, last: int) -> None:
        """Go on after all offsets from `first` to `last` without remembering them: nothing follows from their records.

        Where one below them is open they are read again by the next owner, who passes over them too. Raises ValueError as `see` does.
        """
        if self._next is not None and last < self._next:
            raise ValueError(f"offset {last} after {self._next - 1}")
        self._progress = None
        if self._first is None:
            self._first = first
            if first < self._adopted_at:
                self._adopted.clear()
        self._next = last + 1

    def finish(self, offset: int) -> None:
        """Mark an offset as finished, once; the position moves when nothing below it is open."""
        if not self.is_open:
            return
        self._progress = None
        self._finished.add(offset)
        self._open -= 1
        self._advance()
        self._on_finished()

    @property
    def position(self) -> int | None:
        """The offset to commit: the lowest not finished, else the one after the last seen; None before the first, and once closed."""
        return self._in_order[0] if self._in_order else self._next

    @property
    def progress(self) -> Progress | None:
        """What to commit; None before the first offset, and once closed. Where it has changed it takes time in the size of the window."""
        position = self.position
        if position is not None and self._progress is None:
            seen = (offset for offset in self._in_order if offset in self._finished)
            self._progress = Progress(position, write_finished(position, chain(seen, self._adopted)))
        return self._progress

    def close(self) -> None:
        """End the assignment: whatever finishes from here on is somebody else's to account for."""
        self.is_open = False
        self._progress = None
        self._in_order.clear()
        self._finished.clear()
        self._adopted.clear()
        self._next = None
        self._open = 0

    def _advance(self) -> None:
        while self._in_order and self._in_order[0] in self._finished:
            self._finished.remove(self._in_order.popleft())


@dataclass(frozen=True, slots=True)
class Delivery:
    """One record in our hands; finish it when its outcome, retry record or dead letter is acknowledged.

    One that is not new was finished by a former owner of the partition: there is nothing to do for it.
    """

    ledger: OffsetLedger
    offset: int
    is_new: bool = True

    @property
    def owned_since(self) -> float:
        """Since when nobody else has called for the lanes of its partition (monotonic seconds)."""
        return self.ledger.owned_since

    def finish(self) -> None:
        self.ledger.finish(self.offset)


def untracked(*, owned_since: float = 0.0) -> Delivery:
    """For work that no record asks for, in a lane that is known as ours, or ours since then: finishing it changes nothing."""
    return Delivery(_nobodys(owned_since), 0)


@lru_cache
def _nobodys(owned_since: float) -> OffsetLedger:
    ledger = OffsetLedger(owned_since=owned_since)  # an empty one takes 2 kB
    ledger.close()
    return ledger


def write_finished(position: int, finished: Iterable[int]) -> str:
    """The position, and the finished offsets (ascending) above it as runs: `gap.length` from the end of the run before, in base 36.

    A mirror that keeps a group's progress on another cluster translates the offset and not the text, which then names another position.

    Those below it are of a former owner, and gone since: retention or compaction took them before we could read them. What does not
    fit into the broker's limit is left out from the far end: it is worked again, which does no harm.
    """
    parts: list[str] = []
    heading = f"{_SCHEME}{_base36(position)}:"
    size, end = len(heading), position
    for start, length in _runs(offset for offset in finished if offset > position):
        part = f"{_base36(start - end)}.{_base36(length)}"
        size += len(part) + 1
        if size > _MAX_METADATA:
            break
        parts.append(part)
        end = start + length
    return heading + ",".join(parts) if parts else ""


def _runs(offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending offsets as runs without a gap: first offset and length."""
    start = end = -1
    for offset in offsets:
        if offset != end:
            if start != end:
                yield start, end - start
            start = offset
        end = offset + 1
    if start != end:
        yield start, end - start


def read_finished(committed: Progress) -> set[int]:
    """The offsets that `write_finished` wrote for this position; none for any other text, since anybody may commit anything."""
    heading = f"{_SCHEME}{_base36(committed.position)}:"
    if not committed.metadata.startswith(heading):
        return set()
    finished: set[int] = set()
    end = committed.position
    try:
        for part in committed.metadata.removeprefix(heading).split(","):
            gap, length = (int(number, 36) for number in part.split("."))
            start = end + gap
            end = start + length
            if gap < 0 or length < 1 or len(finished) + length > _MAX_OFFSETS:
                return set()
            finished.update(range(start, end))
    except ValueError:
        return set()
    return finished


def _base36(number: int) -> str:
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits
