"""Whether what the brokers acknowledge survives the loss of one: how many replicas a topic has, and how many acknowledge a write.

We write with acks=all, which is all replicas that are in sync: with the stock defaults of Apache Kafka that is one disk.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError

from service.stream.existing import ExistingTopic, existing_topics
from service.stream.topics import MIN_INSYNC, MIN_INSYNC_CONFIG, SAFE_REPLICAS

_log = structlog.get_logger(__name__)


async def weak_topics(arguments: dict[str, Any], names: Collection[str]) -> Sequence[ExistingTopic]:
    """Those of the topics that are not as durable as they could be. Raises KafkaError, OSError and TimeoutError; reads only."""
    return [topic for topic in await existing_topics(arguments, names, [MIN_INSYNC_CONFIG]) if topic.is_weak]


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
