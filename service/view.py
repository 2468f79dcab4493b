"""What one replica shows of itself, gathered from the parts that know it: for `/v1/status`, `/v1/lanes`, the probes and the metrics.

It only reads, and only memory: asking costs the same, and gets an answer, while Kafka and AWS are away.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client.registry import Collector

from service.core.control import Control
from service.core.dispatcher import Dispatcher
from service.core.fence import Fence
from service.domain.dead_letter import DeadLetterLimit
from service.domain.held import HeldLanes
from service.domain.log_group import Lane
from service.domain.outcome import FailureClass
from service.domain.status import FailingWrites, LanesStatus
from service.domain.timestamp import timestamp
from service.http.status import (
    ConsumerDocument,
    FailingWritesDocument,
    PauseState,
    RegistryDocument,
    StatusDocument,
)
from service.http.tokens import TokenFile
from service.http.trigger import Waits
from service.ports import Clock
from service.registry.cache import CachedDirectory
from service.registry.source import Registry
from service.settings import Role, Settings
from service.stream.consumer import Consumer
from service.stream.publisher import KafkaPublisher
from service.telemetry.collectors import (
    LaneCollector,
    ReplicaCollector,
    StreamCollector,
    WritesCollector,
)
from service.telemetry.registry import RegistryCollector

# A consumer that has not polled for so long is stuck: a rebalance takes 40 s for each member at the most.
_STALLED_S: Final = 300.0

# Why all that waits for an outcome does, as `publish_failing` of the status has it.
_OUTCOMES_FAILING: Final = "publish-failing"
_OUTCOMES_FAILING_HINT: Final = (
    "Kafka takes no outcomes; work goes on by itself once it does. Look for replicas that are not in sync, a missing right `Write`, a "
    "broker that is away, a topic that was deleted, a `max.message.bytes` that is too small."
)
_HINTS: Final = {failure.label: failure.hint for failure in FailureClass}


class ReplicaView:
    """`consumers` and `limits` are looked at anew each time: what has not been started yet is not in them."""

    def __init__(
        self,
        *,
        settings: Settings,
        replica: str,
        clock: Clock,
        publisher: KafkaPublisher,
        consumers: Sequence[Consumer],
        limits: Sequence[DeadLetterLimit],
        control: Control,
        held: HeldLanes,
        tokens: TokenFile,
        not_ready_reason: Callable[[], str | None],
    ) -> None:
        self.replica = replica
        self._settings = settings
        self._clock = clock
        self._publisher = publisher
        self._consumers = consumers
        self._limits = limits
        self._control = control
        self._held = held
        self._tokens = tokens
        self._not_ready_reason = not_ready_reason
        self._dispatcher: Dispatcher | None = None
        self._directory: Registry | None = None
        self._fence: Fence | None = None
        self._too_new: Callable[[], Sequence[str]] = tuple
        self._started_at_ms = clock.epoch_ms()
        self._working_since = 0.0

    def works(
        self, dispatcher: Dispatcher, directory: Registry, *, fence: Fence, too_new: Callable[[], Sequence[str]]
    ) -> None:
        """Show the lanes and the registry of a worker that begins now, and the commands that are `too_new` for it."""
        self._dispatcher = dispatcher
        self._directory = directory
        self._fence = fence
        self._too_new = too_new
        self._working_since = self._clock.now()

    def collectors(self) -> Iterator[Collector]:
        """What is to be registered for the metrics, once."""
        yield StreamCollector(lambda: [consumer.status() for consumer in self._consumers])
        yield ReplicaCollector(
            {
                "dry_run": lambda: self._settings.dry_run,
                "paused": lambda: self._control.paused is not None if self._control.is_known else None,
                "api_tokens_refused": lambda: self._tokens.problem is not None,
                "last_progress_seconds": self.progress_s,
            }
        )
        yield WritesCollector(self.writes_failing_s)
        if Role.WORKER in self._settings.roles:
            yield ReplicaCollector(
                {
                    "calls_kept_back_seconds": lambda: self.calls_kept_back_s() or 0.0,
                    "commands_too_new": lambda: len(self._too_new()),
                }
            )
            yield LaneCollector(self.lanes, max_lanes=self._settings.metrics_max_lanes)
            yield RegistryCollector(lambda: self._directory, self._cache)

    def lanes(self) -> LanesStatus:
        """Every lane of this replica. While nothing comes to an end in any, of none is it known when it will."""
        if self._dispatcher is None:
            return LanesStatus()
        status = self._dispatcher.schedule.status(self._clock.now())
        is_stopped = self._control.paused is not None or self.calls_kept_back_s() is not None
        return status.paused() if is_stopped or self._outcomes_failing() is not None else status

    def progress_s(self) -> float | None:
        """How long ago a command was last finished, or work began, or resumed, where none was since; None where no work is done."""
        if self._dispatcher is None or self._control.paused:
            return None
        last = self._dispatcher.last_progress
        since = self._working_since if last is None else last
        return self._clock.now() - max(since, self._control.changed_at)

    def writes_failing_s(self) -> Mapping[str, float]:
        """For how long Kafka has not taken what is written, by topic; 0 for those that it takes records for."""
        now, settings = self._clock.now(), self._settings
        written = (
            settings.work_topic,
            *settings.retry_topics,
            settings.outcomes_topic,
            settings.dead_letter_topic,
            settings.requests_topic,
            settings.control_topic,
        )
        return dict.fromkeys(written, 0.0) | {failing.topic: now - failing.since for failing in self._publisher.failing}

    def calls_kept_back_s(self) -> float | None:
        """For how long the group has left the worker without a word, so that it makes no calls; None while it need not."""
        has_lanes = any(consumer.name == "worker" and consumer.has_partitions for consumer in self._consumers)
        return self._fence.shut_s if self._fence is not None and has_lanes else None

    def why_waits(self, lane: Lane) -> Waits | None:
        """Why what waits for this lane, whoever owns it, is not worked now; None where nothing is known to be in the way."""
        if (paused := self._control.paused) is not None:
            hint = f"Ask {paused.by} when it ends; `logwarden resume` ends it."
            return Waits("paused", paused.reason, hint, paused.at_ms)
        if (failing := self._outcomes_failing()) is not None:
            since_ms = self._clock.epoch_ms() - round((self._clock.now() - failing.since) * 1000)
            return Waits(_OUTCOMES_FAILING, f"{failing.topic}: {failing.error}", _OUTCOMES_FAILING_HINT, since_ms)
        if (held := self._held.find(lane, now_ms=self._clock.epoch_ms())) is not None:
            return Waits(held.failure, held.detail, _HINTS.get(held.failure, ""), held.since_ms)
        return None

    def stalled(self) -> str | None:
        """Why the process should be restarted, None if it should not: never for anything outside it."""
        now = self._clock.now()
        for consumer in self._consumers:
            if consumer.last_poll is not None and now - consumer.last_poll > _STALLED_S:
                return f"consumer {consumer.name} has not polled for {now - consumer.last_poll:.0f} s"
        return None

    def status(self) -> StatusDocument:
        """All of it on one page."""
        paused = self._control.paused
        return StatusDocument(
            replica=self.replica,
            version=version("logwarden"),
            mode="paused" if paused else "dry-run" if self._settings.dry_run else "enforcing",
            dry_run=self._settings.dry_run,
            pause=PauseState.of(paused) if paused else None,
            roles=sorted(self._settings.roles),
            started_at=timestamp(self._started_at_ms),
            not_ready=self._not_ready_reason(),
            last_progress_s=_rounded(self.progress_s()),
            lanes_held=dict(self.lanes().held),
            publish_failing=[
                FailingWritesDocument(topic=f.topic, for_s=round(self._clock.now() - f.since, 3), error=f.error)
                for f in self._publisher.failing
            ],
            calls_kept_back_s=_rounded(self.calls_kept_back_s()),
            commands_too_new=list(self._too_new()),
            dead_letters_stopped=next((limit.reason for limit in self._limits if limit.reason), None),
            registry=self._registry(),
            consumers=[ConsumerDocument.of(consumer.status()) for consumer in self._consumers],
        )

    def _outcomes_failing(self) -> FailingWrites | None:
        """The topic of outcomes, while Kafka takes none from this replica: nothing comes to an end then."""
        return next((f for f in self._publisher.failing if f.topic == self._settings.outcomes_topic), None)

    def _cache(self) -> CachedDirectory | None:
        """The registry's cache; None before work begins, and for the tenant file, which needs none."""
        return self._directory if isinstance(self._directory, CachedDirectory) else None

    def _registry(self) -> RegistryDocument | None:
        if (directory := self._directory) is None:
            return None
        return RegistryDocument.of(
            version=directory.version, loaded_at_ms=directory.loaded_at_ms, last_error=directory.last_error
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
