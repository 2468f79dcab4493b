"""The metrics of a replica on which everything has happened once."""

from prometheus_client import CollectorRegistry, generate_latest

from service.domain.command import Origin, Priority
from service.domain.outcome import FailureClass, Outcome, State
from service.domain.status import ConsumerStatus, LanesStatus, LaneStatus, PartitionStatus
from service.telemetry.collectors import (
    REPLICA_GAUGES,
    LaneCollector,
    ReplicaCollector,
    StreamCollector,
    WritesCollector,
)
from service.telemetry.metrics import Metrics
from service.telemetry.registry import RegistryCollector, RegistryMetrics
from tests.support.fakes import LANE, ensure, group


class Registry:
    loaded_at_ms = 0
    is_refused = False


class Cache:
    stale_s = 0.0
    accounts = 1


def everything_once() -> str:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.event_read(commands=1, problem=None)
    metrics.called_aws("associate_kms_key", None, 0.1)
    metrics.command_done(ensure(), Outcome(log_group=group(), state=State.SEALED), seconds=0.2)
    metrics.dead_lettered(FailureClass.MALFORMED_EVENT, topic="events", origin=Origin("events", 3, 42), reason="?")
    metrics.dead_letters_stopped("too many")
    metrics.verified(right=1, wrong=1, unseen=0)
    metrics.command_misplaced(Origin("work", 7, 0), home=3)
    metrics.lane_held(LANE, FailureClass.UNREACHABLE, "no route")
    metrics.topics_looked_at(weak=["work"])
    consumer = ConsumerStatus("worker", True, [PartitionStatus("work", 0, 3, 10, 9, 5)])
    registry.register(StreamCollector(lambda: [consumer]))
    registry.register(ReplicaCollector(dict.fromkeys(REPLICA_GAUGES, lambda: 1.0)))
    registry.register(WritesCollector(lambda: {"work": 0.0}))
    lane = LaneStatus(
        lane=LANE,
        waiting=dict.fromkeys(Priority, 1),
        in_flight=1,
        rate_per_s=2.5,
        ceiling_per_s=5.0,
        throttled_ago_s=1.0,
        oldest_waiting_s=1.0,
    )
    registry.register(LaneCollector(lambda: LanesStatus.of([lane]), max_lanes=5))
    of_the_registry = RegistryMetrics(registry)
    of_the_registry.registry_asked("hit")
    of_the_registry.registry_fetched("ok", seconds=0.1)
    registry.register(RegistryCollector(Registry, Cache))
    return generate_latest(registry).decode()
