"""The sandbox's brokers, as the service's client sees them: one suite for both, then what only one of them can do."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, UnknownTopicOrPartitionError

from service.sandbox.kafka import apache
from service.sandbox.kafka.apache import ApacheKafka, apache_missing, start_apache
from service.sandbox.kafka.broker import LibrdkafkaBroker, LocalBroker, LocalBrokerError, start_librdkafka
from tests.support.kafka import TEST_EVERYTHING_VARIABLE, require_apache

UniqueName = Callable[[str], str]

PRODUCE = 0  # an API key of the Kafka protocol, and some of its error codes
NOT_LEADER, REQUEST_TIMED_OUT, MESSAGE_TOO_LARGE, DISCONNECT = 6, 7, 10, -195
BIG_RECORD_BYTES = 1_258_291  # 1.2 MiB: a dead letter carries its record's bytes unchanged, and headers besides
BIG_REQUEST_BYTES = 2 * 1024 * 1024


@asynccontextmanager
async def producer(broker: LocalBroker, **settings: Any) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, acks="all", enable_idempotence=True, retry_backoff_ms=20, **settings
    )
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def consumer(
    broker: LocalBroker, *topics: str, group: str | None = None, **settings: Any
) -> AsyncIterator[AIOKafkaConsumer]:
    defaults: dict[str, Any] = {
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 50,
        "session_timeout_ms": 1200,
        "heartbeat_interval_ms": 200,
        "retry_backoff_ms": 20,
    }
    client = AIOKafkaConsumer(
        *topics, bootstrap_servers=broker.bootstrap_servers, group_id=group, **defaults | settings
    )
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def read(client: AIOKafkaConsumer, count: int) -> list[ConsumerRecord]:
    """The next `count` records, or a TimeoutError."""
    records: list[ConsumerRecord] = []
    async with asyncio.timeout(20):
        while len(records) < count:
            for batch in (await client.getmany(timeout_ms=200)).values():
                records += batch
    return records


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        not Path(f"/proc/{pid}/stat").exists()
        or Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    )


def pid_launched_by_a_parent_that_is_killed(module: str, broker: str) -> int:
    """Launch a broker in another Python, kill that one with SIGKILL, and return the broker's pid."""
    script = f"import {module} as m, time; print(m.{broker}.launch()._process.pid, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert exists(pid)
        finally:
            parent.kill()
    return pid


def is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


