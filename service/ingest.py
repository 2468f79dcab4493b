"""Source records to commands on the work topic: parse, drop what does not matter, fan out, dead-letter what is malformed."""

import asyncio
from collections.abc import Sequence

from service.dead_letters import DeadLetters
from service.domain.command import EnsureCommand, Origin
from service.domain.events import Problem, is_surely_irrelevant, parse_event
from service.domain.offsets import Delivery
from service.domain.outcome import FailureClass
from service.forwarding import Forwarding
from service.ports import IncomingRecord, Observer, OutgoingRecord, Publisher


class Ingest(Forwarding):
    """Handles the records of the source topics."""

    def __init__(self, *, publisher: Publisher, dead_letters: DeadLetters, observer: Observer, work_topic: str) -> None:
        super().__init__()
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._observer = observer
        self._work_topic = work_topic

    def handle(self, record: IncomingRecord, delivery: Delivery) -> None:
        """Drop an irrelevant record at once; otherwise finish the delivery when its commands, or its dead letter, are durable."""
        if record.value is not None and is_surely_irrelevant(record.value):
            self._observer.event_read(commands=0, problem=None)
            self._dead_letters.not_needed()
            delivery.finish()
            return
        origin = Origin(record.topic, record.partition, record.offset)
        parsed = parse_event(record.value, accepted_at_ms=record.timestamp_ms, origin=origin)
        problem = parsed.problems[0] if parsed.problems else None
        self._observer.event_read(commands=len(parsed.commands), problem=problem.field if problem else None)
        if problem is None:
            self._dead_letters.not_needed()
        if problem is None and not parsed.commands:
            delivery.finish()
            return
        self.start(self._forward(record, parsed.commands, problem), delivery)

    async def _forward(
        self, record: IncomingRecord, commands: Sequence[EnsureCommand], problem: Problem | None
    ) -> None:
        await asyncio.gather(*(self._publisher.publish(self._as_work(command)) for command in commands))
        if problem is not None:
            await self._dead_letters.send_record(
                record, FailureClass.MALFORMED_EVENT, problem.reason, field=problem.field
            )

    def _as_work(self, command: EnsureCommand) -> OutgoingRecord:
        return OutgoingRecord(self._work_topic, command.partition_key, command.to_bytes())
