"""The Kafka loops against real brokers: nothing lost, nothing committed too early, and every edge of aiokafka met on purpose."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer
from structlog.testing import capture_logs

from service.clock import LoopClock
from service.core.fence import Fence
from service.domain.offsets import Delivery
from service.ports import IncomingRecord, OutgoingRecord
from service.sandbox.kafka.apache import start_apache
from service.settings import Settings
from service.stream.commits import Commits
from service.stream.comparison import Verdict, compared
from service.stream.connection import Deadline
from service.stream.consumer import Consumer, ConsumerLimits
from service.stream.durability import warn_of_weak_topics
from service.stream.existing import existing_topics
from service.stream.follower import Follower
from service.stream.group import LEASE_S, SESSION_S
from service.stream.publisher import KafkaPublisher, ProducerEndedError
from service.stream.topics import (
    MIN_INSYNC_CONFIG,
    TopicsMissingError,
    TopicSpec,
    create_topics,
    require_topics,
    topic_specs,
)
from service.stream.unreadable import UNREADABLE
from service.stream.watch import FetchStalledError
from tests.support.kafka_client import batch_of

LIMITS = ConsumerLimits(
    max_pending=1000, commit_interval_s=0.1, commit_timeout_s=2, rebalance_drain_s=5, fetch_max_wait_ms=50
)


class Collector:
    """Finishes every record at once, or only what it is told to."""

    def __init__(self, *, finishes=True):
        self.seen: list[IncomingRecord] = []
        self.open: list[Delivery] = []
        self.finishes = finishes
        self.drained: list[float] = []

    def handle(self, record, delivery):
        self.seen.append(record)
        if self.finishes:
            delivery.finish()
        else:
            self.open.append(delivery)

    async def drain(self, deadline_s):
        self.drained.append(deadline_s)

    def restart(self):
        pass

    @property
    def values(self):
        return Counter(record.value for record in self.seen)


class Proofs:
    """The port Membership."""

    def __init__(self):
        self.sent_at = []
        self.refuted_times = 0

    def proven(self, sent_at):
        self.sent_at.append(sent_at)

    def refuted(self):
        self.refuted_times += 1


async def until(condition, timeout_s=20.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def member(arguments, topic, group, handler, *, limits=LIMITS, drain_s=5.0, membership=None):
    consumer = Consumer(
        name="test",
        group=group,
        topics=[topic],
        arguments=arguments,
        handler=handler,
        limits=limits,
        clock=LoopClock(),
        membership=membership,
        deadline=(deadline := Deadline()),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(consumer.run(stop, drain_s=drain_s))
    try:
        yield consumer
    finally:
        stop.set()
        deadline.begin(drain_s + 4)
        await task


async def write(arguments, topic, values):
    async with KafkaPublisher(arguments) as publisher:
        await asyncio.gather(*(publisher.publish(OutgoingRecord(topic, value[:4], value)) for value in values))


@pytest.fixture
def arguments(kafka_broker):
    return {"bootstrap_servers": kafka_broker.bootstrap_servers}


@pytest.fixture
async def topic(kafka_broker, unique_name):
    name = unique_name("records")
    await kafka_broker.create_topics({name: 4})
    return name


async def test_every_record_is_handed_over_once_and_its_position_committed(arguments, topic, unique_name):
    values = [b"%06d" % i for i in range(2000)]
    await write(arguments, topic, values)
    first = Collector()
    async with member(arguments, topic, unique_name("group"), first) as consumer:
        await until(lambda: len(first.seen) == 2000)
        await until(lambda: all(p.committed == p.position for p in consumer.partitions()))
        assert sum(p.lag or 0 for p in consumer.partitions()) == 0
    assert first.values == Counter(values)
    assert first.drained == [5.0]


@pytest.mark.apache_kafka
async def test_only_what_is_not_finished_is_delivered_to_the_next_member_again(apache_kafka, unique_name):
    arguments, topic = {"bootstrap_servers": apache_kafka.bootstrap_servers}, unique_name("records")
    await apache_kafka.create_topics({topic: 4})
    group = unique_name("group")
    await write(arguments, topic, [b"%06d" % i for i in range(400)])
    first = Collector(finishes=False)
    async with member(arguments, topic, group, first):
        await until(lambda: len(first.seen) == 400)
        unfinished = set()
        for i, (record, delivery) in enumerate(zip(first.seen, first.open, strict=True)):
            if i % 7:
                delivery.finish()
            else:
                unfinished.add((record.partition, record.offset))
    second = Collector()
    async with member(arguments, topic, group, second) as consumer:
        await until(lambda: len(second.seen) >= len(unfinished))
        await until(lambda: sum(p.lag or 0 for p in consumer.partitions()) == 0)
    assert {(r.partition, r.offset) for r in second.seen} == unfinished
    assert len(second.seen) == len(unfinished)


@pytest.mark.apache_kafka
async def test_a_bug_in_the_handler_ends_the_consumer_with_nothing_committed(apache_kafka, unique_name):
    arguments, topic = {"bootstrap_servers": apache_kafka.bootstrap_servers}, unique_name("records")
    await apache_kafka.create_topics({topic: 4})
    group = unique_name("group")
    await write(arguments, topic, [b"%06d" % i for i in range(10)])

    class Broken(Collector):
        def handle(self, record, delivery):
            raise ZeroDivisionError

    broken = Consumer(
        name="test",
        group=group,
        topics=[topic],
        arguments=arguments,
        handler=Broken(),
        limits=LIMITS,
        clock=LoopClock(),
    )
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(broken.run(asyncio.Event(), drain_s=5), 20)
    assert raised.group_contains(ZeroDivisionError)
    again = Collector()
    async with member(arguments, topic, group, again):
        await until(lambda: len(again.seen) == 10, 30)


async def test_stops_fetching_when_the_limit_is_reached_and_goes_on_when_there_is_room(arguments, topic, unique_name):
    limits = ConsumerLimits(
        max_pending=400, commit_interval_s=0.1, commit_timeout_s=2, rebalance_drain_s=5, fetch_max_wait_ms=50
    )
    await write(arguments, topic, [b"%06d" % i for i in range(6000)])
    handler = Collector(finishes=False)
    async with member(arguments, topic, unique_name("group"), handler, limits=limits) as consumer:
        await until(lambda: consumer.pending >= 200)
        await asyncio.sleep(1)
        assert consumer.pending <= 600, "half the limit and one poll of it, then a share for each partition"
        handler.finishes = True
        for delivery in handler.open:
            delivery.finish()
        await until(lambda: len(handler.seen) == 6000)


@pytest.mark.apache_kafka
async def test_large_records_are_bounded_by_their_bytes(apache_kafka, unique_name):
    arguments, topic = {"bootstrap_servers": apache_kafka.bootstrap_servers}, unique_name("records")
    await apache_kafka.create_topics({topic: 4})
    limits = replace(LIMITS, max_pending=100_000, max_pending_bytes=20 * 200_000)
    await write(arguments, topic, [b"%06d" % (100 * i) + bytes(200_000) for i in range(120)])
    handler = Collector(finishes=False)
    async with member(arguments, topic, unique_name("group"), handler, limits=limits) as consumer:
        await until(lambda: consumer.pending >= 10)
        await asyncio.sleep(1)
        assert consumer.pending <= 45, "half the limit, one poll more, and a share for each partition"
        handler.finishes = True
        for delivery in handler.open:
            delivery.finish()
        await until(lambda: len(handler.seen) == 120)


async def test_a_fetcher_that_has_ended_without_a_word_ends_the_consumer(best_kafka, unique_name):
    arguments, topic = {"bootstrap_servers": best_kafka.bootstrap_servers}, unique_name("records")
    await best_kafka.create_topics({topic: 4})
    limits = replace(LIMITS, stall_s=1.0)
    handler = Collector()
    consumer = Consumer(
        name="test", group=unique_name("group"), topics=[topic], arguments=arguments, handler=handler, limits=limits,
        clock=LoopClock(),
    )  # fmt: skip
    run = asyncio.create_task(consumer.run(asyncio.Event(), drain_s=5))
    await write(arguments, topic, [b"%06d" % i for i in range(40)])
    await until(lambda: len(handler.seen) == 40)
    await asyncio.sleep(2)
    assert not run.done(), "there is nothing to fetch: that is no stall"
    assert consumer._consumer is not None
    consumer._consumer._fetcher._fetch_task.cancel()
    await asyncio.sleep(2)
    assert not run.done()
    await write(arguments, topic, [b"%06d" % i for i in range(40, 80)])
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(run, 20)
    assert raised.group_contains(FetchStalledError)


async def test_a_follower_whose_fetcher_has_ended_ends_and_one_that_has_nothing_to_read_does_not(
    best_kafka, unique_name
):
    arguments, topic = {"bootstrap_servers": best_kafka.bootstrap_servers}, unique_name("control")
    await best_kafka.create_topics({topic: 1})
    await write(arguments, topic, [b"a"])
    seen: list[bytes] = []
    follower = Follower(topic=topic, arguments=arguments, stall_s=0.5)
    run = asyncio.create_task(follower.run(seen.append))
    await until(lambda: seen == [b"a"])
    await asyncio.sleep(2)
    assert not run.done()
    assert follower._consumer is not None
    follower._consumer._fetcher._fetch_task.cancel()
    await asyncio.sleep(2)
    assert not run.done(), "there is nothing to fetch: that is no stall"
    await write(arguments, topic, [b"b"])
    with pytest.raises(FetchStalledError):
        await asyncio.wait_for(run, 20)


@pytest.mark.apache_kafka
async def test_a_record_that_cannot_be_decoded_is_handed_over_without_its_bytes_and_costs_no_other(
    apache_kafka, unique_name
):
    arguments, topic = {"bootstrap_servers": apache_kafka.bootstrap_servers}, unique_name("records")
    await apache_kafka.create_topics({topic: 3})
    expected = set()
    producer = AIOKafkaProducer(**arguments)
    await producer.start()
    for number in range(12):  # batches of 50, every fourth with a bad record in its middle
        partition = number % 3
        batch = batch_of(
            producer, [b"%06d" % (100 * number + n) for n in range(50)], bad=25 if number % 4 == 1 else None
        )
        sent = await (await producer.send_batch(batch, topic, partition=partition))
        expected |= {(partition, sent.offset + n) for n in range(50)}
    await producer.stop()
    handler = Collector()
    async with member(arguments, topic, unique_name("group"), handler) as consumer:
        await until(lambda: len(handler.seen) == 600, 40)
        await until(lambda: sum(p.lag or 0 for p in consumer.partitions()) == 0)
    assert {(r.partition, r.offset) for r in handler.seen} == expected
    unreadable = [r for r in handler.seen if r.value is None]
    assert [dict(r.headers).keys() for r in unreadable] == [{UNREADABLE}] * 75
    assert {r.offset % 50 for r in unreadable} == set(range(25, 50)), "the bad record, and what follows in its batch"


@pytest.mark.apache_kafka
async def test_a_follower_steps_over_what_cannot_be_decoded_and_catches_up(apache_kafka, unique_name):
    arguments, topic = {"bootstrap_servers": apache_kafka.bootstrap_servers}, unique_name("requests")
    await apache_kafka.create_topics({topic: 1})
    producer = AIOKafkaProducer(**arguments)
    await producer.start()
    for number in range(3):
        batch = batch_of(producer, [b"%06d" % (10 * number + n) for n in range(10)], bad=5 if number == 1 else None)
        await (await producer.send_batch(batch, topic, partition=0))
    await producer.stop()
    seen: list[bytes] = []
    follower = Follower(topic=topic, arguments=arguments)
    task = asyncio.create_task(follower.run(seen.append))
    await asyncio.wait_for(follower.caught_up(), 30)
    assert seen == [b"%06d" % n for n in (*range(15), *range(20, 30))], (
        "all but the bad one, and what follows in its batch"
    )
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_a_partition_that_was_held_back_for_long_is_no_stall(best_kafka, unique_name):
    arguments, topic = {"bootstrap_servers": best_kafka.bootstrap_servers}, unique_name("records")
    await best_kafka.create_topics({topic: 4})
    limits = replace(LIMITS, max_pending=40, stall_s=1.0)
    await write(arguments, topic, [b"%06d" % i for i in range(2000)])
    handler = Collector(finishes=False)
    async with member(arguments, topic, unique_name("group"), handler, limits=limits) as consumer:
        await until(lambda: consumer.pending >= 20)
        for _ in range(6):  # each time it is held back for longer than a stall, then there is room for a little
            await asyncio.sleep(1.5)
            for delivery in handler.open[:30]:
                delivery.finish()
            del handler.open[:30]
        handler.finishes = True
        for delivery in handler.open:
            delivery.finish()
        await until(lambda: len(handler.seen) == 2000, 40)


@pytest.mark.apache_kafka
async def test_a_drain_longer_than_the_session_evicts_nobody_and_loses_nothing(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 2})

    class Slow(Collector):
        async def drain(self, deadline_s):
            await super().drain(deadline_s)
            if self.open:
                await asyncio.sleep(8)  # a session is 6 s, and so would be the time for a rebalance by default
            for delivery in self.open:
                delivery.finish()
            self.open.clear()

    first, second = Slow(finishes=False), Collector()
    limits = replace(LIMITS, rebalance_drain_s=10, session_s=6)
    async with member(arguments, topic, group, first, limits=limits) as one:
        await until(lambda: one.is_joined)
        await write(arguments, topic, [b"%06d" % i for i in range(100)])
        await until(lambda: len(first.seen) == 100)
        async with member(arguments, topic, group, second, limits=limits) as two:
            await until(lambda: len(one.partitions()) == len(two.partitions()) == 1, 40)
            await asyncio.sleep(1)
            assert second.seen == []
    assert len(first.seen) == 100


@pytest.mark.apache_kafka
async def test_a_slow_look_at_what_former_owners_did_evicts_nobody(apache_kafka, unique_name, monkeypatch):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 2})

    fetch_committed = Commits._fetch_committed

    async def slow(*args):
        await asyncio.sleep(8)  # a session is 6 s, and nothing tells the group that we live while the callback runs
        return await fetch_committed(*args)

    monkeypatch.setattr(Commits, "_fetch_committed", slow)
    limits = replace(LIMITS, session_s=6, commit_timeout_s=20)
    handler, proofs = Collector(), Proofs()
    async with member(arguments, topic, group, handler, limits=limits, membership=proofs) as consumer:
        await write(arguments, topic, [b"%06d" % i for i in range(100)])
        await until(lambda: len(handler.seen) == 100)
        await until(lambda: all(p.committed == p.position for p in consumer.partitions()))
        assert handler.drained == [], "no partition was taken away meanwhile"
        assert proofs.refuted_times == 1, "before it joined"


@pytest.mark.apache_kafka
async def test_an_owner_that_loses_only_its_coordinator_calls_no_more_when_the_next_one_begins(
    apache_kafka, unique_name
):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 1})
    limits = replace(LIMITS, session_s=6)
    fence, first, second = (
        Fence(clock=LoopClock(), lasts_s=6 - SESSION_S + LEASE_S, session_s=6),
        Collector(),
        Collector(),
    )
    async with member(arguments, topic, group, first, limits=limits, membership=fence) as one:
        await until(fence.may_call)
        await asyncio.sleep(4)
        assert fence.may_call(), "nothing has moved, and it is proven again and again"
        coordinator = one._consumer._coordinator
        send, coordinator._send_req = coordinator._send_req, lambda request: asyncio.get_running_loop().create_future()
        async with member(arguments, topic, group, second, limits=limits) as two:
            await write(arguments, topic, [b"fetched by both"])
            while not second.seen:
                is_shut = not fence.may_call()
                await asyncio.sleep(0.02)
            assert is_shut
            assert first.seen, "it fetches, which needs no coordinator"
            coordinator._send_req = send
            assert len(two.partitions()) == 1
        await until(fence.may_call, 60)  # it goes on by itself once the partition is its own again


@pytest.mark.apache_kafka
async def test_lanes_stay_with_their_owner_as_far_as_can_be_when_members_come_and_go(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 12})

    def owned_since(consumer):
        return {tp: ledger.owned_since for tp, ledger in consumer._assignment.ledgers.items()}

    async with member(arguments, topic, group, Collector(), membership=Proofs()) as one:
        await until(lambda: len(one.partitions()) == 12)
        alone = owned_since(one)
        async with member(arguments, topic, group, Collector(), membership=Proofs()) as two:
            await until(lambda: len(one.partitions()) == len(two.partitions()) == 6)
            shared, others = owned_since(one), owned_since(two)
            assert shared.items() <= alone.items(), "all that it has now it has had since it was alone"
            assert min(others.values()) > max(alone.values())
            async with member(arguments, topic, group, Collector(), membership=Proofs()) as three:
                await until(lambda: len(three.partitions()) == 4)
                assert owned_since(one).items() <= shared.items()
                assert owned_since(two).items() <= others.items()


@pytest.mark.apache_kafka
async def test_partitions_that_change_hands_are_fetched_at_once_though_the_broker_holds_the_last_fetch(
    apache_kafka, unique_name
):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 2})
    held_s = 20.0
    limits = replace(LIMITS, fetch_max_wait_ms=round(held_s * 1000))
    first = Collector()
    async with member(arguments, topic, group, first, limits=limits) as one:
        async with member(arguments, topic, group, Collector(), limits=limits) as two:
            await until(lambda: len(one.partitions()) == len(two.partitions()) == 1)
            await asyncio.sleep(1)  # both wait at the broker
            [moving] = two.partitions()
        await until(lambda: len(one.partitions()) == 2)
        async with asyncio.timeout(held_s / 2), AIOKafkaProducer(**arguments) as producer:
            await producer.send_and_wait(topic, b"moved", partition=moving.partition)
            await until(lambda: first.seen)


@pytest.mark.apache_kafka
async def test_stopping_in_the_middle_of_a_rebalance_does_not_wait_for_its_end(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 2})
    is_over = asyncio.Event()

    class Slow(Collector):
        async def drain(self, deadline_s):
            await is_over.wait()

    limits = replace(LIMITS, rebalance_drain_s=60)
    async with member(arguments, topic, group, Slow(), limits=limits) as one:
        await until(lambda: one.is_joined)
        async with asyncio.timeout(20), member(arguments, topic, group, Collector(), limits=limits) as two:
            await until(lambda: not one.is_joined)  # it drains, and the other waits for it within its poll
            assert not two.is_joined
        is_over.set()


async def test_a_follower_reads_a_topic_from_its_beginning_and_knows_when_it_has_caught_up(
    arguments, kafka_broker, unique_name
):
    topic = unique_name("requests")
    await kafka_broker.create_topics({topic: 1})
    await write(arguments, topic, [b"%06d" % i for i in range(50)])
    seen: list[bytes] = []
    follower = Follower(topic=topic, arguments=arguments)
    task = asyncio.create_task(follower.run(seen.append))
    await asyncio.wait_for(follower.caught_up(), 10)
    assert len(seen) == 50
    await write(arguments, topic, [b"later"])
    await asyncio.wait_for(follower.caught_up(), 10)
    assert seen[-1] == b"later"
    task.cancel()
    await asyncio.wait([task])


async def test_a_tombstone_without_a_key_can_be_written(arguments, topic, unique_name):
    async with KafkaPublisher(arguments) as publisher:
        await publisher.publish(OutgoingRecord(topic, None, None, [("why", b"x")]))
    handler = Collector()
    async with member(arguments, topic, unique_name("group"), handler):
        await until(lambda: len(handler.seen) == 1)
    assert handler.seen[0].value is None
    assert list(handler.seen[0].headers) == [("why", b"x")]


async def test_missing_topics_are_named(arguments, topic):
    await require_topics(arguments, [topic])
    with pytest.raises(TopicsMissingError, match="no-such-topic"):
        await require_topics(arguments, [topic, "no-such-topic"])


@pytest.mark.apache_kafka
async def test_topics_are_created_with_their_settings_once(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    spec = TopicSpec(unique_name("dead"), 3, {"max.message.bytes": "2097152"})
    assert await create_topics(arguments, [spec], replication=1) == {spec.name: "created"}
    assert await create_topics(arguments, [spec], replication=1) == {spec.name: "exists"}
    async with KafkaPublisher(arguments) as publisher:
        await publisher.publish(OutgoingRecord(spec.name, b"k", bytes(1_500_000)))


@pytest.mark.apache_kafka
async def test_a_follower_hands_on_tombstones_and_has_caught_up_behind_a_transactions_marker(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    await apache_kafka.create_topics({(topic := unique_name("followed")): 1})
    async with AIOKafkaProducer(**arguments, transactional_id=unique_name("writer")) as producer:
        for value in (b"word", None):
            async with producer.transaction():
                await producer.send_and_wait(topic, value, key=b"key")
    seen = []
    follower = Follower(topic=topic, arguments=arguments)
    task = asyncio.create_task(follower.follow(lambda key, value: seen.append((key, value))))
    await asyncio.wait_for(follower.caught_up(), 10)
    assert seen == [(b"key", b"word"), (b"key", None)]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.apache_kafka
async def test_every_topic_can_be_created_with_the_brokers_own_replication(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    name = unique_name("default")
    settings = Settings(
        source_topics=[f"{name}.events"],
        work_topic=f"{name}.work",
        retry_topic=f"{name}.retry",
        outcomes_topic=f"{name}.outcomes",
        dead_letter_topic=f"{name}.dead-letters",
        requests_topic=f"{name}.requests",
        control_topic=f"{name}.control",
        work_partitions=2,
        topic_partitions=1,
        topic_replication=-1,
    )
    specs = topic_specs(settings)
    results = await create_topics(arguments, specs, replication=settings.topic_replication)
    assert results == {spec.name: "created" for spec in specs}
    compacted = {spec.name for spec in specs if spec.config["cleanup.policy"] == "compact"}
    assert compacted == {settings.control_topic}
    assert {spec.config["cleanup.policy"] for spec in specs} == {"delete", "compact"}
    weak = await warn_of_weak_topics(arguments, settings)
    assert weak is not None
    assert [(topic.name, topic.replicas, topic.config[MIN_INSYNC_CONFIG]) for topic in weak.thin] == [
        (spec.name, 1, "1") for spec in specs if spec.name not in settings.source_topics
    ]
    assert weak.wrong == []
    on_one_disk = settings.model_copy(update={"topic_replication": 1})
    assert {each.verdict for each in await compared(arguments, on_one_disk)} == {Verdict.AS_WANTED}
    assert {each.verdict for each in await compared(arguments, settings) if each.is_ours} == {Verdict.WEAK}
    assert await existing_topics(arguments, [f"{name}.missing"], [MIN_INSYNC_CONFIG]) == []


@pytest.mark.apache_kafka
async def test_a_start_warns_of_topics_on_one_disk_in_one_line_and_of_each_setting_that_loses_records(
    apache_kafka, unique_name
):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    settings = Settings(
        work_topic=unique_name("work"),
        outcomes_topic=unique_name("outcomes"),
        dead_letter_topic=unique_name("dead-letters"),
        control_topic=unique_name("control"),
    )
    by_hand = [
        TopicSpec(settings.work_topic, 48, {"cleanup.policy": "compact", "retention.ms": "3600000"}),
        TopicSpec(settings.outcomes_topic, 12, {MIN_INSYNC_CONFIG: "2", "retention.ms": "-1"}),
        TopicSpec(settings.dead_letter_topic, 12, {"retention.ms": "-1"}),
        TopicSpec(settings.control_topic, 2),
    ]
    await create_topics(arguments, by_hand, replication=1)
    with capture_logs() as logs:
        await warn_of_weak_topics(arguments, settings)
    [thin] = [line for line in logs if line["event"] == "topics_may_lose_records"]
    assert sorted(thin["topics"]) == sorted(
        f"{spec.name}: 1 replicas, min.insync.replicas {spec.config.get(MIN_INSYNC_CONFIG, 1)}" for spec in by_hand
    )
    wrong = [line for line in logs if line["event"] == "topic_setting_wrong"]
    assert {line["log_level"] for line in logs} == {"warning"}
    assert len(logs) == 1 + len(wrong)
    assert sorted((line["topic"], line["setting"], line["actual"], line["wanted"]) for line in wrong) == sorted(
        [
            (settings.work_topic, "cleanup.policy", "compact", "delete"),
            (settings.work_topic, "retention.ms", "3600000", str(14 * 86_400_000)),
            (settings.dead_letter_topic, "max.message.bytes", "1048588", "2097152"),
            (settings.control_topic, "cleanup.policy", "delete", "compact"),
            (settings.control_topic, "partitions", "2", "1"),
        ]
    )
    assert all(line["hint"] for line in wrong)


async def test_what_a_broker_does_not_tell_of_topics_is_not_held_against_them(librdkafka_kafka, unique_name):
    settings = Settings(work_topic=unique_name("work"), work_partitions=2, topic_replication=1)
    await librdkafka_kafka.create_topics({settings.work_topic: 2})
    arguments = {"bootstrap_servers": librdkafka_kafka.bootstrap_servers}
    verdicts = {each.spec.name: each.verdict for each in await compared(arguments, settings)}
    assert verdicts[settings.work_topic] is Verdict.AS_WANTED
    assert verdicts[settings.outcomes_topic] is Verdict.MISSING


async def test_a_broker_that_cannot_tell_how_durable_topics_are_is_worked_with_all_the_same(kafka_broker, topic):
    with capture_logs() as logs:
        await warn_of_weak_topics(
            {"bootstrap_servers": kafka_broker.bootstrap_servers}, Settings(work_topic=topic, topic_replication=3)
        )
    assert [line["event"] for line in logs if line["event"].startswith("topics_")] in (
        ["topics_durability_unknown"],
        ["topics_may_lose_records"],
    )


async def test_a_producer_whose_sending_has_ended_is_no_secret(arguments, topic):
    async with KafkaPublisher(arguments) as publisher:
        watching = asyncio.create_task(publisher.watch())
        await publisher.publish(OutgoingRecord(topic, b"k", b"x"))
        assert not watching.done()
        assert publisher._producer is not None
        publisher._producer._sender._sender_task.cancel()
        with pytest.raises(ProducerEndedError):
            await asyncio.wait_for(watching, 10)


@pytest.mark.apache_kafka
async def test_a_rebalance_drains_and_commits_so_that_nothing_is_lost_or_worked_twice(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 6})
    values = [b"%06d" % i for i in range(3000)]
    first, second = Collector(), Collector()
    # a commit that a busy machine answers late is one that failed, and its records are rightly worked again
    limits = replace(LIMITS, commit_timeout_s=30)
    async with member(arguments, topic, group, first, limits=limits) as one:
        await until(lambda: one.is_joined)
        await write(arguments, topic, values[:1000])
        async with member(arguments, topic, group, second, limits=limits) as two:
            await write(arguments, topic, values[1000:2000])
            await until(
                lambda: two.is_joined and one.is_joined and len(one.partitions()) == len(two.partitions()) == 3, 60
            )
            await write(arguments, topic, values[2000:])
            await until(lambda: len(first.values + second.values) == 3000, 60)
    assert first.drained[0] == LIMITS.rebalance_drain_s
    assert first.values + second.values == Counter(values)


@pytest.mark.apache_kafka
async def test_nothing_is_lost_while_records_keep_coming_and_members_come_and_go(apache_kafka, unique_name):
    arguments = {"bootstrap_servers": apache_kafka.bootstrap_servers}
    topic, group = unique_name("records"), unique_name("group")
    await apache_kafka.create_topics({topic: 4})
    members = [Collector()]

    async def come_and_go():
        for _ in range(3):
            members.append(Collector())
            async with member(arguments, topic, group, members[-1]) as consumer:
                await until(lambda consumer=consumer: consumer.is_joined)
                await asyncio.sleep(0.5)

    async with member(arguments, topic, group, members[0]) as first, KafkaPublisher(arguments) as publisher:
        await until(lambda: first.is_joined)
        coming = asyncio.create_task(come_and_go())
        written = 0
        while not coming.done():
            values = [b"%06d" % i for i in range(written, written + 20)]
            await asyncio.gather(*(publisher.publish(OutgoingRecord(topic, v, v)) for v in values))
            written += 20
            await asyncio.sleep(0.005)
        await coming
        everything = {b"%06d" % i for i in range(written)}
        await until(lambda: set().union(*(m.values for m in members)) == everything)
    assert sum((m.values for m in members), Counter()).total() - written <= 100, (
        "drains leave next to nothing to be worked twice"
    )


@pytest.mark.apache_kafka
async def test_a_broker_that_goes_away_and_comes_back_costs_nothing_but_time(unique_name):
    async with start_apache() as broker:
        arguments = {"bootstrap_servers": broker.bootstrap_servers, "request_timeout_ms": 3000}
        await broker.create_topics({"records": 4})
        handler, proofs = Collector(finishes=False), Proofs()
        async with (
            member(arguments, "records", "group", handler, membership=proofs) as consumer,
            KafkaPublisher(arguments) as publisher,
        ):
            watching = asyncio.create_task(publisher.watch())
            await publisher.publish(OutgoingRecord("records", b"k", b"before"))
            await until(lambda: len(handler.seen) == 1)
            await until(lambda: proofs.sent_at != [])
            await broker.kill()
            before = len(proofs.sent_at)
            handler.open.pop().finish()
            while_away = asyncio.create_task(publisher.publish(OutgoingRecord("records", b"k", b"meanwhile")))
            await asyncio.sleep(4)
            assert not while_away.done()
            assert len(proofs.sent_at) <= before + 1, "a commit may have been on its way"
            assert not watching.done(), "a broker that is away is no reason to end"
            [failing] = publisher.failing
            assert failing.topic == "records"
            assert failing.error
            assert consumer.last_poll is not None
            assert LoopClock().now() - consumer.last_poll < 3, "the member goes on polling, so it counts as alive"
            await broker.restart()
            await asyncio.wait_for(while_away, 30)
            await until(lambda: b"meanwhile" in handler.values, 60)
            assert publisher.failing == []
            await until(lambda: sum(p.committed or 0 for p in consumer.partitions()) == 1)  # the commit is made up for
            assert len(proofs.sent_at) > before
            watching.cancel()


@pytest.mark.apache_kafka
async def test_stopping_with_the_broker_away_ends_within_its_limits(unique_name):
    async with start_apache() as broker:
        arguments = {"bootstrap_servers": broker.bootstrap_servers, "request_timeout_ms": 3000}
        await broker.create_topics({"records": 4})
        handler = Collector()
        started = LoopClock()
        async with member(arguments, "records", "group", handler) as consumer:
            await until(lambda: consumer.is_joined)
            await write(arguments, "records", [b"x"])
            await until(lambda: len(handler.seen) == 1)
            await broker.kill()
            stopping_at = started.now()
        assert started.now() - stopping_at < 9 + 1, (
            "the drain's 5 s and 4 more, and none of the limits that each step has"
        )


async def test_a_consumer_that_waits_for_an_absent_broker_can_be_stopped(unused_tcp_port):
    arguments = {"bootstrap_servers": f"127.0.0.1:{unused_tcp_port}"}
    async with member(arguments, "records", "group", Collector()) as consumer:
        await asyncio.sleep(1)
        assert not consumer.is_joined
