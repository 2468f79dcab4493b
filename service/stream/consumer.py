"""One consumer group member: poll, hand over, drain when partitions or the process go.

What aiokafka 0.14 needs to be told, and to be protected from, is here, and beside it in `group`, `commits`, `watch` and `unreadable`:

- getmany() is never cancelled while the consumer is to go on: a cancelled one disables max_poll_interval_ms for good. Nor can it be
  woken when a partition has room again, so it is only called for what is there, and what it would wait for is waited for here.
- getmany() waits out a whole rebalance, so stopping does not wait for it.
- Partitions are held back by not asking for them: pause() would throw away what is prefetched.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from service.domain.offsets import OffsetLedger
from service.domain.status import ConsumerStatus, PartitionStatus
from service.ports import Clock, Membership, RecordFilter, RecordHandler
from service.stream.assignment import Assignment
from service.stream.commits import Commits
from service.stream.connection import Deadline, close_quietly, until_connected
from service.stream.group import SESSION_S, join, leave
from service.stream.records import incoming
from service.stream.unreadable import RecordsByPartition, read_one
from service.stream.watch import Watch

_POLL_S: Final = 1.0  # an idle member polls once a second, so that max_poll_interval_ms sees it alive
# Records of one poll: as many as are handled in some 10 ms, then everything else gets its turn. Of those that are passed over at first
# look that is the most; a thousand that become commands took 100 ms.
_MAX_RECORDS: Final = 1000
_MIN_RECORDS: Final = 50
_STRETCH_S: Final = 0.01
_KAFKA_ERROR_WAIT_S: Final = 1.0
_REBALANCE_MARGIN_S: Final = 10.0  # beyond the drain, for the commit and the join itself
# Asked for when no partition has room: it keeps the member alive and returns nothing.
_NO_PARTITION: Final = TopicPartition("", -1)
_SIZE_MEMORY: Final = 0.2  # the weight of the newest poll in the mean size of records

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLimits:
    """Times in seconds; `max_pending` counts records that are handed over and not finished, `max_pending_bytes` their values.

    `fetch_max_bytes` is what one answer of a broker may hold, an eighth of that from one partition. It is in memory three times while it
    is read, and the heap stays as large: tens of megabytes buy a rate that only a whole CloudTrail stream has.

    Records that have not come for `stall_s` though they are there end the consumer.
    """

    max_pending: int
    max_pending_bytes: int = 256 * 1024 * 1024
    stall_s: float = 60.0
    session_s: float = SESSION_S
    commit_interval_s: float
    commit_timeout_s: float
    rebalance_drain_s: float
    fetch_max_wait_ms: int
    fetch_max_bytes: int = 1024 * 1024


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
        membership: Membership | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        """What `passes_over` calls irrelevant is never handed to the handler, and finished at once.

        `membership` is told when the group has confirmed that the partitions are ours, and they stay ours as far as can be when members
        come and go; `deadline` is that of the whole stop.
        """
        self.name = name
        self._group = group
        self._topics = topics
        self._arguments = arguments
        self._handler = handler
        self._limits = limits
        self._clock = clock
        self._passes_over = passes_over
        self._owns_lanes = membership is not None
        self._deadline = deadline or Deadline()
        self._consumer: AIOKafkaConsumer | None = None
        self._assignment = self._before = Assignment()
        self._adopting: asyncio.Task[None] | None = None
        self._commits = Commits(
            name=name,
            interval_s=limits.commit_interval_s,
            timeout_s=limits.commit_timeout_s,
            clock=clock,
            assignment=lambda: self._assignment,
            membership=membership,
            deadline=self._deadline,
        )
        self._watch = Watch(
            name=name,
            clock=clock,
            assignment=lambda: self._assignment,
            fetched=lambda: self._with_room()[0],
            stall_s=limits.stall_s,
            timeout_s=limits.commit_timeout_s,
        )
        self._failure: asyncio.Future[None] | None = None
        self._polled: list[TopicPartition] = []
        self._more: asyncio.Future[None] | None = None  # what the poll waits for
        self._is_look_due = False
        self._mean_size = 0.0  # bytes of a value, lately
        self._at_once = _MAX_RECORDS  # records of the next poll
        self.last_poll: float | None = None
        self.is_joined = False
        self.has_joined = asyncio.Event()  # once, also if it was assigned nothing

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
                    tasks.create_task(self._commits.run(self._consumer)),
                    tasks.create_task(self._watch.measure(self._consumer)),
                    tasks.create_task(self._watch.stalls(self._consumer)),
                ]
                await self._unless(stopped, self._failure)
                for task in running:
                    task.cancel()
            _log.info("consumer_draining", consumer=self.name, pending=self.pending, deadline_s=drain_s)
            await self._handler.drain(drain_s)
            await self._commits.commit(self._consumer, is_last=True)
            _log.info("consumer_stopped", consumer=self.name, unfinished=self.pending)
        finally:
            stopped.cancel()
            self._failure.cancel()
            self.is_joined = False
            await self._stop_adopting()
            if self._consumer is not None:
                await close_quietly(
                    f"consumer {self.name}", partial(leave, self._consumer), timeout_s=self._deadline.share_s()
                )

    # -- what there is to see

    @property
    def pending(self) -> int:
        """Records handed over and not finished."""
        return self._assignment.pending

    def status(self) -> ConsumerStatus:
        """The member as it stands."""
        return ConsumerStatus(self.name, self.is_joined, self.partitions())

    def partitions(self) -> list[PartitionStatus]:
        """Each assigned partition."""
        now, fetched = self._clock.now(), set(self._with_room()[0])
        return [
            self._assignment.status(
                tp,
                highwater=self._consumer.highwater(tp) if self._consumer else None,
                is_held_back=tp not in fetched,
                now=now,
            )
            for tp in sorted(self._ledgers)
        ]

    @property
    def _ledgers(self) -> dict[TopicPartition, OffsetLedger]:
        return self._assignment.ledgers

    @property
    def has_partitions(self) -> bool:
        """Whether it was assigned any."""
        return bool(self._ledgers)

    # -- polling

    async def _connect(self) -> AIOKafkaConsumer:
        limits = self._limits
        return await join(
            self,
            name=self.name,
            group=self._group,
            topics=self._topics,
            arguments=self._arguments,
            session_s=limits.session_s,
            rebalance_s=limits.rebalance_drain_s + limits.commit_timeout_s + _REBALANCE_MARGIN_S,
            fetch_max_bytes=limits.fetch_max_bytes,
            fetch_max_wait_ms=limits.fetch_max_wait_ms,
            owns_lanes=self._owns_lanes,
            deadline=self._deadline,
        )

    async def _poll_forever(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            self._polled, max_records = self._with_room()
            try:
                batches = await consumer.getmany(*(self._polled or [_NO_PARTITION]), max_records=max_records)
                if not batches and self._polled == self._with_room()[0]:  # or records of others may be here already
                    await self._until_more(consumer)
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

    async def _until_more(self, consumer: AIOKafkaConsumer) -> None:
        """Wait for records, for room, or for the next poll of an idle member. Raises KafkaError, as getmany does."""
        self._more = consumer._fetcher._create_fetch_waiter()  # noqa: SLF001  what getmany waits for; done when records have come
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await self._more

    def _finished(self) -> None:
        """A record is finished: look for room, once for all that are finished in this turn of the loop."""
        if not self._is_look_due and len(self._polled) < len(self._ledgers):
            self._is_look_due = True
            asyncio.get_running_loop().call_soon(self._look_for_room)

    def _look_for_room(self) -> None:
        self._is_look_due = False
        if self._more is not None and not self._more.done() and len(self._with_room()[0]) > len(self._polled):
            self._more.set_result(None)

    async def _hand_over(self, batches: RecordsByPartition) -> bool:
        """Give records to the handler. False where the partitions are taken away meanwhile, uncommitted: whoever owns them now reads
        these records again.
        """
        ledgers = self._ledgers
        await self._assignment.is_adopted.wait()
        if ledgers is not self._ledgers or not self.is_joined:
            return False
        handed = size = passed = 0
        began = self._clock.now()
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
                    self._handler.handle(incoming(record), delivery)
            if ledger.next is None or ledger.next <= records[-1].offset:
                ledger.pass_over(records[0].offset, records[-1].offset)
        if handed:
            self._mean_size += _SIZE_MEMORY * (size / handed - self._mean_size)
        if passed and self._passes_over is not None:
            self._passes_over.passed_over(passed)
        if (read := handed + passed) and (took_s := self._clock.now() - began) > 0:
            in_a_stretch = int(read * _STRETCH_S / took_s)
            self._at_once = max(_MIN_RECORDS, min(in_a_stretch, _MAX_RECORDS))
        return True

    async def _step_over_unreadable(self, consumer: AIOKafkaConsumer) -> None:
        """Find what aiokafka cannot decode, and hand it over without its bytes: go back to where handing over ended, and read on from
        there one record of one partition at a time.
        """
        ledgers = self._ledgers
        await self._assignment.is_adopted.wait()
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
        elif (committed := self._assignment.committed.get(tp)) is not None:
            consumer.seek(tp, committed.position)
        else:
            await consumer.seek_to_beginning(tp)

    def _with_room(self) -> tuple[list[TopicPartition], int]:
        """The partitions to fetch, and how many records at the most. The limit is of records, or of bytes at the size they lately have."""
        most = self._limits.max_pending
        limit = min(most, int(self._limits.max_pending_bytes / self._mean_size)) if self._mean_size else most
        polled, at_once = self._assignment.with_room(limit, max_window=most, max_records=_MAX_RECORDS)
        return polled, min(at_once, self._at_once)

    # -- rebalancing

    async def revoked(self, consumer: AIOKafkaConsumer) -> None:
        """Finish what has started and commit it before anybody else owns the partitions; eager rebalancing takes them all."""
        self.is_joined = False
        await self._stop_adopting()
        if self._ledgers:
            _log.info("partitions_revoked", consumer=self.name, partitions=len(self._ledgers), pending=self.pending)
            await self._handler.drain(self._limits.rebalance_drain_s)
            await self._commits.commit(consumer, is_last=True)
            self._before, self._assignment = self._assignment, Assignment()
            self._before.close()
        self._commits.given_up()

    def assigned(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition], generation: int) -> None:
        """Take the partitions over. Nothing is waited for: no heartbeat is sent meanwhile, and getmany may return records already.

        They are handed over once it is known what former owners finished.
        """
        self._assignment = Assignment(
            partitions,
            generation=generation,
            before=self._before,
            now=self._clock.now(),
            epoch_ms=self._clock.epoch_ms(),
            on_finished=self._finished,
        )
        self.is_joined = True
        self.has_joined.set()
        _log.info("partitions_assigned", consumer=self.name, partitions=len(partitions))
        self._handler.restart()
        self._commits.joined()
        self._adopting = asyncio.ensure_future(self._adopt(consumer, self._assignment))

    async def _adopt(self, consumer: AIOKafkaConsumer, assignment: Assignment) -> None:
        try:
            await self._commits.adopt(consumer, assignment)
        except Exception as e:  # noqa: BLE001  reported, not swallowed: nobody waits for this task
            self.fail(e)

    async def _stop_adopting(self) -> None:
        if self._adopting is not None:
            self._adopting.cancel()
            await asyncio.wait([self._adopting])
            self._adopting = None

    def fail(self, error: Exception) -> None:
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
