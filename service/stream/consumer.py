"""One consumer group member: poll, hand over, commit what is finished, drain when partitions or the process go.

Everything that aiokafka 0.14 needs to be told, and to be protected from, is here:

- getmany() is never cancelled while the consumer is to go on: a cancelled one disables max_poll_interval_ms for good.
- getmany() waits out a whole rebalance, so stopping does not wait for it.
- The rebalance listener's exceptions are swallowed: they are kept here and raised by `run`.
- commit() never returns with the broker away: it has a time limit, and a failed one is repeated by the next.
- Partitions are held back by not asking for them: pause() would throw away what is prefetched.
- rebalance_timeout_ms is what a drain may take; its default, the session timeout, would evict us.
- The listener is not called by stop(), so drain and commit come first.
- The task that fetches can end without a word, and getmany() returns nothing for ever: that is watched for, and ends the process.
- What getmany() cannot decode is stepped over: see `unreadable`.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from service.domain.offsets import OffsetLedger, Progress
from service.domain.status import ConsumerStatus, PartitionStatus
from service.ports import Clock, IncomingRecord, RecordFilter, RecordHandler
from service.stream.connection import close_quietly, until_connected
from service.stream.unreadable import Batches, read_one

_POLL_S: Final = 1.0  # how long one getmany waits for records: an idle member wakes up once a second
# How soon a member hears of a rebalance: with aiokafka's 3 s, lanes that are already given up stand still for so long each time.
_HEARTBEAT_MS: Final = 500
_MAX_RECORDS: Final = 1000  # per getmany: some milliseconds of handling before anything else gets its turn
_KAFKA_ERROR_WAIT_S: Final = 1.0
_REBALANCE_MARGIN_S: Final = 10.0  # beyond the drain, for the commit and the join itself
_NO_PARTITION: Final = TopicPartition(
    "", -1
)  # asked for when no partition has room: it keeps the member alive and returns nothing
_NO_ROOM_POLL_S: Final = 0.1  # how soon room is noticed
_SIZE_MEMORY: Final = 0.2  # the weight of the newest poll in the mean size of records

_log = structlog.get_logger(__name__)


class FetchStalledError(Exception):
    """There are records, the broker answers, and none come: aiokafka's fetching has ended. Only a new consumer helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLimits:
    """Times in seconds; `max_pending` counts records that are handed over and not finished, `max_pending_bytes` their values.

    Records that have not come for `stall_s` though they are there end the consumer.
    """

    max_pending: int
    max_pending_bytes: int = 256 * 1024 * 1024
    stall_s: float = 60.0
    commit_interval_s: float
    commit_timeout_s: float
    rebalance_drain_s: float
    fetch_max_wait_ms: int


