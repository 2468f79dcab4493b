"""The topics: their names, partitions and configuration; creating them, and waiting until they are there."""

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from service.settings import Settings
from service.stream.connection import NotReadyError, close_quietly
from service.stream.publisher import MAX_RECORD_BYTES

_DAY_MS = 86_400_000
_ELECTION_S: Final = 5.0  # a controller is elected within a second or two
_CONTROLLER_WAIT_S: Final = 0.5
# Said of each: compaction, a default here and there, would keep one command a lane.
CLEANUP_CONFIG: Final = "cleanup.policy"
RETENTION_CONFIG: Final = "retention.ms"
MAX_BYTES_CONFIG: Final = "max.message.bytes"
SAFE_REPLICAS: Final = 3  # one may be lost or restarted, and writes still reach two
MIN_INSYNC: Final = 2
MIN_INSYNC_CONFIG: Final = "min.insync.replicas"
# Of ours; all others are AWS's there: https://docs.aws.amazon.com/msk/latest/developerguide/serverless-config.html
_OF_SERVERLESS: Final = frozenset({CLEANUP_CONFIG, RETENTION_CONFIG, MAX_BYTES_CONFIG})


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as we would create it."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=lambda: {CLEANUP_CONFIG: "delete"})


def topic_specs(settings: Settings) -> Sequence[TopicSpec]:
    """Every topic that the service reads or writes.

    With three replicas or more a write needs two of them; where the broker decides how many there are, it decides that too. What MSK
    Serverless does not let anybody choose is left to it.
    """
    of_all = {MIN_INSYNC_CONFIG: str(MIN_INSYNC)} if settings.topic_replication >= SAFE_REPLICAS else {}
    specs = [replace(spec, config={**spec.config, **of_all}) for spec in _specs(settings)]
    if settings.is_msk_serverless:
        return [replace(s, config={k: v for k, v in s.config.items() if k in _OF_SERVERLESS}) for s in specs]
    return specs


def _specs(settings: Settings) -> Sequence[TopicSpec]:
    few = settings.topic_partitions
    requests_ms = settings.topic_request_retention_s * 1000
    return [
        *(TopicSpec(name, few) for name in settings.source_topics),
        TopicSpec(
            settings.work_topic,
            settings.work_partitions,
            {CLEANUP_CONFIG: "delete", RETENTION_CONFIG: str(14 * _DAY_MS)},
        ),
        *(
            TopicSpec(name, few, {CLEANUP_CONFIG: "delete", RETENTION_CONFIG: str(14 * _DAY_MS)})
            for name in settings.retry_topics
        ),
        TopicSpec(settings.outcomes_topic, few, {CLEANUP_CONFIG: "delete", RETENTION_CONFIG: str(30 * _DAY_MS)}),
        TopicSpec(
            settings.dead_letter_topic,
            few,
            {CLEANUP_CONFIG: "delete", RETENTION_CONFIG: str(30 * _DAY_MS), MAX_BYTES_CONFIG: str(MAX_RECORD_BYTES)},
        ),
        # every replica reads all of it at start; small segments let the broker drop what is out of date
        TopicSpec(
            settings.requests_topic,
            1,
            {
                CLEANUP_CONFIG: "delete",
                RETENTION_CONFIG: str(requests_ms),
                "segment.ms": str(max(requests_ms // 8, 60_000)),
            },
        ),
        TopicSpec(settings.control_topic, 1, {CLEANUP_CONFIG: "compact"}),  # a pause outlives every retention
    ]


class TopicError(Exception):
    """A topic could not be created; the text is the broker's."""


class NoControllerError(NotReadyError):
    """No broker is the cluster's controller, who creates topics: an election that goes on, or a stand-in for Kafka that has none."""

    def __init__(self) -> None:
        super().__init__(
            "the cluster names no controller, so nobody creates topics; try again when its election is over "
            "(the demo's Kafka has none: it creates topics by itself)"
        )


async def create_topics(arguments: dict[str, Any], specs: Sequence[TopicSpec], *, replication: int) -> dict[str, str]:
    """Create what is missing; what exists is left as it is. Returns "created" or "exists" by topic.

    Raises TopicError, NoControllerError, and KafkaError when the broker is away. A repeat is harmless.
    """
    admin = AIOKafkaAdminClient(**arguments)
    try:
        await admin.start()
        present = set(await admin.list_topics())
        # aiokafka takes the broker's own default (-1) only together with an assignment, which may be empty
        assignment: dict[int, list[int]] | None = {} if replication == -1 else None
        new = [
            NewTopic(s.name, s.partitions, replication, assignment, topic_configs=dict(s.config))
            for s in specs
            if s.name not in present
        ]
        answers = await _created(admin, new) if new else ()
    finally:
        await close_quietly("admin", admin.close)
    results = {spec.name: "exists" for spec in specs}
    for name, code, *message in answers:
        if code == 0:
            results[name] = "created"
        elif code == TopicAlreadyExistsError.errno:
            results[name] = "exists"
        else:
            raise TopicError(f"{name}: {(message and message[0]) or for_code(code).__name__}")
    return results


async def _created(admin: AIOKafkaAdminClient, new: Sequence[NewTopic]) -> Iterable[tuple[Any, ...]]:
    """What the controller says of each topic. Raises NoControllerError."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _ELECTION_S
    while True:
        try:
            response = await admin.create_topics(new)
        except AttributeError as e:  # aiokafka's own, where the cluster names no controller
            if loop.time() >= until:
                raise NoControllerError from e
            await asyncio.sleep(_CONTROLLER_WAIT_S)
        else:
            answers: Iterable[tuple[Any, ...]] = response.topic_errors
            return answers


class TopicsMissingError(NotReadyError):
    """Topics that the service needs do not exist yet."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"no such topics: {', '.join(names)}; create them with `logwarden topics create`")


async def require_topics(arguments: dict[str, Any], names: Sequence[str]) -> Collection[str]:
    """Return when all the topics exist, with the names of all there are. Raises TopicsMissingError, KafkaError while the broker is away."""
    admin = AIOKafkaAdminClient(**arguments)
    try:
        await admin.start()
        present = set(await admin.list_topics())
    finally:
        await close_quietly("admin", admin.close)
    if missing := sorted(set(names) - present):
        raise TopicsMissingError(missing)
    return present


def topics_to_retry(settings: Settings, present: Collection[str]) -> list[str]:
    """The retry topics to read: the settings', and whatever is left of a time with more delays, or written by who still has them."""
    left = re.compile(re.escape(settings.retry_topic) + r"\.[1-9][0-9]*")
    return sorted({*settings.retry_topics, *filter(left.fullmatch, present)})
