"""Metrics, each explained. Labels are bounded: a lane is one of accounts x Regions, a log group or a tenant is never a label."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from platform import python_version

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from service.domain.command import MAX_REQUEST_IDS, EnsureCommand, Origin
from service.domain.log_group import Lane
from service.domain.outcome import FailureClass, Outcome

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)  # from a quick answer to the last retry topic

_log = structlog.get_logger("service.outcome")


class Metrics:
    """The port Observer: counts what happens, and logs each outcome as one line."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        build = Info("logwarden_build", "What runs, by version.", registry=registry)
        build.info({"version": version("logwarden"), "python": python_version()})
        events = Counter(
            "logwarden_events",
            "Source records read, by result: accepted, irrelevant, malformed.",
            ["result"],
            registry=registry,
        )
        # Finding a series by its labels costs more than counting in it, and more than the first look at a record.
        self._events = cache(events.labels)
        self._commands = Counter(
            "logwarden_commands_accepted", "Commands written to the work topic by ingest.", registry=registry
        )
        calls = Counter(
            "logwarden_aws_calls",
            "Calls to CloudWatch Logs, KMS and STS, by operation and failure class; ok for none.",
            ["operation", "result"],
            registry=registry,
        )
        self._calls = cache(calls.labels)
        call_seconds = Histogram(
            "logwarden_aws_call_seconds",
            "Duration of those calls, until an answer or a failure, by operation.",
            ["operation"],
            buckets=_SECONDS[:9],
            registry=registry,
        )
        self._call_seconds = cache(call_seconds.labels)
        outcomes = Counter(
            "logwarden_outcomes",
            "Commands done, by state, failure class and fault.",
            ["state", "failure", "fault"],
            registry=registry,
        )
        self._outcomes = cache(outcomes.labels)
        seconds = Histogram(
            "logwarden_command_seconds",
            "From the trigger's arrival on Kafka to a durable outcome, by trigger and state: a command that is deferred has one for "
            "each time.",
            ["trigger", "state"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._seconds = cache(seconds.labels)
        verified = Counter(
            "logwarden_verified_groups",
            "Log groups looked at some seconds after they were sealed, by result: right, wrong, unseen.",
            ["result"],
            registry=registry,
        )
        self._verified = cache(verified.labels)
        self._dead_letters = Counter(
            "logwarden_dead_letters", "Records sent to the dead-letter topic.", ["failure"], registry=registry
        )
        for failure in FailureClass:  # an increase from nothing is none to Prometheus: an alert would miss the first
            self._dead_letters.labels(failure.label)
        self._dead_letters_stopped = Gauge(
            "logwarden_dead_letters_stopped",
            "1 once the dead-letter limit is reached, until a restart.",
            registry=registry,
        )
        self._misplaced = Counter(
            "logwarden_commands_misplaced",
            "Commands found on another partition than their lane's, and brought there.",
            registry=registry,
        )
        self._has_misplaced = False  # it is logged once: a replay by other tools makes thousands
        self._holds = Counter(
            "logwarden_lane_holds",
            "Times that a lane began to wait for a global fault.",
            ["failure"],
            registry=registry,
        )

        self._weak_topics = Gauge(
            "logwarden_topic_weak",
            "1 for a topic of the service's own that was found to lose or refuse records as it is set up, at the last start.",
            ["topic"],
            registry=registry,
        )

    def topics_looked_at(self, *, weak: Sequence[str]) -> None:
        """These of the service's own topics are weak; the others are in order."""
        for topic in weak:
            self._weak_topics.labels(topic).set(1)

    def event_read(self, *, commands: int, problem: str | None) -> None:
        self._events("malformed" if problem else "accepted" if commands else "irrelevant").inc()
        if commands:
            self._commands.inc(commands)

    def events_irrelevant(self, count: int) -> None:
        self._events("irrelevant").inc(count)

    def called_aws(self, operation: str, failure: FailureClass | None, seconds: float) -> None:
        """A call was answered, or failed; `operation` is one of AWS's names."""
        self._calls(operation, failure.label if failure else "ok").inc()
        self._call_seconds(operation).observe(seconds)

    def command_done(self, command: EnsureCommand, outcome: Outcome, *, seconds: float) -> None:
        failure = outcome.failure
        self._outcomes(
            outcome.state.value, failure.label if failure else "", failure.fault.value if failure else ""
        ).inc()
        self._seconds(command.trigger.value, outcome.state.value).observe(seconds)
        fields = outcome.as_dict()
        fields.pop("failure", None)
        if failure is not None:
            fields |= {"failure": failure.label, "fault": failure.fault.value, "hint": failure.hint}
        if failure is not None or command.request_ids:
            fields |= {
                "origin": str(command.origin) if command.origin else None,
                "requests": list(command.request_ids[:MAX_REQUEST_IDS]),
            }
        log = _log.warning if failure is not None else _log.info
        log("outcome", **fields, trigger=command.trigger.value, deferrals=command.deferrals, seconds=round(seconds, 3))

    def verified(self, *, right: int, wrong: int, unseen: int) -> None:
        for result, count in (("right", right), ("wrong", wrong), ("unseen", unseen)):
            if count:
                self._verified(result).inc(count)

    def dead_lettered(self, failure: FailureClass, *, topic: str, origin: Origin | None, reason: str) -> None:
        self._dead_letters.labels(failure.label).inc()
        _log.warning(
            "dead_letter", failure=failure.label, topic=topic, origin=str(origin) if origin else None, reason=reason
        )

    def dead_letters_stopped(self, reason: str) -> None:
        self._dead_letters_stopped.set(1)
        _log.error(
            "dead_letters_stopped",
            reason=reason,
            hint="Look at the newest dead letters; roll back, or mend and restart.",
        )

    def command_too_new(self, record: str, reason: str) -> None:
        _log.warning(
            "command_too_new",
            record=record,
            reason=reason,
            hint="Left as it is until a newer release owns the partition.",
        )

    def command_misplaced(self, record: Origin, *, home: int) -> None:
        self._misplaced.inc()
        if not self._has_misplaced:
            self._has_misplaced = True
            _log.warning(
                "command_misplaced",
                record=str(record),
                home=home,
                hint="Another producer, whose partitioner is not Kafka's murmur2, writes to the work topic. Commands are brought to their "
                "lane's partition, which costs a detour; more are counted and not logged.",
            )

    def lane_held(self, lane: Lane, failure: FailureClass, detail: str) -> None:
        self._holds.labels(failure.label).inc()
        _log.warning(
            "lane_held",
            account=lane.account,
            region=lane.region,
            failure=failure.label,
            detail=detail,
            hint=failure.hint,
        )

    def lane_retries(self, lane: Lane, failure: FailureClass, detail: str) -> None:
        _log.warning(
            "lane_retries",
            account=lane.account,
            region=lane.region,
            failure=failure.label,
            detail=detail,
            hint=failure.hint,
        )
