"""Batches of outgoing records, over a producer that sends nothing, in virtual time."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest
from aiokafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from structlog.testing import capture_logs

from service.ports import OutgoingRecord, RecordTooLargeError
from service.stream import publisher
from service.stream.batches import Batches
from tests.support.virtual_time import START_S, virtual_time

LINGER_S = 0.005
PARTITIONS = 3


class FakeProducer:
    """Keeps what it is sent, with the time; answers after `latency_s`, with `failure` if there is one."""

    def __init__(self, *, batch_size: int = 1024) -> None:
        self.batch_size = batch_size
        self.latency_s = 0.002
        self.failure: Exception | None = None
        self.partitions = PARTITIONS
        self.on_metadata: list[Callable[[object], None]] = []
        self.with_leader = set(range(PARTITIONS))
        self.leaderless: set[int] = set()
        self.sent: list[tuple[float, str, int, int]] = []  # seconds from the start, topic, partition, records

    @property
    def client(self) -> SimpleNamespace:
        return SimpleNamespace(
            cluster=SimpleNamespace(
                available_partitions_for_topic=lambda topic: self.with_leader, add_listener=self.on_metadata.append
            )
        )

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(self.partitions))

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.batch_size, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int):
        loop = asyncio.get_running_loop()
        assert batch.closed()
        self.sent.append((loop.time() - START_S, topic, partition, batch.record_count()))

        async def answered() -> None:
            await asyncio.sleep(self.latency_s)
            if self.failure is not None:
                raise self.failure
            if partition in self.leaderless:
                raise NotLeaderForPartitionError

        return answered()


def batches(producer: FakeProducer) -> Batches:
    return Batches(producer, linger_s=LINGER_S, max_record_bytes=2000)


def record(key: bytes | None = b"lane", value: bytes = b"x", topic: str = "work") -> OutgoingRecord:
    return OutgoingRecord(topic, key, value)


@virtual_time
async def test_records_of_one_partition_that_come_within_the_linger_are_sent_together():
    producer = FakeProducer()
    sending = batches(producer)
    futures = [await sending.add(record()) for _ in range(5)]
    await asyncio.sleep(LINGER_S / 2)
    futures += [await sending.add(record(topic="outcomes"))]
    assert await asyncio.gather(*futures) == [None] * 6
    assert [(topic, count) for _, topic, _, count in producer.sent] == [("work", 5), ("outcomes", 1)]
    assert [at for at, *_ in producer.sent] == pytest.approx([LINGER_S, LINGER_S])
    again = await sending.add(record())
    assert await again is None
    assert len(producer.sent) == 3


@virtual_time
async def test_a_full_batch_is_sent_at_once_and_the_rest_after_the_linger():
    producer = FakeProducer(batch_size=1024)
    sending = batches(producer)
    futures = [await sending.add(record(value=bytes(300))) for _ in range(8)]
    assert await asyncio.gather(*futures) == [None] * 8
    assert sum(count for *_, count in producer.sent) == 8
    assert [at for at, *_ in producer.sent] == pytest.approx([0.0, producer.latency_s, 2 * producer.latency_s])


@pytest.mark.parametrize("latency_s", [0.01, 0.05, 0.5])
@virtual_time
async def test_a_broker_that_takes_its_time_gets_larger_batches_and_not_more_of_them(latency_s: float):
    producer = FakeProducer(batch_size=128 * 1024)
    producer.latency_s = latency_s
    sending = batches(producer)
    waits: list[asyncio.Task[float]] = []

    async def written() -> float:
        began = asyncio.get_running_loop().time()
        await (await sending.add(record()))
        return asyncio.get_running_loop().time() - began

    for _ in range(1000):
        waits.append(asyncio.create_task(written()))
        await asyncio.sleep(0.002)
    assert max(await asyncio.gather(*waits)) < 2 * latency_s + 2 * LINGER_S
    at = [at for at, *_ in producer.sent]
    assert min(b - a for a, b in pairwise(at)) >= latency_s - 1e-9, "one at a time"


@virtual_time
async def test_a_bug_is_told_to_everybody_who_waits_for_the_partition_and_the_next_begins_anew():
    producer = FakeProducer()
    producer.failure = AssertionError("Unrecognized partition")
    sending = batches(producer)
    futures = [await sending.add(record(value=bytes(300))) for _ in range(8)]
    assert {type(each) for each in await asyncio.gather(*futures, return_exceptions=True)} == {AssertionError}
    producer.failure = None
    assert await (await sending.add(record())) is None


@virtual_time
async def test_a_record_without_a_key_goes_to_a_partition_that_has_a_leader():
    producer = FakeProducer()
    producer.with_leader = {2}
    sending = batches(producer)
    await asyncio.gather(*[await sending.add(record(key=None)) for _ in range(20)])
    assert {partition for _, _, partition, _ in producer.sent} == {2}


@virtual_time
async def test_a_header_may_have_no_value():
    sending = batches(FakeProducer())
    headers = [("ce_id", None)]
    assert await (await sending.add(OutgoingRecord("work", b"lane", b"x", headers))) is None  # type: ignore[arg-type]


@virtual_time
async def test_a_record_larger_than_a_batch_is_one_by_itself_and_one_that_is_too_large_is_refused():
    producer = FakeProducer(batch_size=1024)
    sending = batches(producer)
    large = await sending.add(record(value=bytes(1500)))
    small = await sending.add(record())
    assert (await large, await small) == (None, None)
    assert sorted(count for *_, count in producer.sent) == [1, 1]
    with pytest.raises(MessageSizeTooLargeError):
        await sending.add(record(value=bytes(2000)))


@virtual_time
async def test_a_failure_is_told_to_everybody_in_the_batch_and_to_nobody_else():
    producer = FakeProducer()
    sending = batches(producer)
    producer.failure = NotLeaderForPartitionError()
    assert await asyncio.gather(*[await sending.add(record()) for _ in range(3)]) == [producer.failure] * 3
    producer.failure = None
    assert await (await sending.add(record())) is None


@virtual_time
async def test_who_is_cancelled_leaves_the_others_to_themselves():
    producer = FakeProducer()
    sending = batches(producer)
    first, second = [await sending.add(record()) for _ in range(2)]
    first.cancel()
    assert await second is None
    assert producer.sent[0][3] == 2, "it is sent all the same"


@pytest.mark.parametrize("key", [b"", b"111122223333:eu-west-1", b"a", bytes(range(256))])
@virtual_time
async def test_a_key_leads_where_kafkas_own_clients_send_it(key: bytes):
    producer = FakeProducer()
    sending = batches(producer)
    await (await sending.add(record(key)))
    partitions = list(range(PARTITIONS))
    assert producer.sent[0][2] == DefaultPartitioner()(key, partitions, partitions)


@virtual_time
async def test_a_partition_that_is_added_is_written_to_once_metadata_tell_of_it():
    producer = FakeProducer()
    sending = batches(producer)
    keys = [f"{number}".encode() for number in range(100)]
    await asyncio.gather(*[await sending.add(record(key)) for key in keys])
    assert {partition for _, _, partition, _ in producer.sent} == {0, 1, 2}
    producer.partitions = 4
    for listener in producer.on_metadata:
        listener(object())
    await asyncio.gather(*[await sending.add(record(key)) for key in keys])
    assert {partition for _, _, partition, _ in producer.sent} == {0, 1, 2, 3}


@virtual_time
async def test_closing_sends_what_there_is():
    producer = FakeProducer()
    sending = batches(producer)
    waiting = await sending.add(record(key=None))
    await sending.aclose()
    assert waiting.result() is None


class StartedProducer(FakeProducer):
    """In the place of AIOKafkaProducer."""

    def __init__(self, **_: object) -> None:
        super().__init__()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@virtual_time
async def test_a_publisher_lets_records_of_its_patient_topic_wait_for_more_of_them(monkeypatch):
    producer = StartedProducer()
    monkeypatch.setattr(publisher, "AIOKafkaProducer", lambda **_: producer)
    async with publisher.KafkaPublisher({}, patient_topic="work") as publishing:
        first = [asyncio.create_task(publishing.publish(record(topic=topic))) for topic in ("work", "outcomes")]
        await asyncio.sleep(0.02)
        await asyncio.gather(*first[1:], publishing.publish(record()))
        assert [(topic, count) for _, topic, _, count in producer.sent] == [("outcomes", 1), ("work", 2)]
        await asyncio.gather(*first)
        last = [asyncio.create_task(publishing.publish(record(topic=topic))) for topic in ("work", "outcomes")]
        await asyncio.sleep(0)
    await asyncio.gather(*last)
    assert len(producer.sent) == 4, "a stop sends what there is"


@virtual_time
async def test_a_topic_is_failing_as_long_as_a_record_of_any_of_its_partitions_is(monkeypatch):
    producer = StartedProducer()
    monkeypatch.setattr(publisher, "AIOKafkaProducer", lambda **_: producer)
    keys = {DefaultPartitioner()(key, list(range(PARTITIONS)), []): key for key in (b"a", b"b", b"c", b"d", b"e", b"f")}
    producer.leaderless = {0}
    async with publisher.KafkaPublisher({}) as publishing:
        stuck = asyncio.create_task(publishing.publish(record(keys[0])))
        for _ in range(20):
            await publishing.publish(record(keys[1]))
            await asyncio.sleep(0.5)
        (failing,) = publishing.failing
        assert failing.topic == "work"
        assert asyncio.get_running_loop().time() - failing.since == pytest.approx(10, abs=0.5)
        producer.leaderless = set()
        await stuck
        assert publishing.failing == []


@virtual_time
async def test_a_topic_is_failing_while_writers_give_up_before_there_is_an_answer_and_until_one_is_written(monkeypatch):
    producer = StartedProducer()
    producer.latency_s = 40
    monkeypatch.setattr(publisher, "AIOKafkaProducer", lambda **_: producer)
    async with publisher.KafkaPublisher({}) as publishing:
        started = asyncio.get_running_loop().time()
        with capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(publishing.publish(record()), 10)
                [failing] = publishing.failing
                assert (failing.topic, failing.since) == ("work", started), "between one caller and the next, too"
                await asyncio.sleep(20)
        assert [entry["event"] for entry in logs] == ["publish_failing"]
        await asyncio.sleep(60)
        producer.latency_s = 0.002
        await publishing.publish(record())
        assert publishing.failing == []


@virtual_time
async def test_a_refusal_for_its_size_is_the_topics_fault_where_all_records_are_small_and_is_waited_out(monkeypatch):
    producer = StartedProducer()
    producer.failure = MessageSizeTooLargeError()
    monkeypatch.setattr(publisher, "AIOKafkaProducer", lambda **_: producer)
    async with publisher.KafkaPublisher({}, small_topics=["outcomes"]) as publishing:
        with pytest.raises(RecordTooLargeError):
            await publishing.publish(record())
        outcome = asyncio.create_task(publishing.publish(record(topic="outcomes")))
        await asyncio.sleep(10)
        assert not outcome.done()
        [failing] = publishing.failing
        assert failing.topic == "outcomes"
        assert "MessageSizeTooLarge" in failing.error
        producer.failure = None
        await outcome
        assert publishing.failing == []
