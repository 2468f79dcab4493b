"""Events to commands on the work topic: parse, drop what does not matter, fan out, dead-letter what is malformed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.core.dead_letters import DeadLetters
from service.core.forwarding import Forwarding
from service.core.waiting import acknowledged
from service.domain.command import EnsureCommand, Origin
from service.domain.events import Arrival, EventParser, Parsed
from service.domain.offsets import Delivery
from service.domain.outcome import FailureClass
from service.ports import Clock, Headers, IncomingRecord, Observer, OutgoingRecord, Publisher

ACK_TIMEOUT_S: Final = 10.0  # EventBridge gives an API destination 5 s and tries again for a day; others wait longer


class Ingest(Forwarding):
    """Handles the records of the source topics."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        dead_letters: DeadLetters,
        observer: Observer,
        work_topic: str,
        parser: EventParser | None = None,
    ) -> None:
        """`parser` knows the custom formats; without one there are none."""
        super().__init__()
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._observer = observer
        self._work_topic = work_topic
        self._parser = parser or EventParser()
        self.is_irrelevant = self._parser.is_surely_irrelevant  # the port RecordFilter, without a call in between

    def passed_over(self, count: int) -> None:
        """So many records were irrelevant at first look."""
        self._observer.events_irrelevant(count)
        self._dead_letters.left_alone(count)

    def handle(self, record: IncomingRecord, delivery: Delivery) -> None:
        """Finish the delivery when the record's commands, or its dead letter, are durable; at once where it asks for nothing."""
        origin = Origin(record.topic, record.partition, record.offset)
        parsed = self._parser.parse(record.value, record.headers, arrival=Arrival(record.timestamp_ms, origin))
        self._observer.event_read(
            commands=len(parsed.commands), problem=parsed.problems[0].field if parsed.problems else None
        )
        if not parsed.problems:
            if not parsed.commands:
                self._dead_letters.left_alone()
                delivery.finish()
                return
            self._dead_letters.not_needed()
        self.start(self._forward(record, parsed), delivery)

    async def _forward(self, record: IncomingRecord, parsed: Parsed) -> None:
        await _publish(self._publisher, self._work_topic, parsed.commands)
        if parsed.problems:
            await self._dead_letters.send_record(
                record, FailureClass.MALFORMED_EVENT, parsed.reason, field=parsed.problems[0].field
            )


@dataclass(frozen=True, slots=True)
class Posted:
    """What was made of posted events; `is_kept` is false where they have problems and the body was too large for a dead letter."""

    parsed: Parsed
    is_kept: bool = True


class PostedEvents:
    """Takes events that are posted instead of read. What cannot be read becomes a dead letter here too, and the caller is told.

    Both, since neither is enough: EventBridge drops what is answered with 400, unless its rule has a queue for that, and a sender that
    is answered with 202 never learns that its events are wrong. It does not send again after 400, so nothing is kept twice.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        dead_letters: DeadLetters,
        parser: EventParser,
        observer: Observer,
        clock: Clock,
        work_topic: str,
        source_topic: str,
        ack_timeout_s: float = ACK_TIMEOUT_S,
    ) -> None:
        """`source_topic` is where a dead letter can be sent once it can be read."""
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._source_topic = source_topic
        self._parser = parser
        self._observer = observer
        self._clock = clock
        self._work_topic = work_topic
        self._ack_timeout_s = ack_timeout_s

    async def accept(self, body: bytes, headers: Headers) -> Posted:
        """Return once Kafka has what the events ask for, and the whole body as a dead letter where it has `problems`.

        `headers` go with a dead letter. Raises NotAcknowledgedError after `ack_timeout_s`. A cancelled one may be carried out in part.
        """
        parsed = self._parser.parse(body, headers, arrival=Arrival(self._clock.epoch_ms(), None))
        is_kept = True
        async with acknowledged("the body", within_s=self._ack_timeout_s):
            await _publish(self._publisher, self._work_topic, parsed.commands)
            if parsed.problems:
                field = parsed.problems[0].field
                is_kept = await self._dead_letters.send_posted(
                    body, headers, parsed.reason, field=field, topic=self._source_topic
                )
        self._observer.event_read(
            commands=len(parsed.commands), problem=parsed.problems[0].field if parsed.problems else None
        )
        return Posted(parsed, is_kept)


async def _publish(publisher: Publisher, topic: str, commands: Sequence[EnsureCommand]) -> None:
    records = [OutgoingRecord(topic, command.partition_key, command.to_bytes()) for command in commands]
    if len(records) == 1:  # nearly always: gather would cost as much as the parse
        await publisher.publish(records[0])
    else:
        await asyncio.gather(*map(publisher.publish, records))
