"""Sends to the dead-letter topic what can never be worked: bytes unchanged, the explanation in headers."""

from dataclasses import replace

from service.domain.command import EnsureCommand
from service.domain.dead_letter import PREFIX, VALUE_OMITTED, dead_letter_headers
from service.domain.outcome import FailureClass
from service.ports import IncomingRecord, Observer, OutgoingRecord, Publisher, RecordTooLargeError


class DeadLetters:
    """The way out. Every dead letter can be sent back to its `logwarden-original-topic` as it is, once its cause is mended."""

    def __init__(self, *, publisher: Publisher, observer: Observer, topic: str, work_topic: str) -> None:
        self._publisher = publisher
        self._observer = observer
        self._topic = topic
        self._work_topic = work_topic

    async def send_record(
        self, record: IncomingRecord, failure: FailureClass, reason: str, *, field: str | None = None
    ) -> None:
        """Return once the record is a dead letter: key, value and headers as they were.

        A value that the broker refuses for its size is left out, and a header says so. A replayed record that dies again carries one
        explanation, the last.
        """
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
        letter = OutgoingRecord(self._topic, record.key, record.value, headers)
        try:
            await self._publisher.publish(letter)
        except RecordTooLargeError:
            size = str(len(record.value or b"")).encode()
            await self._publisher.publish(replace(letter, value=None, headers=[*headers, (VALUE_OMITTED, size)]))
        self._observer.dead_lettered(failure, topic=record.topic)

    async def send_command(self, command: EnsureCommand, failure: FailureClass, reason: str) -> None:
        """Return once the command is a dead letter; `logwarden-source` names the record that first asked for it."""
        explanation = dead_letter_headers(failure, reason, original_topic=self._work_topic, source=command.origin)
        await self._publisher.publish(
            OutgoingRecord(self._topic, command.partition_key, command.to_bytes(), explanation)
        )
        self._observer.dead_lettered(failure, topic=self._work_topic)
