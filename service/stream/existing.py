"""The topics as the brokers have them."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion

from service.stream.connection import close_quietly
from service.stream.topics import MIN_INSYNC, MIN_INSYNC_CONFIG, SAFE_REPLICAS

_LOOK_S: Final = 30.0  # a broker that is slow at this is no reason to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingTopic:
    """One topic: `replicas` are those of its thinnest partition, `config` is what it has or inherits, as far as we may read it."""

    name: str
    partitions: int
    replicas: int
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_weak(self) -> bool:
        """Whether the loss of one broker may take acknowledged records with it, or stop all writes."""
        min_insync = self.config.get(MIN_INSYNC_CONFIG)
        return self.replicas < SAFE_REPLICAS or (min_insync is not None and int(min_insync) < MIN_INSYNC)

    def __str__(self) -> str:
        unread = self.config.get(MIN_INSYNC_CONFIG, "unknown")
        return f"{self.name}: {self.replicas} replicas, {MIN_INSYNC_CONFIG} {unread}"


async def existing_topics(
    arguments: dict[str, Any], names: Collection[str], configs: Iterable[str]
) -> Sequence[ExistingTopic]:
    """Those of the topics that exist, by name, with these of their configs. Reads only, and creates nothing by asking.

    Raises KafkaError, OSError and TimeoutError.
    """
    admin = AIOKafkaAdminClient(**arguments)
    try:
        async with asyncio.timeout(_LOOK_S):
            await admin.start()
            present = sorted(set(names) & set(await admin.list_topics()))  # a broker may create one that is asked for
            described = await admin.describe_topics(present) if present else []
            found = await _configs(admin, present, list(configs)) if present else {}
    finally:
        await close_quietly("admin", admin.close)
    topics = [
        ExistingTopic(
            name=topic["topic"],
            partitions=len(topic["partitions"]),
            replicas=min(len(partition["replicas"]) for partition in topic["partitions"]),
            config=found.get(topic["topic"], {}),
        )
        for topic in described
        if topic["partitions"]
    ]
    return sorted(topics, key=lambda topic: topic.name)


async def _configs(
    admin: AIOKafkaAdminClient, names: Collection[str], configs: Sequence[str]
) -> dict[str, dict[str, str]]:
    """What each topic has or inherits; what we may not read is left out, all of it where the broker has no such call."""
    wanted = dict.fromkeys(configs)
    try:
        responses = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in names]
        )
    except IncompatibleBrokerVersion:  # the demo's
        return {}
    return {
        name: {entry[0]: entry[1] for entry in entries if entry[0] in wanted and entry[1]}
        for response in responses
        for _code, _message, _kind, name, entries in response.resources
    }