class Consumer:
    """Reads topics as a member of a group and hands every record to the handler, at least once."""

    def __init__(
        self,
        *,
        name: str,
        group: str,
        topics: Sequence[str],
        arguments: Mapping[str, Any],
        handler: RecordHandler,
        limits: ConsumerLimits,
        clock: Clock,
        passes_over: RecordFilter | None = None,
    ) -> None:
        """What `passes_over` calls irrelevant is never handed to the handler, and finished at once."""
        self.name = name
        self._group = group
        self._topics = topics
        self._arguments = arguments
        self._handler = handler
        self._limits = limits
        self._clock = clock
        self._passes_over = passes_over
        self._consumer: AIOKafkaConsumer | None = None
        self._ledgers: dict[TopicPartition, OffsetLedger] = {}
        self._committed: dict[TopicPartition, Progress] = {}
        self._commit_lock = asyncio.Lock()
        self._is_adopted = asyncio.Event()  # what former owners finished is known
        self._is_adopted.set()
        self._failure: asyncio.Future[None] | None = None
        self._joined_at_ms = 0
        self._mean_size = 0.0  # bytes of a value, lately
        self.last_poll: float | None = None
        self.is_joined = False

    async def run(self, stop: asyncio.Event, *, drain_s: float) -> None:
        """Consume until `stop` is set; then drain for up to `drain_s` seconds, commit and leave the group.

        Waits, and says so, while the broker is away. Raises what the handler raised: that is a bug, nothing more is committed.
        """
        self._failure = asyncio.get_running_loop().create_future()
        stopped = asyncio.ensure_future(stop.wait())
        try:
            self._consumer = await self._unless(stopped, until_connected(f"consumer {self.name}", self._connect))
            if self._consumer is None:
                return
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._poll_forever(self._consumer)),
                    tasks.create_task(self._commit_forever()),
                    tasks.create_task(self._watch_forever(self._consumer)),
                ]
                await self._unless(stopped, self._failure)
                for task in running:
                    task.cancel()
            _log.info("consumer_draining", consumer=self.name, pending=self.pending, deadline_s=drain_s)
            await self._handler.drain(drain_s)
            await self._commit()
            _log.info("consumer_stopped", consumer=self.name, unfinished=self.pending)
        finally:
            stopped.cancel()
            self._failure.cancel()
            self.is_joined = False
            if self._consumer is not None:
                await close_quietly(f"consumer {self.name}", partial(_close, self._consumer))

    # -- what there is to see

    @property
    def pending(self) -> int:
        """Records handed over and not finished."""
        return sum(map(len, self._ledgers.values()))

    def status(self) -> ConsumerStatus:
        """The member as it stands."""
        return ConsumerStatus(self.name, self.is_joined, self.partitions())

    def partitions(self) -> list[PartitionStatus]:
        """Each assigned partition."""
        return [self._status(tp, ledger) for tp, ledger in sorted(self._ledgers.items())]

    def _status(self, tp: TopicPartition, ledger: OffsetLedger) -> PartitionStatus:
        end = self._consumer.highwater(tp) if self._consumer is not None else None
        committed = self._committed[tp].position if tp in self._committed else None
        position = ledger.position if ledger.position is not None else committed
        lag = None if end is None or position is None else max(0, end - position)
        return PartitionStatus(tp.topic, tp.partition, len(ledger), position, committed, lag)

    # -- polling

    async def _connect(self) -> AIOKafkaConsumer:
        limits = self._limits
        consumer = AIOKafkaConsumer(
            **self._arguments,
            group_id=self._group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=_HEARTBEAT_MS,
            max_partition_fetch_bytes=1024 * 1024,
            fetch_max_bytes=8 * 1024 * 1024,
            fetch_max_wait_ms=limits.fetch_max_wait_ms,
            rebalance_timeout_ms=round(
                (limits.rebalance_drain_s + limits.commit_timeout_s + _REBALANCE_MARGIN_S) * 1000
            ),
            max_poll_interval_ms=round(
                (limits.rebalance_drain_s + limits.commit_timeout_s + _REBALANCE_MARGIN_S) * 2000
            ),
        )
        consumer.subscribe(list(self._topics), listener=_Listener(self))
        try:
            await consumer.start()
        except BaseException:  # a cancellation too: it has opened connections
            await close_quietly(f"consumer {self.name}", partial(_close, consumer))
            raise
        return consumer

    async def _poll_forever(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            ready, max_records = self._with_room()
            timeout_s = _POLL_S if len(ready) == len(self._ledgers) else _NO_ROOM_POLL_S
            try:
                batches = await consumer.getmany(
                    *(ready or [_NO_PARTITION]), timeout_ms=round(timeout_s * 1000), max_records=max_records
                )
            except KafkaError as e:  # not final: the next poll goes on where this one failed
                _log.warning("poll_failed", consumer=self.name, error=str(e) or type(e).__name__)
                self.last_poll = self._clock.now()  # a refusal is an answer: no restart of ours would help
                await asyncio.sleep(_KAFKA_ERROR_WAIT_S)
                continue
            except UnicodeDecodeError:
                await self._step_over_unreadable(consumer)
                continue
            self.last_poll = self._clock.now()
            await self._hand_over(batches)
            await asyncio.sleep(0)  # getmany does not yield while it has records

    async def _hand_over(self, batches: Batches) -> bool:
        """Give records to the handler. False where the partitions are taken away meanwhile, uncommitted: whoever owns them now reads
        these records again.
        """
        ledgers = self._ledgers
        await self._is_adopted.wait()
        if ledgers is not self._ledgers:
            return False
        handed = size = passed = 0
        is_irrelevant = _never if self._passes_over is None else self._passes_over.is_irrelevant
        for tp, records in batches.items():
            ledger = ledgers[tp]  # a record without one would be lost: better to end here than to go on
            for record in records:
                value = record.value
                if value is not None and is_irrelevant(value):
                    passed += 1
                    continue
                handed, size = handed + 1, size + len(value or b"")
                if (delivery := ledger.see(record.offset)).is_new:
                    self._handler.handle(_incoming(record), delivery)
            if ledger.next is None or ledger.next <= records[-1].offset:
                ledger.pass_over(records[0].offset, records[-1].offset)
        if handed:
            self._mean_size += _SIZE_MEMORY * (size / handed - self._mean_size)
        if passed and self._passes_over is not None:
            self._passes_over.passed_over(passed)
        return True

    async def _step_over_unreadable(self, consumer: AIOKafkaConsumer) -> None:
        """Find what aiokafka cannot decode, and hand it over without its bytes: go back to where handing over ended, and read on from
        there one record of one partition at a time.
        """
        ledgers = self._ledgers
        await self._is_adopted.wait()
        try:
            for tp, ledger in ledgers.items():
                await self._seek_to_next(consumer, tp, ledger)
            for tp in ledgers:
                for _ in range(_MAX_RECORDS):
                    batches = await read_one(consumer, tp)
                    if ledgers is not self._ledgers or not await self._hand_over(batches):
                        return
                    if not batches:
                        break
        except KafkaError as e:  # among them that the partitions are no longer ours
            _log.warning("poll_failed", consumer=self.name, error=str(e) or type(e).__name__)
            await asyncio.sleep(_KAFKA_ERROR_WAIT_S)

    async def _seek_to_next(self, consumer: AIOKafkaConsumer, tp: TopicPartition, ledger: OffsetLedger) -> None:
        if ledger.next is not None:
            consumer.seek(tp, ledger.next)
        elif tp in self._committed:
            consumer.seek(tp, self._committed[tp].position)
        else:
            await consumer.seek_to_beginning(tp)

    async def _watch_forever(self, consumer: AIOKafkaConsumer) -> None:
        """Raise FetchStalledError when records are there and do not come; not while the broker is away, since no restart would help.

        It takes two looks in a row at the same place: what we held back ourselves until a moment ago, and what a broker has not been asked
        for again since it came back, looks the same at one.
        """
        suspected: dict[TopicPartition, int] = {}
        while True:
            await asyncio.sleep(self._limits.stall_s / 4)
            behind = await self._behind(consumer)
            for tp, (position, end) in behind.items():
                if suspected.get(tp) == position:
                    raise FetchStalledError(f"{tp.topic}/{tp.partition} stays at {position} of {end}")
            suspected = {tp: position for tp, (position, _) in behind.items()}

    async def _behind(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, tuple[int, int]]:
        """The partitions that have room and records, and no answer to a fetch for `stall_s`: position and end of each."""
        ledgers = self._ledgers
        before_ms = self._clock.epoch_ms() - self._limits.stall_s * 1000
        fetchable = set(self._with_room()[0]) & consumer.assignment()
        stale = [tp for tp in fetchable if (consumer.last_poll_timestamp(tp) or self._joined_at_ms) < before_ms]
        if not stale:
            return {}
        try:
            async with asyncio.timeout(self._limits.commit_timeout_s):
                ends = await consumer.end_offsets(stale)
                positions = {tp: await consumer.position(tp) for tp in stale}
        except (KafkaError, TimeoutError):
            return {}
        is_same = ledgers is self._ledgers
        return {tp: (positions[tp], ends[tp]) for tp in stale if is_same and positions[tp] < ends[tp]}

    def _with_room(self) -> tuple[list[TopicPartition], int]:
        """The partitions to fetch, and how many records at the most. The limit is of records, or of bytes at the size they lately have.

        All of them while half the limit is free. After that those below their fair share of a quarter of it, and no more than a share
        at once: a full partition holds back none that is not, and the whole stays within the limit. And none that remembers as many
        offsets as the limit, finished or not, because its position does not move.
        """
        limit = self._limits.max_pending
        if self._mean_size:
            limit = min(limit, int(self._limits.max_pending_bytes / self._mean_size))
        half = max(1, limit // 2)
        short = {tp: ledger for tp, ledger in self._ledgers.items() if ledger.window < self._limits.max_pending}
        if self.pending < half:
            return list(short), min(_MAX_RECORDS, half)
        share = max(1, half // 2 // max(1, len(self._ledgers)))
        return [tp for tp, ledger in short.items() if len(ledger) < share], share

    # -- committing

    async def _commit_forever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.commit_interval_s)
            await self._commit()

    async def _commit(self) -> None:
        """Commit every position that moved. A failure is logged and left to the next commit, or to the next owner."""
        async with self._commit_lock:
            moved = {
                tp: progress
                for tp, ledger in self._ledgers.items()
                if (progress := ledger.progress) is not None and progress != self._committed.get(tp)
            }
            if not moved or self._consumer is None:
                return
            try:
                async with asyncio.timeout(self._limits.commit_timeout_s):
                    await self._consumer.commit({tp: (at.position, at.metadata) for tp, at in moved.items()})
            except (CommitFailedError, IllegalStateError) as e:
                # the group has moved on: the next owner works these again
                _log.info("commit_refused", consumer=self.name, error=str(e) or type(e).__name__)
            except (KafkaError, TimeoutError) as e:
                _log.warning("commit_failed", consumer=self.name, error=str(e) or type(e).__name__)
            else:
                self._committed.update(moved)

    async def _fetch_committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Progress]:
        """What former owners committed. Where that cannot be read, what they finished above their position is worked again."""
        admin = AIOKafkaAdminClient(**self._arguments)
        try:
            async with asyncio.timeout(self._limits.commit_timeout_s):
                await admin.start()
                offsets = await admin.list_consumer_group_offsets(self._group, partitions=list(partitions))
        except (KafkaError, TimeoutError) as e:
            _log.warning("committed_unknown", consumer=self.name, error=str(e) or type(e).__name__)
            return {}
        finally:
            await close_quietly("admin", admin.close)
        return {tp: Progress(at.offset, at.metadata or "") for tp, at in offsets.items() if at.offset >= 0}

    # -- rebalancing

    async def _revoke(self) -> None:
        """Finish what has started and commit it before anybody else owns the partitions; eager rebalancing takes them all."""
        self.is_joined = False
        if not self._ledgers:
            return
        _log.info("partitions_revoked", consumer=self.name, partitions=len(self._ledgers), pending=self.pending)
        await self._handler.drain(self._limits.rebalance_drain_s)
        await self._commit()
        for ledger in self._ledgers.values():
            ledger.close()
        self._ledgers = {}
        self._committed = {}

    async def _assign(self, partitions: set[TopicPartition]) -> None:
        """Everything that a record needs is in place before the first await: from then on getmany may return some."""
        self._ledgers = {tp: OffsetLedger() for tp in partitions}
        self._committed = {}
        self._is_adopted.clear()
        self._joined_at_ms = self._clock.epoch_ms()
        self.is_joined = True
        _log.info("partitions_assigned", consumer=self.name, partitions=len(partitions))
        self._handler.restart()
        committed = await self._fetch_committed(partitions) if partitions else {}
        for tp, progress in committed.items():
            self._ledgers[tp].adopt(progress)
            self._committed.setdefault(tp, progress)
        self._is_adopted.set()

    def fail(self, error: BaseException) -> None:
        """End `run` with an error that happened where aiokafka would swallow it."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _unless(self, stopped: "asyncio.Future[Any]", awaitable: Any) -> Any:
        """What the awaitable returns, or None if stopping comes first; then the awaitable is cancelled."""
        task = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return None


def _never(_: bytes) -> bool:
    return False


async def _close(consumer: AIOKafkaConsumer) -> None:
    try:
        await consumer.stop()
    finally:
        await consumer._client.close()  # noqa: SLF001  which a stop() that fails leaves open


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka's callbacks; what they raise would be logged and swallowed there, so it is handed to the consumer."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002  eager: it is all of them
        try:
            await self._consumer._revoke()  # noqa: SLF001  one class in two parts
        except Exception as e:  # noqa: BLE001  reported, not swallowed
            self._consumer.fail(e)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        try:
            await self._consumer._assign(assigned)  # noqa: SLF001  one class in two parts
        except Exception as e:  # noqa: BLE001  reported, not swallowed
            self._consumer.fail(e)


def _incoming(record: "ConsumerRecord[bytes, bytes]") -> IncomingRecord:
    return IncomingRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )
