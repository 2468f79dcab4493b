"""Whether our topics keep what the service relies on; a start looks once, since topics are made by other hands too.

We write with acks=all, which is all replicas that are in sync: with the stock defaults of Apache Kafka that is one disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError

from service.settings import Settings
from service.stream.comparison import Comparison, Property, compared
from service.stream.existing import ExistingTopic
from service.stream.topics import MIN_INSYNC, MIN_INSYNC_CONFIG, SAFE_REPLICAS

MEND: Final = (
    f"one lost broker may take records with it, or stop all writes: give each {SAFE_REPLICAS} replicas and "
    f"{MIN_INSYNC_CONFIG}={MIN_INSYNC}, or set LOGWARDEN_TOPIC_REPLICATION=1 where that is meant"
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weaknesses:
    """What is not as it should be: topics that are not as durable as they could be, and single settings of a topic."""

    thin: Sequence[ExistingTopic]
    wrong: Sequence[tuple[str, Property]]

    @classmethod
    def of(cls, comparisons: Sequence[Comparison]) -> "Weaknesses":
        """Those of our own topics; one that is missing is not weak."""
        ours = [each for each in comparisons if each.is_ours]
        return cls(
            thin=[each.existing for each in ours if each.existing is not None and each.is_thin],
            wrong=[(each.spec.name, prop) for each in ours for prop in each.wrong],
        )

    @property
    def advice(self) -> Sequence[str]:
        """What comes of each, and what to do, in lines for people."""
        return [*([MEND] if self.thin else []), *(f"{topic}: {prop}: {prop.hint}" for topic, prop in self.wrong)]

    @property
    def topics(self) -> Sequence[str]:
        """The names of all of them."""
        return sorted({*(topic.name for topic in self.thin), *(topic for topic, _ in self.wrong)})


async def warn_of_weak_topics(arguments: dict[str, Any], settings: Settings) -> Weaknesses | None:
    """Log what is weak, and return it. Raises nothing of the brokers': None where they do not tell, which is no reason not to work."""
    try:
        found = Weaknesses.of(await compared(arguments, settings))
    except (KafkaError, OSError, TimeoutError) as e:
        _log.info("topics_durability_unknown", error=str(e) or type(e).__name__)
        return None
    if found.thin:
        _log.warning("topics_may_lose_records", topics=[str(topic) for topic in found.thin], mend=MEND)
    for topic, prop in found.wrong:
        _log.warning(
            "topic_setting_wrong",
            topic=topic,
            setting=prop.name,
            actual=prop.actual,
            wanted=prop.wanted,
            hint=prop.hint,
        )
    return found
