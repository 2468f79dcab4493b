"""Durable writes: the port Publisher over one aiokafka producer."""

import asyncio
from types import TracebackType
from typing import Any, Final, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed, RecordListTooLargeError

from service.ports import OutgoingRecord, RecordTooLargeError
from service.stream.connection import close_quietly, until_connected

MAX_RECORD_BYTES: Final = (
    2 * 1024 * 1024
)  # a source record of the usual 1 MiB limit still fits when it is a dead letter
_LINGER_MS: Final = 5  # outcomes of several lanes share a request; far below what anybody notices
_RETRY_WAIT_S: Final = 1.0

_log = structlog.get_logger(__name__)


class KafkaPublisher:
    """Writes with acks=all and waits out every fault of the broker.

    Not idempotent on purpose: after an outage longer than the request timeout aiokafka's idempotent producer has lost its sequence
    and refuses to go on, while a duplicate of any of our records does no harm.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._producer: AIOKafkaProducer | None = None
        self._failing_since: dict[str, float] = {}  # by topic; event-loop time

    async def __aenter__(self) -> Self:
        async def connect() -> AIOKafkaProducer:
            producer = AIOKafkaProducer(
                **self._arguments,
                acks="all",
                linger_ms=_LINGER_MS,
                max_request_size=MAX_RECORD_BYTES,
                enable_idempotence=False,
            )
            try:
                await producer.start()
            except BaseException:  # a cancellation too: it has opened connections
                await close_quietly("producer", producer.stop)
                raise
            return producer

        self._producer = await until_connected("producer", connect)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._producer is not None:
            await close_quietly("producer", self._producer.stop)

    @property
    def failing_since(self) -> float | None:
        """Since when some topic cannot be written (event-loop time, seconds); None while all can."""
        return min(self._failing_since.values(), default=None)

    async def publish(self, record: OutgoingRecord) -> None:
        """See the port. A failed write is repeated every second, and logged, until it is acknowledged."""
        if self._producer is None:
            raise RuntimeError("the publisher is not open")
        # aiokafka refuses a record with neither key nor value, which is what the dead letter of a keyless tombstone is
        key = b"" if record.key is None and record.value is None else record.key
        while True:
            try:
                acknowledged = await self._producer.send(
                    record.topic, value=record.value, key=key, headers=list(record.headers)
                )
                await acknowledged
            except (MessageSizeTooLargeError, RecordListTooLargeError) as e:
                raise RecordTooLargeError(f"{record.topic}: {e}") from e
            except ProducerClosed as e:
                raise asyncio.CancelledError from e  # we are stopping: as if cancelled, the record may or may not be written
            except KafkaError as e:
                if record.topic not in self._failing_since:
                    self._failing_since[record.topic] = asyncio.get_running_loop().time()
                    _log.warning("publish_failing", topic=record.topic, error=str(e) or type(e).__name__)
            else:
                if self._failing_since.pop(record.topic, None) is not None:
                    _log.info("publish_resumed", topic=record.topic)
                return
            await asyncio.sleep(_RETRY_WAIT_S)
