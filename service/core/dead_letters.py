"""Sends to the dead-letter topic what can never be worked: bytes unchanged, the explanation in headers."""

import contextlib
from dataclasses import replace

from service.domain.command import EnsureCommand, Origin
from service.domain.dead_letter import PREFIX, VALUE_OMITTED, DeadLetterLimit, dead_letter_headers
from service.domain.outcome import FailureClass
from service.ports import (
    GivenUpError,
    Headers,
    IncomingRecord,
    Observer,
    OutgoingRecord,
    Publisher,
    RecordTooLargeError,
)


class DeadLetters:
    """The way out. Every dead letter can be sent back to its `logwarden-original-topic` as it is, once its cause is mended:
    `logwarden dead-letters replay` does.
    """

    def __init__(
        self, *, publisher: Publisher, observer: Observer, limit: DeadLetterLimit, topic: str, work_topic: str
    ) -> None:
        self._limit = limit
        self._publisher = publisher
        self._observer = observer
        self._topic = topic
        self._work_topic = work_topic

    async def send_record(
        self, record: IncomingRecord, failure: FailureClass, reason: str, *, field: str | None = None
    ) -> None:
        """Return once the record is a dead letter: key, value and headers as they were. Raises GivenUpError past the limit.

        A value that the broker refuses for its size is left out, and a header says so; so are a key and headers that are too large by
        themselves. A replayed record that dies again carries one explanation, the last.
        """
        self._count(failure)
        explanation = dead_letter_headers(
            failure,
            reason,
            field=field,
            original_topic=record.topic,
            original_partition=record.partition,
            original_offset=record.offset,
            original_timestamp_ms=record.timestamp_ms,
        )
        headers = [*((name, value) for name, value in record.headers if not name.startswith(PREFIX)), *explanation]
        omitted = (VALUE_OMITTED, str(len(record.value or b"")).encode())
        await self._publish_what_fits(
            OutgoingRecord(self._topic, record.key, record.value, headers),
            OutgoingRecord(self._topic, record.key, None, [*headers, omitted]),
            OutgoingRecord(self._topic, None, None, [*explanation, omitted]),
        )
        origin = Origin(record.topic, record.partition, record.offset)
        self._observer.dead_lettered(failure, topic=record.topic, origin=origin, reason=reason)

    async def send_posted(self, value: bytes, headers: Headers, reason: str, *, field: str, topic: str) -> bool:
        """Return once a body that was posted is a dead letter, which can be sent to `topic` once its cause is mended.

        False where the broker refused its size: then only the explanation was kept.

        The limit has no part in it: whoever posts is told, and one careless sender is not to close the door to all others.
        """
        failure = FailureClass.MALFORMED_EVENT
        explanation = dead_letter_headers(failure, reason, field=field, original_topic=topic, source="http")
        omitted = (VALUE_OMITTED, str(len(value)).encode())
        whole = OutgoingRecord(self._topic, None, value, [*headers, *explanation])
        kept = await self._publish_what_fits(whole, OutgoingRecord(self._topic, None, None, [*explanation, omitted]))
        self._observer.dead_lettered(failure, topic=topic, origin=None, reason=reason)
        return kept is whole

    async def send_command(self, command: EnsureCommand, failure: FailureClass, reason: str) -> None:
        """Return once the command is a dead letter; `logwarden-source` names the record that first asked for it.

        Raises GivenUpError past the limit.
        """
        self._count(failure, account=command.log_group.account)
        explanation = dead_letter_headers(
            failure, reason, original_topic=self._work_topic, source=command.origin, deferrals=command.deferrals
        )
        again = replace(command, deferrals=0, strikes=0)  # once it is mended and sent back, it has all its tries
        await self._publisher.publish(OutgoingRecord(self._topic, command.partition_key, again.to_bytes(), explanation))
        self._observer.dead_lettered(failure, topic=self._work_topic, origin=command.origin, reason=reason)

    def not_needed(self) -> None:
        """Say that a record was worked without one, for the limit's sake."""
        self._limit.passed()

    def left_alone(self, count: int = 1) -> None:
        """Say that so many records asked for nothing."""
        self._limit.left_alone(count)

    async def _publish_what_fits(self, *letters: OutgoingRecord) -> OutgoingRecord:
        """The first of the letters that the broker takes."""
        *larger, smallest = letters
        for letter in larger:
            with contextlib.suppress(RecordTooLargeError):
                await self._publisher.publish(letter)
                return letter
        await self._publisher.publish(smallest)
        return smallest

    def _count(self, failure: FailureClass, *, account: str | None = None) -> None:
        was_stopped = self._limit.reason is not None
        self._limit.failed(failure, account=account)
        if self._limit.reason is not None:
            if not was_stopped:
                self._observer.dead_letters_stopped(self._limit.reason)
            raise GivenUpError
