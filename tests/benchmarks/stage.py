"""Where benchmarks are played: Apache Kafka, replicas of the service with the settings they have in production, and ways to look on.

Whoever looks on must not be in the way: records are published by librdkafka's threads, and waited for by asking the broker for end
offsets, which costs the measured process nothing.
"""

import asyncio
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from multiprocessing import get_context
from os import sysconf
from pathlib import Path
from typing import TypeVar

import confluent_kafka
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from service.sandbox.kafka.apache import start_apache
from service.sandbox.process import ServiceProcess
from service.settings import Settings
from tests.support.deployment import Deployment

# A deployment of the tests is tuned to be quick to test; this is what it is in production.
_AS_IN_PRODUCTION = {
    name: Settings.model_fields[name].default
    for name in ("kafka_fetch_max_wait_ms", "work_partitions", "topic_partitions", "hold_s", "max_hold_s")
}
_T = TypeVar("_T")


@asynccontextmanager
async def deployed(aws, organisation, *, broker=None, **settings):
    """Topics on an Apache Kafka, of their own unless there is one, and settings as in production but for `settings`; no replica yet."""
    async with start_apache() if broker is None else nullcontext(broker) as broker:
        with tempfile.TemporaryDirectory(prefix="logwarden-benchmark-") as folder:
            yield await Deployment.create(broker, aws, organisation, Path(folder), **_AS_IN_PRODUCTION | settings)


async def joined(
    deployment: Deployment, replicas: int, *, groups=("ingest", "worker", "retry"), timeout_s=30.0
) -> None:
    """Wait until the consumer groups have settled with so many members, and for a second more, in which they fetch in vain."""
    names = [f"{deployment.settings.kafka_group_prefix}-{group}" for group in groups]
    admin = AIOKafkaAdminClient(bootstrap_servers=deployment.broker.bootstrap_servers)
    await admin.start()
    try:
        async with asyncio.timeout(timeout_s):
            while not all([await _is_settled(admin, name, replicas) for name in names]):
                await asyncio.sleep(0.1)
    finally:
        await admin.close()
    await asyncio.sleep(1)


async def _is_settled(admin: AIOKafkaAdminClient, name: str, replicas: int) -> bool:
    try:
        (answer,) = await admin.describe_consumer_groups([name])
    except KafkaError:  # the first group of a new broker has no coordinator yet
        return False
    ((_, _, state, _, _, members, *_),) = answer.groups
    return state == "Stable" and len(members) == replicas


async def publish(
    deployment: Deployment, topic: str, values: Iterable[bytes], *, keys: Iterable[bytes] | None = None
) -> None:
    """Write records as fast as the broker takes them; they are acknowledged when this returns."""

    def write() -> None:
        producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": deployment.broker.bootstrap_servers,
                "acks": "all",
                "partitioner": "murmur2_random",  # as aiokafka's and Java's
                "sticky.partitioning.linger.ms": 0,  # or whole batches without keys go to one partition
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        keyed = ((value, None) for value in values) if keys is None else zip(values, keys, strict=True)
        for value, key in keyed:
            producer.produce(topic, value, key=key)
            producer.poll(0)
        assert producer.flush(60) == 0

    await asyncio.to_thread(write)


@asynccontextmanager
async def watching(deployment: Deployment, topic: str):
    """A function that waits until so many records are on the topic, and returns the time.monotonic() at which they were."""
    count = deployment.settings.topic_partitions
    partitions = [TopicPartition(topic, number) for number in range(count)]
    async with AIOKafkaConsumer(bootstrap_servers=deployment.broker.bootstrap_servers) as consumer:

        async def until(records: int, timeout_s: float = 80.0) -> float:
            async with asyncio.timeout(timeout_s):
                while sum((await consumer.end_offsets(partitions)).values()) < records:
                    await asyncio.sleep(0.02)
            return time.monotonic()

        yield until


async def metric(service: ServiceProcess, http: httpx.AsyncClient, name: str, label: str = "") -> float:
    """The sum of a metric's samples whose labels contain `label`."""
    text = (await http.get(f"{service.url}/metrics")).text
    samples = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in samples if label in labels)


def rss_mb(service: ServiceProcess) -> float:
    """The resident memory of a replica, in MB of 1,000,000 bytes: what a container's limit counts."""
    answer = subprocess.run(["ps", "-o", "rss=", "-p", str(service.pid)], capture_output=True, check=True)
    return int(answer.stdout) * 1024 / 1e6


def cpu_s(service: ServiceProcess) -> float:
    """The CPU seconds that a replica has used."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / sysconf("SC_CLK_TCK")


async def in_own_process(measure: Callable[..., _T], *arguments) -> _T:
    """What `measure` returns in a fresh process: no other code's garbage, caches or threads."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, measure, *arguments)
