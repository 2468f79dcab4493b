"""Durable writes: the port Publisher over one aiokafka producer."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed, RecordListTooLargeError

from service.domain.status import FailingWrites
from service.ports import OutgoingRecord, RecordTooLargeError
from service.stream.batches import Batches, partition_of
from service.stream.connection import Deadline, close_quietly, until_connected
from service.stream.writes import Writes

# A source record of the usual 1 MiB limit still fits when it is a dead letter.
MAX_RECORD_BYTES: Final = 2 * 1024 * 1024
_MAX_BATCH_BYTES: Final = 128 * 1024  # a larger record is a batch by itself
_LINGER_S: Final = 0.005  # outcomes of several lanes share a request; far below what anybody notices
# A stream of which one record in 200 matters gives five commands a poll: a request for each five costs as much as a tenth of the poll.
_PATIENT_LINGER_S: Final = 0.025
_RETRY_WAIT_S: Final = 1.0

_log = structlog.get_logger(__name__)


class ProducerEndedError(Exception):
    """The task that writes has ended: nothing would ever be written again. Only a new producer helps; a broker that is away is no cause."""


class KafkaPublisher:
    """Writes with acks=all and waits out every fault of the broker.

    Not idempotent on purpose: after an outage longer than the request timeout aiokafka's idempotent producer has lost its sequence
    and refuses to go on, while a duplicate of any of our records does no harm.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        *,
        deadline: Deadline | None = None,
        patient_topic: str | None = None,
        small_topics: Sequence[str] = (),
    ) -> None:
        """Records of `patient_topic` wait 25 ms for others, all others 5 ms.

        On `small_topics` all records are small. Where one is refused for its size, the topic's `max.message.bytes` is at fault, not the
        record: that is waited out too.
        """
        self._arguments = arguments
        self._patient_topic = patient_topic
        self._small_topics = frozenset(small_topics)
        self._deadline = deadline or Deadline()
        self._producer: AIOKafkaProducer | None = None
        self._batches: Batches | None = None
        self._patient_batches: Batches | None = None
        self._writes: defaultdict[str, Writes] = defaultdict(Writes)  # by topic

    async def __aenter__(self) -> Self:
        async def connect() -> AIOKafkaProducer:
            producer = AIOKafkaProducer(
                **self._arguments,
                acks="all",
                max_batch_size=_MAX_BATCH_BYTES,
                max_request_size=MAX_RECORD_BYTES,
                enable_idempotence=False,
            )
            try:
                await producer.start()
                if self._patient_topic is not None:
                    await producer.partitions_for(self._patient_topic)  # for `home_of`, also before the first record
            except BaseException:  # a cancellation too: it has opened connections
                await close_quietly("producer", producer.stop, timeout_s=self._deadline.share_s())
                raise
            return producer

        self._producer = await until_connected("producer", connect)
        self._batches = Batches(self._producer, linger_s=_LINGER_S, max_record_bytes=MAX_RECORD_BYTES)
        self._patient_batches = Batches(self._producer, linger_s=_PATIENT_LINGER_S, max_record_bytes=MAX_RECORD_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close_quietly("producer", self._close, timeout_s=self._deadline.share_s())

    async def _close(self) -> None:
        if self._batches is None or self._patient_batches is None or self._producer is None:
            return
        try:
            await asyncio.gather(self._batches.aclose(), self._patient_batches.aclose())
        finally:
            await self._producer.stop()

    def home_of(self, topic: str, key: bytes) -> int | None:
        """The partition that a record of this key would be written to; None before the topic was first written to."""
        partitions = self._producer.client.cluster.partitions_for_topic(topic) if self._producer else None
        return partition_of(key, len(partitions)) if partitions else None

    @property
    def failing(self) -> Sequence[FailingWrites]:
        """The topics that cannot be written, since when and why; the one that cannot for longest comes first."""
        if not self._writes:
            return ()
        now = asyncio.get_running_loop().time()
        failing = [FailingWrites(t, *of_topic) for t, w in self._writes.items() if (of_topic := w.failing(now))]
        return sorted(failing, key=lambda failing: failing.since)

    async def watch(self) -> None:
        """Wait until cancelled; raise ProducerEndedError when aiokafka's sending has ended without a word."""
        if self._producer is None:
            raise RuntimeError("the publisher is not open")
        sender = self._producer._sender.sender_task  # noqa: SLF001  nothing public tells
        await asyncio.wait([sender])
        raise ProducerEndedError("aiokafka's sender has ended") from None if sender.cancelled() else sender.exception()

    async def publish(self, record: OutgoingRecord) -> None:
        """See the port. A failed write is repeated every second, and logged, until it is acknowledged."""
        batches = self._patient_batches if record.topic == self._patient_topic else self._batches
        if batches is None:
            raise RuntimeError("the publisher is not open")
        # aiokafka refuses a record with neither key nor value, which is what the dead letter of a keyless tombstone is
        if record.key is None and record.value is None:
            record = replace(record, key=b"")
        writes, now = self._writes[record.topic], asyncio.get_running_loop().time
        write = writes.begin(now())
        is_written = False
        try:
            is_small = record.topic in self._small_topics
            while (error := await _written(batches, record, is_small=is_small)) is not None:
                if writes.failed(write, error, now()):
                    _log.warning("publish_failing", topic=record.topic, error=error)
                await asyncio.sleep(_RETRY_WAIT_S)
            is_written = True
        finally:
            if is_written:
                if writes.acknowledged(write, now()):
                    _log.info("publish_resumed", topic=record.topic)
            elif writes.given_up(write, now()):
                _log.warning("publish_failing", topic=record.topic, error="given up before it was acknowledged")


async def _written(batches: Batches, record: OutgoingRecord, *, is_small: bool) -> str | None:
    """None once a record is acknowledged; otherwise why it is not, and may be yet. Raises RecordTooLargeError, unless the record is small."""
    try:
        error = await (await batches.add(record))
    except KafkaError as e:
        error = e
    match error:
        case None:
            return None
        case MessageSizeTooLargeError() | RecordListTooLargeError() if not is_small:
            raise RecordTooLargeError(f"{record.topic}: {error}") from error
        case ProducerClosed():
            raise asyncio.CancelledError from error  # we are stopping: as if cancelled, the record may or may not be written
        case _:
            return str(error) or type(error).__name__