class TestBothBrokers:
    async def test_a_record_comes_back_with_its_key_value_headers_and_timestamp(
        self, kafka_broker: LocalBroker, unique_name: UniqueName
    ):
        topic = unique_name("events")
        await kafka_broker.create_topics({topic: 1})
        headers = [("kind", b"created"), ("kind", b"again"), ("empty", b"")]
        async with producer(kafka_broker) as out, consumer(kafka_broker, topic) as source:
            await out.send_and_wait(topic, b"value", key=b"key", headers=headers, timestamp_ms=1_700_000_000_000)
            [record] = await read(source, 1)
        assert (record.key, record.value, list(record.headers)) == (b"key", b"value", headers)
        assert (record.offset, record.timestamp) == (0, 1_700_000_000_000)

    async def test_topics_have_the_partitions_asked_for(self, kafka_broker: LocalBroker, unique_name: UniqueName):
        wanted = {unique_name("source"): 1, unique_name("work"): 12}
        await kafka_broker.create_topics(wanted)
        async with producer(kafka_broker) as out:
            assert {topic: len(await out.partitions_for(topic)) for topic in wanted} == wanted

    async def test_a_topic_is_not_created_twice(self, kafka_broker: LocalBroker, unique_name: UniqueName):
        topic = unique_name("events")
        await kafka_broker.create_topics({topic: 1})
        with pytest.raises(LocalBrokerError, match=f"{topic}.*exists"):
            await kafka_broker.create_topics({topic: 1})

    async def test_a_topic_without_partitions_is_refused(self, kafka_broker: LocalBroker, unique_name: UniqueName):
        with pytest.raises(LocalBrokerError, match="artition"):
            await kafka_broker.create_topics({unique_name("events"): 0})
        assert kafka_broker.is_running

    async def test_an_idempotent_producer_keeps_the_order_of_each_key(
        self, kafka_broker: LocalBroker, unique_name: UniqueName
    ):
        topic = unique_name("work")
        await kafka_broker.create_topics({topic: 6})
        async with producer(kafka_broker) as out, consumer(kafka_broker, topic) as source:
            acks = [await out.send(topic, str(number).encode(), key=str(number % 10).encode()) for number in range(500)]
            assert len({(ack.partition, ack.offset) for ack in await asyncio.gather(*acks)}) == 500
            records = await read(source, 500)
        for key in range(10):
            assert [int(record.value) for record in records if int(record.key) == key] == list(range(key, 500, 10))

    async def test_three_groups_each_read_everything_at_once(self, kafka_broker: LocalBroker, unique_name: UniqueName):
        topic = unique_name("events")
        await kafka_broker.create_topics({topic: 4})
        async with AsyncExitStack() as stack:
            out = await stack.enter_async_context(producer(kafka_broker))
            groups = [
                await stack.enter_async_context(consumer(kafka_broker, topic, group=unique_name(role)))
                for role in ("ingest", "worker", "retry")
            ]
            values = {str(number).encode() for number in range(100)}
            await asyncio.gather(*[out.send_and_wait(topic, value) for value in values])
            for records in await asyncio.gather(*[read(group, 100) for group in groups]):
                assert {record.value for record in records} == values

    async def test_a_group_goes_on_after_its_committed_offset(self, kafka_broker: LocalBroker, unique_name: UniqueName):
        topic, group = unique_name("work"), unique_name("worker")
        await kafka_broker.create_topics({topic: 1})
        partition = TopicPartition(topic, 0)
        async with producer(kafka_broker) as out:
            for number in range(10):
                await out.send_and_wait(topic, str(number).encode())
        async with consumer(kafka_broker, topic, group=group) as source:
            await read(source, 10)
            await source.commit({partition: 7})
            assert await source.committed(partition) == 7
        async with consumer(kafka_broker, topic, group=group) as source:
            assert [record.value for record in await read(source, 3)] == [b"7", b"8", b"9"]

    async def test_an_assigned_consumer_reads_from_the_start_without_a_group(
        self, kafka_broker: LocalBroker, unique_name: UniqueName
    ):
        topic = unique_name("dead-letters")
        await kafka_broker.create_topics({topic: 3})
        async with producer(kafka_broker) as out, consumer(kafka_broker) as source:
            for number in range(9):
                await out.send_and_wait(topic, str(number).encode(), partition=number % 3)
            source.assign([TopicPartition(topic, 0), TopicPartition(topic, 2)])
            assert sorted(int(record.value) for record in await read(source, 6)) == [0, 2, 3, 5, 6, 8]

    async def test_records_larger_than_kafkas_default_pass_where_the_topic_allows_them(
        self, kafka_broker: LocalBroker, unique_name: UniqueName
    ):
        topic = unique_name("dead-letters")
        await kafka_broker.create_topics({topic: 1}, config={"max.message.bytes": str(BIG_REQUEST_BYTES)})
        values = [bytes([number]) * BIG_RECORD_BYTES for number in range(3)]
        async with (
            producer(kafka_broker, max_request_size=BIG_REQUEST_BYTES) as out,
            consumer(kafka_broker, topic) as source,
        ):
            for value in values:
                await out.send_and_wait(topic, value, headers=[("kafka_dlt-original-topic", b"events")])
            records = await read(source, 3)
        assert [record.value for record in records] == values
        assert {record.headers for record in records} == {(("kafka_dlt-original-topic", b"events"),)}


