"""Whether what the brokers acknowledge survives the loss of one: how many replicas a topic has, and how many acknowledge a write.

We write with acks=all, which is all replicas that are in sync: with the stock defaults of Apache Kafka that is one disk.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from service.stream.connection import close_quietly
from service.stream.topics import MIN_INSYNC, MIN_INSYNC_CONFIG, SAFE_REPLICAS

_LOOK_S: Final = 30.0  # a broker that is slow at this is no reason to wait

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """Of one topic: the replicas of its thinnest partition, and how many of them a write needs, None where it may not be read."""

    topic: str
    replicas: int
    min_insync: int | None

    @property
    def is_weak(self) -> bool:
        """Whether the loss of one broker may take acknowledged records with it, or stop all writes."""
        return self.replicas < SAFE_REPLICAS or (self.min_insync is not None and self.min_insync < MIN_INSYNC)

    def __str__(self) -> str:
        unread = "unknown" if self.min_insync is None else str(self.min_insync)
        return f"{self.topic}: {self.replicas} replicas, {MIN_INSYNC_CONFIG} {unread}"


async def weak_topics(arguments: dict[str, Any], names: Collection[str]) -> Sequence[Durability]:
    """Those of the topics that are not as durable as they could be. Raises KafkaError, OSError and TimeoutError; reads only."""
    admin = AIOKafkaAdminClient(**arguments)
    try:
        async with asyncio.timeout(_LOOK_S):
            await admin.start()
            described = await admin.describe_topics(sorted(names))
            min_insync = await _min_insync(admin, names)
    finally:
        await close_quietly("admin", admin.close)
    topics = [
        Durability(topic=topic["topic"], replicas=_fewest(topic), min_insync=min_insync.get(topic["topic"]))
        for topic in sorted(described, key=lambda topic: str(topic["topic"]))
        if topic["partitions"]
    ]
    return [topic for topic in topics if topic.is_weak]


async def warn_of_weak_topics(arguments: dict[str, Any], names: Collection[str]) -> None:
    """Log once which topics are weak. Raises nothing of the brokers': who cannot tell is no reason not to work."""
    try:
        weak = await weak_topics(arguments, names)
    except (KafkaError, OSError, TimeoutError) as e:
        _log.info("topics_durability_unknown", error=str(e) or type(e).__name__)
        return
    if weak:
        _log.warning("topics_may_lose_records", topics=[str(topic) for topic in weak], mend=MEND)


MEND: Final = (
    f"one lost broker may take records with it, or stop all writes: give each {SAFE_REPLICAS} replicas and {MIN_INSYNC_CONFIG}={MIN_INSYNC}, "
    "or set LOGWARDEN_TOPIC_REPLICATION=1 where that is meant"
)


def _fewest(topic: dict[str, Any]) -> int:
    return min(len(partition["replicas"]) for partition in topic["partitions"])


async def _min_insync(admin: AIOKafkaAdminClient, names: Collection[str]) -> dict[str, int]:
    """What each topic has or inherits; those that we may not read are left out."""
    wanted = {MIN_INSYNC_CONFIG: None}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in sorted(names)]
    found: dict[str, int] = {}
    for response in await admin.describe_configs(asked):
        for _code, _message, _kind, name, entries in response.resources:
            found.update((name, int(entry[1])) for entry in entries if entry[0] == MIN_INSYNC_CONFIG and entry[1])
    return found
