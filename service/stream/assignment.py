"""The partitions that a member of a group has from one rebalance to the next, and how far each of them is."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from aiokafka import TopicPartition

from service.domain.offsets import OffsetLedger, Progress
from service.domain.status import PartitionStatus


class Assignment:
    """What belongs together and ends together: once closed, nothing that is still under way for it changes anything.

    Times are monotonic seconds. `before` is this member's last assignment, closed by now, and `generation` counts the rebalances of the
    group: what it had in the one right before has been nobody else's. `on_finished` is called after each record that is finished.
    """

    def __init__(
        self,
        partitions: Iterable[TopicPartition] = (),
        *,
        generation: int = 0,
        before: "Assignment | None" = None,
        now: float = 0.0,
        epoch_ms: int = 0,
        on_finished: Callable[[], None] = lambda: None,
    ) -> None:
        self.generation = generation
        kept: Mapping[TopicPartition, float] = (
            before.owned_since if before is not None and before.generation == generation - 1 else {}
        )
        self.owned_since: dict[TopicPartition, float] = {tp: kept.get(tp, now) for tp in partitions}
        self.ledgers = {
            tp: OffsetLedger(owned_since=since, on_finished=on_finished) for tp, since in self.owned_since.items()
        }
        self.committed: dict[TopicPartition, Progress] = {}
        self.begins: dict[
            TopicPartition, int
        ] = {}  # of partitions of which nothing was committed when they were assigned
        self._ends: Mapping[TopicPartition, int] = {}
        self.is_adopted = asyncio.Event()  # what former owners finished is known, or cannot be
        if not self.ledgers:
            self.is_adopted.set()
        self.joined_at_ms = epoch_ms
        self._moved_at = dict.fromkeys(self.ledgers, now)

    @property
    def pending(self) -> int:
        """Records handed over and not finished."""
        return sum(map(len, self.ledgers.values()))

    def with_room(self, limit: int, *, max_window: int, max_records: int) -> tuple[list[TopicPartition], int]:
        """The partitions to fetch so that no more than `limit` records are in hand, and how many records at once, `max_records` at most.

        All of them while half the limit is free. After that those below their fair share of a quarter of it, and no more than a share
        at once: a full partition holds back none that is not, and the whole stays within the limit. Where positions do not move, all
        partitions together remember `max_window` offsets, finished or not: each as many as are free yet, or else a poll's.
        """
        half = max(1, limit // 2)
        windows = max(max_records, max_window - sum(ledger.window for ledger in self.ledgers.values()))
        short = {tp: ledger for tp, ledger in self.ledgers.items() if ledger.window < windows}
        if self.pending < half:
            return list(short), min(max_records, half)
        share = max(1, half // 2 // max(1, len(self.ledgers)))
        return [tp for tp, ledger in short.items() if len(ledger) < share], share

    def adopt(self, committed: Mapping[TopicPartition, Progress]) -> None:
        """Take over what former owners committed."""
        for tp, progress in committed.items():
            self.ledgers[tp].adopt(progress)
            self.committed.setdefault(tp, progress)

    def moved(self) -> dict[TopicPartition, Progress]:
        """What there is to commit."""
        return {
            tp: progress
            for tp, ledger in self.ledgers.items()
            if (progress := ledger.progress) is not None and progress != self.committed.get(tp)
        }

    def standing(self) -> dict[TopicPartition, Progress]:
        """One partition and its committed position, to commit again as a heartbeat. Empty if none is known."""
        for tp, ledger in self.ledgers.items():
            known = ledger.progress or self.committed.get(tp)
            if known is None and tp in self.begins:
                known = Progress(self.begins[tp])
            if known is not None:
                return {tp: known}
        return {}

    def has_committed(self, progress: Mapping[TopicPartition, Progress], now: float) -> None:
        """The broker has taken this."""
        for tp, at in progress.items():
            before = self.committed.get(tp)
            if before is None or before.position != at.position:
                self._moved_at[tp] = now
            self.committed[tp] = at

    def measured(self, ends: Mapping[TopicPartition, int], now: float) -> None:
        """The broker has named the end of every partition."""
        self._ends = ends
        for tp, end in ends.items():
            if (at := self._base(tp)) is not None and at >= end:
                self._moved_at[tp] = now  # there is nothing that could move it

    def close(self) -> None:
        """End it: whatever finishes from here on is somebody else's to account for, and who waits for adoption finds it closed."""
        for ledger in self.ledgers.values():
            ledger.close()
        self.is_adopted.set()

    def status(self, tp: TopicPartition, *, highwater: int | None, is_held_back: bool, now: float) -> PartitionStatus:
        """One partition. Its end is what the broker last said, in an answer to a fetch (`highwater`) or to the question for it."""
        ledger = self.ledgers[tp]
        committed = self.committed[tp].position if tp in self.committed else None
        end = max((end for end in (highwater, self._ends.get(tp)) if end is not None), default=None)
        base = self._base(tp)
        lag = None if end is None or base is None else max(0, end - base)
        return PartitionStatus(
            tp.topic,
            tp.partition,
            pending=len(ledger),
            position=ledger.position if ledger.position is not None else committed,
            committed=committed,
            lag=lag,
            unmoved_s=now - self._moved_at[tp] if lag else 0.0,
            is_held_back=is_held_back,
        )

    def _base(self, tp: TopicPartition) -> int | None:
        """What the lag counts from."""
        return self.committed[tp].position if tp in self.committed else self.begins.get(tp)
