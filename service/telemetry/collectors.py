"""Gauges that are read when somebody scrapes, so that nothing has to keep them in step with what they show.

Labels are bounded: of the lanes as many are shown one by one as the settings say, held ones first and then the fullest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.domain.outcome import FailureClass, Recourse
from service.domain.status import ConsumerStatus, LanesStatus, LaneStatus

# Of one lane: what it is called, what it says, and where it comes from; None where there is nothing to say.
_LANE_GAUGES: Final[Sequence[tuple[str, str, Callable[[LaneStatus], float | None]]]] = (
    (
        "in_flight_commands",
        "Log groups of this lane that have started and are not done; those that wait to call again included.",
        lambda lane: lane.in_flight,
    ),
    (
        "rate",
        "AssociateKmsKey calls a second that this lane allows itself now; less than its ceiling after a throttle.",
        lambda lane: lane.rate_per_s,
    ),
    (
        "rate_ceiling",
        "The most AssociateKmsKey calls a second that this lane may make: AWS's quota, or less where the settings say so.",
        lambda lane: lane.ceiling_per_s,
    ),
    (
        "throttled_ago_seconds",
        "Since AWS last refused a call of this lane for its rate, look-ups included; absent if it has not.",
        lambda lane: lane.throttled_ago_s,
    ),
    (
        "oldest_waiting_seconds",
        "How long the oldest command of this lane has waited in this replica; 0 when none waits.",
        lambda lane: lane.oldest_waiting_s or 0,
    ),
    (
        "estimated_end_seconds",
        (
            "In how long everything that waits in this lane will have started, at the rate of now; absent while that is not known: "
            "paused, held, or no call comes to anything."
        ),
        lambda lane: lane.estimated_end_s,
    ),
    ("held", "1 while this lane waits for a global fault.", lambda lane: lane.hold is not None),
)

REPLICA_GAUGES: Final[Mapping[str, str]] = {
    "dry_run": "1 while nothing is changed in AWS, by the setting of that name.",
    "paused": "1 while an operator has paused the service: nothing is started. Absent while that is not known.",
    "api_tokens_refused": "1 while a line of the token file is wrong, or all of it; the log says which, and who stays let in.",
    "last_progress_seconds": "Since a command was last finished; since the start or a resume before the first. Absent while paused. "
    "Worth an alert only while commands wait.",
    "calls_kept_back_seconds": "For how long no call is made because the consumer group does not confirm whose the lanes are; 0 while it "
    "does.",
    "commands_too_new": "Partitions with a command that only a newer release can read: it is left for one, and they cannot move past it.",
}


class StreamCollector(Collector):
    """Where the consumers stand."""

    def __init__(self, consumers: Callable[[], Iterable[ConsumerStatus]]) -> None:
        self._consumers = consumers

    def collect(self) -> Iterable[Metric]:
        labels = ["consumer", "topic", "partition"]
        joined = GaugeMetricFamily(
            "logwarden_consumer_joined",
            "1 while the consumer is a member of its group, 0 before and during a rebalance.",
            labels=["consumer"],
        )
        pending = GaugeMetricFamily(
            "logwarden_pending_records", "Records in hand whose outcome is not durable yet.", labels=labels
        )
        lag = GaugeMetricFamily(
            "logwarden_lag_records", "Records from the committed offset to the partition's end.", labels=labels
        )
        unmoved = GaugeMetricFamily(
            "logwarden_partition_unmoved_seconds",
            "For how long the committed offset has not moved though there are records after it; 0 when there are none. "
            "Up to its delay on a retry topic.",
            labels=labels,
        )
        held_back = GaugeMetricFamily(
            "logwarden_partition_held_back",
            "1 while the partition is not fetched, because as much of it is in hand as may be.",
            labels=labels,
        )
        for consumer in self._consumers():
            joined.add_metric([consumer.name], consumer.is_joined)
            for status in consumer.partitions:
                values = [consumer.name, status.topic, str(status.partition)]
                pending.add_metric(values, status.pending)
                unmoved.add_metric(values, status.unmoved_s)
                held_back.add_metric(values, status.is_held_back)
                if status.lag is not None:
                    lag.add_metric(values, status.lag)
        return [joined, pending, lag, unmoved, held_back]


class LaneCollector(Collector):
    """How much the lanes of this replica have to do; of one lane only while it has work, and of `max_lanes` at the most."""

    def __init__(self, lanes: Callable[[], LanesStatus], *, max_lanes: int) -> None:
        self._lanes = lanes
        self._max_lanes = max_lanes

    def collect(self) -> Iterable[Metric]:
        status = self._lanes()
        yield from _of_all(status)
        yield from _of_each([lane for lane in status.lanes[: self._max_lanes] if lane.has_work])


class ReplicaCollector(Collector):
    """Single numbers of the whole replica, by the names of `REPLICA_GAUGES`; what is None is not shown."""

    def __init__(self, values: Mapping[str, Callable[[], float | None]]) -> None:
        self._values = values

    def collect(self) -> Iterable[Metric]:
        for name, value in self._values.items():
            if (shown := value()) is not None:
                yield _gauge(f"logwarden_{name}", REPLICA_GAUGES[name], shown)


class WritesCollector(Collector):
    """The topics that are written, and for how long each cannot be (seconds)."""

    def __init__(self, failing_s: Callable[[], Mapping[str, float]]) -> None:
        self._failing_s = failing_s

    def collect(self) -> Iterable[Metric]:
        failing = GaugeMetricFamily(
            "logwarden_publish_failing_seconds",
            "For how long Kafka has not taken what is written to the topic, from when a record has waited for it for 3 s; 0 while it does.",
            labels=["topic"],
        )
        for topic, seconds in self._failing_s().items():
            failing.add_metric([topic], seconds)
        yield failing


def _of_all(status: LanesStatus) -> Iterable[Metric]:
    yield _gauge("logwarden_lanes", "Lanes of this replica: accounts and Regions.", len(status.lanes))
    held = GaugeMetricFamily(
        "logwarden_lanes_held", "Lanes that wait for a global fault, by failure class.", labels=["failure"]
    )
    known = dict.fromkeys((f.label for f in FailureClass if f.recourse is Recourse.HOLD), 0)
    for failure, lanes in {**known, **status.held}.items():
        held.add_metric([failure], lanes)
    yield held
    retrying = GaugeMetricFamily(
        "logwarden_lanes_retrying",
        "Lanes, not held yet, in which no call has come to anything since one failed so; they are made again in place.",
        labels=["failure"],
    )
    silent = dict.fromkeys((f.label for f in FailureClass if f.is_silence), 0)
    for failure, lanes in {**silent, **status.in_trouble}.items():
        retrying.add_metric([failure], lanes)
    yield retrying
    waiting = GaugeMetricFamily(
        "logwarden_waiting_commands", "Log groups that wait in their lanes, by priority.", labels=["priority"]
    )
    for priority, commands in status.waiting.items():
        waiting.add_metric([priority.name.lower()], commands)
    yield waiting
    yield _gauge(
        "logwarden_in_flight_commands",
        "Commands that have started and are not done; those that wait to call again included.",
        status.in_flight,
    )
    yield _gauge(
        "logwarden_oldest_waiting_seconds",
        "How long the oldest command in a lane has waited in this replica; 0 when none waits.",
        status.oldest_waiting_s or 0,
    )
    yield _gauge(
        "logwarden_largest_lane_commands",
        "Log groups that wait in the fullest lane.",
        max((lane.total_waiting for lane in status.lanes), default=0),
    )


def _of_each(lanes: Sequence[LaneStatus]) -> Iterable[Metric]:
    waiting = GaugeMetricFamily(
        "logwarden_lane_waiting_commands",
        "Log groups that wait in this lane, by priority; of held lanes and the fullest only.",
        labels=["account", "region", "priority"],
    )
    for lane in lanes:
        for priority, commands in lane.waiting.items():
            waiting.add_metric([lane.lane.account, lane.lane.region, priority.name.lower()], commands)
    yield waiting
    for name, documentation, value in _LANE_GAUGES:
        gauge = GaugeMetricFamily(f"logwarden_lane_{name}", documentation, labels=["account", "region"])
        for lane in lanes:
            if (shown := value(lane)) is not None:
                gauge.add_metric([lane.lane.account, lane.lane.region], shown)
        yield gauge


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value)
