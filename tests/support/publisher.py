"""The port Publisher in memory, for tests of whatever writes to Kafka."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.ports import OutgoingRecord, RecordTooLargeError


@dataclass(slots=True)
class FakePublisher:
    """Acknowledges every record at once, unless told otherwise. `records` are those acknowledged, in that order.

    `stall` makes publishes wait, as they do while the broker is away; one that is cancelled then was not written. `failure` is
    raised by every publish while it is set. Values of more than `max_value_bytes` are refused, as a broker does.
    """

    records: list[OutgoingRecord] = field(default_factory=list)
    failure: BaseException | None = None
    max_value_bytes: int = 2**30
    waiting: int = 0
    _stalled: frozenset[str] | None = frozenset()  # topics; None is all
    _resumed: asyncio.Event = field(default_factory=asyncio.Event)

    def stall(self, *topics: str) -> None:
        """Acknowledge nothing more on these topics, or on any where none is named, until `resume`."""
        self._stalled = frozenset(topics) or None
        self._resumed.clear()

    def resume(self) -> None:
        self._stalled = frozenset()
        self._resumed.set()

    async def publish(self, record: OutgoingRecord) -> None:
        while self._stalled is None or record.topic in self._stalled:
            self.waiting += 1
            try:
                await self._resumed.wait()
            finally:
                self.waiting -= 1
        if self.failure is not None:
            raise self.failure
        if len(record.value or b"") > self.max_value_bytes:
            raise RecordTooLargeError(str(self.max_value_bytes))
        self.records.append(record)

    def values(self, topic: str) -> Sequence[bytes]:
        """The values acknowledged on a topic, in their order; tombstones left out."""
        return [r.value for r in self.records if r.topic == topic and r.value is not None]