class TestLibrdkafka:
    async def test_a_topic_comes_into_being_when_it_is_named(
        self, librdkafka_kafka: LibrdkafkaBroker, unique_name: UniqueName
    ):
        async with producer(librdkafka_kafka) as out:
            assert len(await out.partitions_for(unique_name("events"))) == 4

    async def test_injected_errors_are_met_in_order_and_then_run_out(self, unique_name: UniqueName):
        topic = unique_name("outcomes")
        async with start_librdkafka() as broker:
            await broker.create_topics({topic: 1})
            async with producer(broker) as out, consumer(broker, topic) as source:
                await broker.push_errors(PRODUCE, [NOT_LEADER, REQUEST_TIMED_OUT, DISCONNECT, MESSAGE_TOO_LARGE])
                with pytest.raises(MessageSizeTooLargeError):
                    await out.send_and_wait(topic, b"refused")
                await out.send_and_wait(topic, b"taken")
                assert [record.value for record in await read(source, 1)] == [b"taken"]

    async def test_an_unreachable_broker_comes_back_with_its_records_on_the_same_port(self, unique_name: UniqueName):
        topic = unique_name("events")
        async with start_librdkafka() as broker:
            await broker.create_topics({topic: 1})
            async with producer(broker) as out:
                await out.send_and_wait(topic, b"before")
                await broker.set_reachable(False)
                during = await out.send(topic, b"during")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(during), 0.2)
                await broker.set_reachable(True)
                await during
            async with consumer(broker, topic) as source:
                assert [record.value for record in await read(source, 2)] == [b"before", b"during"]

    async def test_the_handle_can_be_used_from_another_event_loop(
        self, librdkafka_kafka: LibrdkafkaBroker, unique_name: UniqueName
    ):
        partitions = {unique_name("events"): 1}
        await asyncio.to_thread(lambda: asyncio.run(librdkafka_kafka.create_topics(partitions)))

    async def test_a_broker_that_has_died_says_so_and_how(self):
        async with start_librdkafka() as broker:
            broker._process.send_signal(signal.SIGABRT)  # what a failed assertion does
            await until(lambda: not broker.is_running)
            with pytest.raises(LocalBrokerError, match=r"has ended, with status -6\. Its log is empty"):
                await broker.create_topics({"events": 1})

    async def test_a_broker_that_cannot_start_shows_the_end_of_its_log(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        script = tmp_path / "broker.py"
        script.write_text("raise SystemExit('no such library')")
        monkeypatch.setattr("service.sandbox.kafka.broker._SCRIPT", script)
        with pytest.raises(LocalBrokerError, match=r"(?s)status 1.*no such library"):
            async with start_librdkafka():
                pytest.fail("it started")

    async def test_a_stopped_broker_has_ended_and_takes_no_commands(self):
        async with start_librdkafka() as broker:
            await broker.stop()
            await broker.stop()
            assert not broker.is_running
            with pytest.raises(LocalBrokerError, match="has been stopped"):
                await broker.create_topics({"events": 1})

    async def test_a_cancelled_start_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch):
        launched: list[LibrdkafkaBroker] = []
        launch = LibrdkafkaBroker.launch

        def recorded() -> LibrdkafkaBroker:
            launched.append(launch())
            return launched[0]

        monkeypatch.setattr(LibrdkafkaBroker, "launch", recorded)
        starting = asyncio.ensure_future(start_librdkafka().__aenter__())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert [broker.is_running for broker in launched] == [False]

    async def test_a_broker_ends_with_its_parent(self):
        broker_pid = await asyncio.to_thread(
            pid_launched_by_a_parent_that_is_killed, "service.sandbox.kafka.broker", "LibrdkafkaBroker"
        )
        await until(lambda: not exists(broker_pid))


