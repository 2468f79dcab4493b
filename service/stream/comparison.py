"""The topics as they are beside those that we would create: what is missing, what is weak, and what only differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from service.settings import Settings
from service.stream.existing import ExistingTopic, existing_topics
from service.stream.topics import (
    CLEANUP_CONFIG,
    MAX_BYTES_CONFIG,
    MIN_INSYNC_CONFIG,
    RETENTION_CONFIG,
    TopicSpec,
    topic_specs,
)

_NO_LIMIT: Final = "-1"  # of a retention
_DEFAULT: Final = "the broker's default"
_REPLICAS: Final = "replicas"
_PARTITIONS: Final = "partitions"
_OF_DURABILITY: Final = frozenset({_REPLICAS, MIN_INSYNC_CONFIG})
_HINTS: Final[Mapping[str | tuple[str, str], str]] = {
    _PARTITIONS: "the last word may then be read before an older one: delete it while the service is stopped, and create it again",
    RETENTION_CONFIG: "what waits for longer, in a backlog or a pause, is lost",
    MAX_BYTES_CONFIG: "a record that is too large for it becomes a dead letter without its bytes",
    (
        CLEANUP_CONFIG,
        "delete",
    ): "compaction keeps one record for each key, so that others are lost before they are read",
    (
        CLEANUP_CONFIG,
        "compact",
    ): "the word that the service is paused is deleted after a while, and a replica that starts then works",
}
_AT_LEAST: Final = (_REPLICAS, MIN_INSYNC_CONFIG, RETENTION_CONFIG, MAX_BYTES_CONFIG)  # more of it does no harm


class Verdict(IntEnum):
    """How a topic compares with the one that we would create, the worst last."""

    AS_WANTED = 0
    DIFFERS = 1  # as it may be meant: a topic is left as it is, and settings are for those that are created
    WEAK = 2  # records may be lost, or be refused
    MISSING = 3

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a topic: what is wanted, None for whatever the brokers' default is, and what is there, None where we may not know.

    One that `is_exact` has to be as it is wanted.
    """

    name: str
    wanted: str | None
    actual: str | None
    is_exact: bool = False

    @property
    def verdict(self) -> Verdict:
        if self.wanted is None or self.actual is None or self.actual == self.wanted:
            return Verdict.AS_WANTED
        is_less = self.name in _AT_LEAST and self.actual != _NO_LIMIT and int(self.actual) < int(self.wanted)
        return Verdict.WEAK if is_less or self.is_exact else Verdict.DIFFERS

    @property
    def hint(self) -> str:
        """What comes of it where it is weak, for an operator; "" where others than the topic's settings say that."""
        return _HINTS.get(self.name) or _HINTS.get((self.name, self.wanted or ""), "")

    def __str__(self) -> str:
        wanted = "" if self.verdict is Verdict.AS_WANTED else f" (wanted {self.wanted})"
        return f"{self.name}={self.actual or 'unknown'}{wanted}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A topic as we would create it with this replication, -1 for the brokers' default, beside the one that there is, if there is one.

    What is not ours, a source topic, is its owner's to look after: it can be missing, but not weak.
    """

    spec: TopicSpec
    existing: ExistingTopic | None
    replication: int
    is_ours: bool = True

    @property
    def verdict(self) -> Verdict:
        if self.existing is None:
            return Verdict.MISSING
        worst = max(Verdict.WEAK if self.is_thin else Verdict.AS_WANTED, *(each.verdict for each in self.properties))
        return worst if self.is_ours else min(worst, Verdict.DIFFERS)

    @property
    def is_thin(self) -> bool:
        """Whether the loss of one broker may lose its records, or stop its writes, and that is not meant: with 1 replica it is."""
        return self.existing is not None and self.replication != 1 and self.existing.is_weak

    @property
    def wrong(self) -> Sequence[Property]:
        """The properties that lose or refuse records as they are, those of durability apart; none of a topic that is not ours."""
        if self.existing is None or not self.is_ours:
            return ()
        return [p for p in self.properties if p.verdict is Verdict.WEAK and p.name not in _OF_DURABILITY]

    @property
    def properties(self) -> Sequence[Property]:
        wanted: dict[str, str | None] = {
            _PARTITIONS: str(self.spec.partitions),
            _REPLICAS: None if self.replication == -1 else str(self.replication),
            MIN_INSYNC_CONFIG: None,
            **self.spec.config,
        }
        actual: dict[str, str] = {}
        if (there := self.existing) is not None:
            actual = {_PARTITIONS: str(there.partitions), _REPLICAS: str(there.replicas), **there.config}
        exact = {CLEANUP_CONFIG, _PARTITIONS} if self.spec.config[CLEANUP_CONFIG] == "compact" else {CLEANUP_CONFIG}
        return [Property(name, value, actual.get(name), name in exact) for name, value in wanted.items()]

    def __str__(self) -> str:
        if self.existing is None:
            return "  ".join(f"{each.name}={each.wanted or _DEFAULT}" for each in self.properties)
        return "  ".join(map(str, self.properties))


async def compared(arguments: dict[str, Any], settings: Settings) -> Sequence[Comparison]:
    """Every topic that the service uses, beside what the brokers have. Raises as `existing_topics`."""
    specs = topic_specs(settings)
    configs = {MIN_INSYNC_CONFIG, *(name for spec in specs for name in spec.config)}
    existing = {topic.name: topic for topic in await existing_topics(arguments, [s.name for s in specs], configs)}
    return [
        Comparison(spec, existing.get(spec.name), settings.topic_replication, spec.name not in settings.source_topics)
        for spec in specs
    ]
