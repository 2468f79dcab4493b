"""What stands in for aiokafka's clients where a test needs them to be slow, or to fail, at a certain moment; and what they cannot read."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c_py


class FakeGroup:
    """A topic's partitions and a group's offsets, shared by the clients of one test. While `answers` is not set the broker gives none."""

    def __init__(self, ends: Mapping[TopicPartition, int]) -> None:
        self.ends = dict(ends)
        self.begins = dict.fromkeys(ends, 0)
        self.committed: dict[TopicPartition, tuple[int, str]] = {}
        self.commits: list[dict[TopicPartition, tuple[int, str]]] = []
        self.refuses: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    def client(self) -> "FakeConsumer":
        return FakeConsumer(self)


class FakeCoordinator:
    """GroupCoordinator, as far as commits need it."""

    def __init__(self, group: FakeGroup) -> None:
        self._group = group

    async def fetch_committed_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Any]:
        await self._group.answers.wait()
        offsets = {tp: self._group.committed[tp] for tp in partitions if tp in self._group.committed}
        return {tp: SimpleNamespace(offset=at, metadata=metadata) for tp, (at, metadata) in offsets.items()}


class FakeFetcher:
    """Fetcher: `bring` is an answer of the broker with records, which wait until they are asked for."""

    def __init__(self) -> None:
        self.records: dict[TopicPartition, list[ConsumerRecord]] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def bring(self, tp: TopicPartition, offsets: Iterable[int]) -> None:
        brought = [ConsumerRecord(tp.topic, tp.partition, at, 0, 0, b"k", b"v", None, 1, 1, ()) for at in offsets]
        self.records.setdefault(tp, []).extend(brought)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _create_fetch_waiter(self) -> "asyncio.Future[None]":
        self._waiters.append(asyncio.get_running_loop().create_future())
        return self._waiters[-1]


class FakeConsumer:
    """AIOKafkaConsumer, as far as polling, commits and watching need it."""

    def __init__(self, group: FakeGroup) -> None:
        self._group = group
        self._coordinator = FakeCoordinator(group)
        self._fetcher = FakeFetcher()
        self.polls = 0

    async def getmany(self, *partitions: TopicPartition, max_records: int) -> dict[TopicPartition, Sequence[Any]]:
        self.polls += 1
        taken: dict[TopicPartition, Sequence[Any]] = {}
        for tp in partitions:
            if (records := self._fetcher.records.get(tp)) and max_records:
                taken[tp], self._fetcher.records[tp] = records[:max_records], records[max_records:]
                max_records -= len(taken[tp])
        return taken

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        await self._group.answers.wait()
        if self._group.refuses is not None:
            raise self._group.refuses
        self._group.commits.append(offsets)
        self._group.committed |= offsets

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        await self._group.answers.wait()
        return {tp: self._group.begins[tp] for tp in partitions}

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        await self._group.answers.wait()
        return {tp: self._group.ends[tp] for tp in partitions}

    def highwater(self, tp: TopicPartition) -> int | None:
        return None


def batch_of(producer: AIOKafkaProducer, values: Sequence[bytes], *, bad: int | None) -> BatchBuilder:
    """A batch, one of whose records has a header with a name that is not UTF-8: what a client in another language may write."""
    batch: BatchBuilder = producer.create_batch()
    for number, value in enumerate(values):
        headers = [("NAME", b"x")] if number == bad else []
        batch.append(key=None, value=value, timestamp=None, headers=headers)
    data = bytearray(batch._build())
    if bad is not None:
        at = data.index(b"NAME")
        data[at : at + 4] = b"\xff\xfe\xff\xfe"
        data[17:21] = calc_crc32c_py(bytes(data[21:])).to_bytes(4, "big")
    batch._buffer = bytes(data)
    return batch