@pytest.mark.apache_kafka
class TestApacheKafka:
    async def test_two_members_share_a_topic_and_one_takes_over_from_the_other(
        self, apache_kafka: ApacheKafka, unique_name: UniqueName
    ):
        topic, group = unique_name("work"), unique_name("worker")
        await apache_kafka.create_topics({topic: 4})
        settings: dict[str, Any] = {
            "group": group,
            "session_timeout_ms": 10_000,
        }  # nobody is lost: a slow machine must not evict one
        async with producer(apache_kafka) as out, consumer(apache_kafka, topic, **settings) as first:
            async with consumer(apache_kafka, topic, **settings) as second:
                await until(lambda: len(first.assignment()) == 2 == len(second.assignment()))
                assert not first.assignment() & second.assignment()
                for partition in range(4):
                    await out.send_and_wait(topic, b"shared", partition=partition)
                assert {record.partition for record in await read(second, 2)} == {
                    tp.partition for tp in second.assignment()
                }
                await second.commit()
                await read(first, 2)
                await first.commit()
            await until(lambda: len(first.assignment()) == 4)
            for partition in range(4):
                await out.send_and_wait(topic, b"alone", partition=partition)
            assert [record.value for record in await read(first, 4)] == [b"alone"] * 4

    async def test_a_topic_that_nobody_created_stays_missing(self, apache_kafka: ApacheKafka, unique_name: UniqueName):
        async with producer(apache_kafka, request_timeout_ms=300) as out:
            with pytest.raises(UnknownTopicOrPartitionError):
                await out.partitions_for(unique_name("forgotten"))

    async def test_records_and_offsets_survive_kill_and_restart_on_the_same_port(self, unique_name: UniqueName):
        topic, group = unique_name("work"), unique_name("worker")
        partition = TopicPartition(topic, 0)
        async with start_apache() as broker:
            servers = broker.bootstrap_servers
            await broker.create_topics({topic: 1})
            async with producer(broker) as out, consumer(broker, topic, group=group) as source:
                await out.send_and_wait(topic, b"first")
                await out.send_and_wait(topic, b"second")
                await read(source, 2)
                await source.commit({partition: 1})
            await broker.kill()
            assert not broker.is_running
            with pytest.raises(LocalBrokerError, match="did not create topics"):
                await broker.create_topics({unique_name("events"): 1})
            await broker.restart()
            assert broker.bootstrap_servers == servers
            async with producer(broker) as out:
                await out.send_and_wait(topic, b"third")
            await broker.restart()  # this time in order
            async with consumer(broker, topic, group=group) as source:
                assert [record.value for record in await read(source, 2)] == [b"second", b"third"]
            await broker.stop()
            with pytest.raises(LocalBrokerError, match="has been stopped"):
                await broker.restart()

    async def test_a_broker_that_cannot_start_shows_the_end_of_its_log_and_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(LocalBrokerError, match=r"(?s)ended at its start.*TheWrongClass"):
            async with start_apache(config={"authorizer.class.name": "TheWrongClass"}):
                pytest.fail("it started")
        assert is_empty(tmp_path)

    async def test_a_broker_ends_with_its_parent_and_its_data_goes(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        broker_pid = await asyncio.to_thread(
            pid_launched_by_a_parent_that_is_killed, "service.sandbox.kafka.apache", "ApacheKafka"
        )
        await until(lambda: not exists(broker_pid))
        await until(lambda: is_empty(tmp_path))


class TestRequireApache:
    def test_without_apache_a_test_is_skipped_with_the_reason(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("tests.support.kafka._apache_missing", lambda: "There is no java.")
        monkeypatch.delenv(TEST_EVERYTHING_VARIABLE, raising=False)
        with pytest.raises(pytest.skip.Exception, match=r"There is no java\."):
            require_apache()

    def test_without_apache_a_test_fails_where_everything_must_be_tested(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("tests.support.kafka._apache_missing", lambda: "There is no java.")
        monkeypatch.setenv(TEST_EVERYTHING_VARIABLE, "1")
        with pytest.raises(pytest.fail.Exception, match=r"There is no java\."):
            require_apache()


class TestWhatApacheKafkaNeeds:
    @pytest.fixture
    def tools(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
        """Makes PATH a folder with the named tools only, each a script that prints the given text to stderr."""
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv(apache.KAFKA_HOME_VARIABLE, str(tmp_path / "kafka"))

        def install(**texts: str) -> None:
            for name, text in texts.items():
                (tmp_path / name).write_text(f"#!/bin/sh\necho '{text}' >&2\nexit 1\n")
                (tmp_path / name).chmod(0o755)

        return install

    def test_it_needs_java(self, tools: Callable[..., None]):
        tools(mvn="")
        assert apache_missing() == "Java 17 or newer is needed, and there is no java in JAVA_HOME or on PATH."

    @pytest.mark.parametrize(
        ("text", "version"), [('openjdk version "11.0.2" 2019', "11"), ('java version "1.8.0_392"', "8")]
    )
    def test_it_needs_a_newer_java(self, tools: Callable[..., None], tmp_path: Path, text: str, version: str):
        tools(java=text, mvn="")
        assert apache_missing() == f"Java 17 or newer is needed, and {tmp_path}/java is version {version}."

    def test_it_needs_a_java_that_runs(self, tools: Callable[..., None], tmp_path: Path):
        tools(java="Unable to locate a Java Runtime.", mvn="")
        assert apache_missing() == f"Java 17 or newer is needed, and {tmp_path}/java does not tell its version."

    def test_it_needs_maven_until_the_jars_are_there(self, tools: Callable[..., None], tmp_path: Path):
        tools(java='openjdk version "21" 2023')
        assert (
            apache_missing()
            == f"Maven is needed to fetch Apache Kafka {apache.KAFKA_VERSION}, and there is no mvn on PATH."
        )
        (tmp_path / "kafka" / "libs").mkdir(parents=True)
        assert apache_missing() is None

    def test_a_failed_download_shows_mavens_words_and_leaves_no_jars(self, tools: Callable[..., None], tmp_path: Path):
        tools(java='openjdk version "21" 2023', mvn="Could not resolve artifact")
        with pytest.raises(LocalBrokerError, match=r"(?s)did not fetch.*Could not resolve artifact"):
            ApacheKafka.launch()
        assert [path.name for path in (tmp_path / "kafka").iterdir()] == [".lock"]
