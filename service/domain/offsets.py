"""Which offsets of an assigned partition are not finished yet, and so how far it is safe to commit.

One ledger lives for one assignment of one partition. When the partition is taken away its ledger is closed, and finishing an offset
of a closed ledger changes nothing: that is the fence against work that outlives its assignment.
"""

from collections import deque
from dataclasses import dataclass


class OffsetLedger:
    """The incomplete offsets of one assignment: those actually seen, so that gaps (compaction, transactions) cost nothing."""

    __slots__ = ("_finished", "_in_order", "_next", "is_open")

    def __init__(self) -> None:
        self._in_order: deque[int] = deque()
        self._finished: set[int] = set()
        self._next: int | None = None
        self.is_open = True

    def __len__(self) -> int:
        """How many offsets are seen and not finished."""
        return len(self._in_order) - len(self._finished)

    def see(self, offset: int) -> "Delivery":
        """Register an offset as it is read. Offsets ascend within an assignment; raises ValueError if they do not."""
        if self._next is not None and offset < self._next:
            raise ValueError(f"offset {offset} after {self._next - 1}")
        self._in_order.append(offset)
        self._next = offset + 1
        return Delivery(self, offset)

    def finish(self, offset: int) -> None:
        """Mark an offset as finished, once; the position moves when nothing below it is open."""
        if not self.is_open:
            return
        self._finished.add(offset)
        while self._in_order and self._in_order[0] in self._finished:
            self._finished.remove(self._in_order.popleft())

    @property
    def position(self) -> int | None:
        """The offset to commit: the lowest not finished, else the one after the last seen; None before the first, and once closed."""
        return self._in_order[0] if self._in_order else self._next

    def close(self) -> None:
        """End the assignment: whatever finishes from here on is somebody else's to account for."""
        self.is_open = False
        self._in_order.clear()
        self._finished.clear()
        self._next = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One record in our hands; finish it when its outcome, retry record or dead letter is acknowledged."""

    ledger: OffsetLedger
    offset: int

    @property
    def is_ours(self) -> bool:
        """Whether the partition is still assigned to us as it was when the record was read."""
        return self.ledger.is_open

    def finish(self) -> None:
        self.ledger.finish(self.offset)
