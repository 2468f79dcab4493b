"""Kafka in memory and in virtual time: topics of one partition, and consumers that may be rebalanced or killed at any moment."""

import asyncio
from collections import defaultdict
from random import Random

from service.domain.offsets import OffsetLedger, Progress
from service.ports import Clock, IncomingRecord, OutgoingRecord, RecordHandler


class MemoryBroker:
    """The port Publisher. A record takes some milliseconds; one whose publish is cancelled may have been written or not."""

    def __init__(self, *, clock: Clock, dice: Random) -> None:
        self._clock = clock
        self._dice = dice
        self.topics: defaultdict[str, list[IncomingRecord]] = defaultdict(list)
        self._grown: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def publish(self, record: OutgoingRecord) -> None:
        try:
            await asyncio.sleep(self._dice.uniform(0.001, 0.02))
        except asyncio.CancelledError:
            if self._dice.random() < 0.5:
                self.append(record)
            raise
        self.append(record)

    def append(self, record: OutgoingRecord) -> None:
        log = self.topics[record.topic]
        at_ms = self._clock.epoch_ms()
        log.append(IncomingRecord(record.topic, 0, len(log), at_ms, record.key, record.value, record.headers))
        self._grown[record.topic].set()

    async def grown(self, topic: str, offset: int) -> None:
        """Return once there is a record at this offset."""
        while len(self.topics[topic]) <= offset:
            self._grown[topic].clear()
            await self._grown[topic].wait()


class MemoryConsumer:
    """Reads one topic into whoever handles it now. What is committed survives the handler; what it has open is read again."""

    def __init__(self, broker: MemoryBroker, topic: str, *, dice: Random) -> None:
        self._broker = broker
        self._topic = topic
        self._dice = dice
        self._ledger = OffsetLedger()
        self._committed = self._offset = 0

    @property
    def is_done(self) -> bool:
        """Whether every record has been read and finished."""
        return not len(self._ledger) and self._offset == len(self._broker.topics[self._topic])

    async def read(self, handler: RecordHandler) -> None:
        """Hand over records from the committed offset on, until cancelled."""
        ledger = self._ledger = OffsetLedger()
        ledger.adopt(Progress(self._committed))
        self._offset = self._committed
        while True:
            await self._broker.grown(self._topic, self._offset)
            handler.handle(self._broker.topics[self._topic][self._offset], ledger.see(self._offset))
            self._offset += 1
            if self._dice.random() < 0.2:
                await asyncio.sleep(self._dice.uniform(0, 0.1))

    def commit(self, *, is_late: bool) -> None:
        """Take what is finished for finished, and close the books; `is_late` where the last commit was some time ago."""
        position = self._ledger.position
        if position is not None:
            self._committed = self._dice.randint(self._committed, position) if is_late else position
        self._ledger.close()
