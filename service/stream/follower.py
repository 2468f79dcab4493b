"""Reads a whole topic, all partitions, for every replica by itself: no group, no commits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from service.stream.connection import Deadline, close_quietly, until_connected
from service.stream.group import leave
from service.stream.unreadable import RecordsByPartition, read_one
from service.stream.watch import FetchStalledError

_POLL_MS: Final = 1000
_KAFKA_ERROR_WAIT_S: Final = 1.0
# How often it is looked whether records still come: two looks, and a replica that heeds no pause is ended.
_STALL_S: Final = 30.0
_ENDS_TIMEOUT_S: Final = 5.0
_MAX_STEPS: Final = 1000  # records read one by one before all partitions are polled again

_log = structlog.get_logger(__name__)


class Follower:
    """Hands on every value of a topic, from its beginning, in the order of each partition."""

    def __init__(
        self,
        *,
        topic: str,
        arguments: Mapping[str, Any],
        deadline: Deadline | None = None,
        stall_s: float = _STALL_S,
    ) -> None:
        """Every `stall_s` seconds it is looked whether there are records that do not come."""
        self._topic = topic
        self._stall_s = stall_s
        self._looked_at = float("-inf")
        self._behind: dict[TopicPartition, int] = {}  # at the last look
        self._deadline = deadline or Deadline()
        self._arguments = arguments
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}  # after the last record that was applied
        self._moved = asyncio.Condition()

    async def run(self, apply: Callable[[bytes], None]) -> None:
        """`follow` the values alone; tombstones are left out."""
        await self.follow(lambda _, value: None if value is None else apply(value))

    async def follow(self, apply: Callable[[bytes | None, bytes | None], None]) -> None:
        """Hand on each key and value, a tombstone's too, until cancelled.

        Waits, and says so, while the broker is away. What `apply` raises is a bug, and ends it. Raises FetchStalledError as
        `Watch.stalls` does.
        """
        consumer: AIOKafkaConsumer = await until_connected(f"follower of {self._topic}", self._connect)
        async with self._moved:
            self._consumer = consumer
            self._moved.notify_all()
        try:
            while True:
                try:
                    batches = await consumer.getmany(timeout_ms=_POLL_MS)
                except KafkaError as e:
                    _log.warning("follow_failed", topic=self._topic, error=str(e) or type(e).__name__)
                    await asyncio.sleep(_KAFKA_ERROR_WAIT_S)
                    continue
                except UnicodeDecodeError:
                    await self._step_over_unreadable(consumer, apply)
                    continue
                self._apply(batches, apply)
                await self._move(consumer)
                await self._look_for_stall(consumer)
                await asyncio.sleep(0)  # getmany does not yield while it has records
        finally:
            await close_quietly(
                f"follower of {self._topic}", partial(leave, consumer), timeout_s=self._deadline.share_s()
            )

    def _apply(self, batches: RecordsByPartition, apply: Callable[[bytes | None, bytes | None], None]) -> None:
        for tp, records in batches.items():
            for record in records:
                apply(record.key, record.value)
            self._next[tp] = records[-1].offset + 1

    async def _step_over_unreadable(
        self, consumer: AIOKafkaConsumer, apply: Callable[[bytes | None, bytes | None], None]
    ) -> None:
        """Go back to what was applied last, and read on one record at a time: one that cannot be decoded is applied as nothing."""
        try:
            for tp in consumer.assignment():
                if tp in self._next:
                    consumer.seek(tp, self._next[tp])
                else:
                    await consumer.seek_to_beginning(tp)
            for tp in consumer.assignment():
                for _ in range(_MAX_STEPS):
                    if not (batches := await read_one(consumer, tp)):
                        break
                    self._apply(batches, apply)
            await self._move(consumer)
        except KafkaError as e:
            _log.warning("follow_failed", topic=self._topic, error=str(e) or type(e).__name__)
            await asyncio.sleep(_KAFKA_ERROR_WAIT_S)

    async def _move(self, consumer: AIOKafkaConsumer) -> None:
        """Note how far all partitions have been read: a transaction's marker or a compacted record comes with no batch."""
        try:
            positions = {tp: await consumer.position(tp) for tp in consumer.assignment()}
        except KafkaError as e:
            _log.warning("follow_failed", topic=self._topic, error=str(e) or type(e).__name__)
            return
        if positions != self._positions:
            async with self._moved:
                self._positions = positions
                self._moved.notify_all()

    async def _look_for_stall(self, consumer: AIOKafkaConsumer) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._looked_at + self._stall_s:
            return
        self._looked_at = now
        try:
            async with asyncio.timeout(_ENDS_TIMEOUT_S):
                ends = await consumer.end_offsets(list(self._positions))
        except (KafkaError, TimeoutError):  # no restart would help
            return
        behind = {tp: at for tp, at in self._positions.items() if at < ends[tp]}
        for tp, at in behind.items():
            if self._behind.get(tp) == at:
                raise FetchStalledError(f"{tp.topic}/{tp.partition} stays at {at} of {ends[tp]}")
        self._behind = behind

    async def caught_up(self) -> None:
        """Return when everything that is on the topic now has been applied; waits while the broker is away."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._consumer is not None)
        ends = await self._bounds()
        async with self._moved:
            await self._moved.wait_for(
                lambda: all(self._positions.get(tp, begin) >= end for tp, (begin, end) in ends.items())
            )

    async def _bounds(self) -> dict[TopicPartition, tuple[int, int]]:
        """The first and the next offset of each partition, as the broker knows them."""
        while True:
            try:
                if self._consumer is not None and (partitions := list(self._consumer.assignment())):
                    begins = await self._consumer.beginning_offsets(partitions)
                    ends = await self._consumer.end_offsets(partitions)
                    return {tp: (begins[tp], ends[tp]) for tp in partitions}
            except KafkaError as e:
                _log.warning("follow_failed", topic=self._topic, error=str(e) or type(e).__name__)
            await asyncio.sleep(_KAFKA_ERROR_WAIT_S)

    async def _connect(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            self._topic, **self._arguments, auto_offset_reset="earliest", enable_auto_commit=False
        )
        try:
            await consumer.start()
        except BaseException:  # a cancellation too: it has opened connections
            await close_quietly(
                f"follower of {self._topic}", partial(leave, consumer), timeout_s=self._deadline.share_s()
            )
            raise
        return consumer


@asynccontextmanager
async def following(follower: Follower, apply: Callable[[bytes | None, bytes | None], None]) -> AsyncIterator[None]:
    """Let a follower hand on what it reads for the length of an `async with`."""
    task = asyncio.create_task(follower.follow(apply))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
