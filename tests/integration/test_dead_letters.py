"""`logwarden dead-letters` on real brokers: everything is read up to an end, and goes back to where it belongs."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer

from service.core.dead_letters import DeadLetters
from service.domain.command import Origin
from service.domain.outcome import FailureClass
from service.domain.replay import Selection
from service.ports import IncomingRecord
from service.remote import dead_letters
from service.remote.dead_letters import DeadLettersError, list_letters, replay
from service.settings import Settings
from service.stream.backlog import backlog
from service.stream.publisher import KafkaPublisher
from tests.support.fakes import LANE, OTHER_LANE, RecordingObserver, ensure, unlimited
from tests.support.kafka_client import batch_of

COMMANDS = [ensure(str(number), lane=lane) for number in range(10) for lane in (LANE, OTHER_LANE)]
EVENTS = [
    IncomingRecord("events", 0, n, 0, None if n % 2 else b"key", b"event %d" % n, [("ce_id", b"%d" % n)])
    for n in range(5)
]


@pytest.fixture
def settings(kafka_broker, unique_name):
    return Settings(
        kafka_bootstrap_servers=kafka_broker.bootstrap_servers,
        work_topic=unique_name("work"),
        source_topics=[unique_name("events")],
        dead_letter_topic=unique_name("dead-letters"),
    )


@pytest.fixture
async def letters(kafka_broker, settings):
    """What the service has written: ten commands of each of two lanes, five events."""
    [source] = settings.source_topics
    await kafka_broker.create_topics({settings.work_topic: 5, source: 3, settings.dead_letter_topic: 4})
    async with KafkaPublisher({"bootstrap_servers": settings.kafka_bootstrap_servers}) as publisher:
        dead = DeadLetters(
            publisher=publisher,
            observer=RecordingObserver(),
            limit=unlimited(),
            topic=settings.dead_letter_topic,
            work_topic=settings.work_topic,
        )
        for command in COMMANDS:
            await dead.send_command(command, FailureClass.UNKNOWN_TENANT, "no rule")
        for event in EVENTS:
            await dead.send_record(replace(event, topic=source), FailureClass.MALFORMED_EVENT, "is not JSON")


async def everything_on(settings, topic):
    async with aclosing(backlog({"bootstrap_servers": settings.kafka_bootstrap_servers}, topic)) as records:
        return [record async for record in records]


async def test_letters_are_counted_by_class_and_the_newest_are_shown(settings, letters):
    listed = await list_letters(settings, Selection(), limit=7)
    assert listed.counts == {"unknown-tenant": 20, "malformed-event": 5}
    newest = [letter.failure for letter in listed.newest]
    assert newest == ["unknown-tenant"] * 2 + ["malformed-event"] * 5
    assert (await list_letters(settings, Selection(accounts=[LANE.account]), limit=0)).counts.total() == 10


async def test_a_replay_brings_records_back_as_they_were_to_their_lane_s_partition(settings, letters):
    [source], work = settings.source_topics, settings.work_topic
    would = await replay(settings, Selection(), limit=None, is_dry_run=True)
    assert await everything_on(settings, work) == await everything_on(settings, source) == []
    did = await replay(settings, Selection(), limit=None, is_dry_run=False)
    assert did == would
    assert did.counts == {("unknown-tenant", work): 20, ("malformed-event", source): 5}
    commands, events = await everything_on(settings, work), await everything_on(settings, source)
    assert sorted(record.value or b"" for record in commands) == sorted(c.to_bytes() for c in COMMANDS)
    async with KafkaPublisher({"bootstrap_servers": settings.kafka_bootstrap_servers}, patient_topic=work) as ours:
        assert [r.partition for r in commands] == [ours.home_of(work, r.key or b"") for r in commands]
    assert len({record.partition for record in commands}) == 2, "the lanes can be told apart"
    assert sorted((r.value, r.key, list(r.headers)) for r in events if r.key) == [
        (e.value, e.key, list(e.headers)) for e in EVENTS if e.key
    ]
    assert {r.value for r in events if r.key is None} == {e.value for e in EVENTS if e.key is None}


async def test_a_repeat_replays_again_and_a_limit_is_kept(settings, letters, monkeypatch):
    monkeypatch.setattr(dead_letters, "_AT_ONCE", 4)
    commands = Selection(failures=["unknown-tenant"])
    for total in (6, 12):
        assert (await replay(settings, commands, limit=6, is_dry_run=False)).counts.total() == 6
        assert len(await everything_on(settings, settings.work_topic)) == total
    assert (await replay(settings, commands, limit=None, is_dry_run=False)).counts.total() == 20


async def test_what_is_not_ours_is_left_and_named(settings, letters, kafka_broker):
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers) as producer:
        sent = await producer.send_and_wait(settings.dead_letter_topic, b"?", partition=1)
    done = await replay(settings, Selection(), limit=None, is_dry_run=False)
    assert done.counts.total() == 25
    assert done.left == [(Origin(settings.dead_letter_topic, 1, sent.offset), "it is not of this service")]


async def test_reading_ends_where_the_topic_ended_when_it_began(settings, letters):
    read = 0
    async with (
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers) as producer,
        aclosing(
            backlog({"bootstrap_servers": settings.kafka_bootstrap_servers}, settings.dead_letter_topic)
        ) as records,
        asyncio.timeout(60),
    ):
        async for record in records:
            read += 1
            await producer.send_and_wait(record.topic, b"one more", partition=record.partition)
    assert read == 25


@pytest.mark.apache_kafka
async def test_what_cannot_be_decoded_and_what_a_transaction_leaves_stop_no_reading(apache_kafka, unique_name):
    topic, servers = unique_name("letters"), apache_kafka.bootstrap_servers
    await apache_kafka.create_topics({topic: 1})
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for values, bad in (([b"1", b"2"], None), ([b"3", b"unreadable"], 1), ([b"4"], None)):
            await (await producer.send_batch(batch_of(producer, values, bad=bad), topic, partition=0))
    async with (
        AIOKafkaProducer(bootstrap_servers=servers, transactional_id=unique_name("t")) as producer,
        producer.transaction(),
    ):
        await producer.send(topic, b"5", partition=0)
    async with aclosing(backlog({"bootstrap_servers": servers}, topic)) as records:
        assert [record.value async for record in records] == [b"1", b"2", b"3", None, b"4", b"5"]


async def test_a_missing_topic_and_an_absent_broker_are_sentences(settings, unused_tcp_port):
    with pytest.raises(DeadLettersError, match=r"no such topics.*Nothing was written"):
        await replay(settings, Selection(), limit=None, is_dry_run=False)
    absent = settings.model_copy(update={"kafka_bootstrap_servers": f"127.0.0.1:{unused_tcp_port}"})
    with pytest.raises(DeadLettersError, match=r"does not answer\. Nothing was written"):
        await list_letters(absent, Selection(), limit=1)
