"""The composition root: builds every part from the settings, and owns the order in which they start and stop.

Start: the side-port first, so that probes are answered while we wait for Kafka; then topics, producer, AWS, consumers.
Stop: not ready, consumers drain and commit and leave their groups, then everything that they needed, the side-port last.
"""

import asyncio
import math
import signal
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from service.aws.adapters import Aws, open_aws
from service.brokers import kafka_arguments
from service.clock import LoopClock
from service.core.control import Control
from service.core.dead_letters import DeadLetters
from service.core.dispatcher import Dispatcher
from service.core.ensure import Ensure, Policy
from service.core.fence import Fence
from service.core.holds import Holds
from service.core.ingest import Ingest, PostedEvents
from service.core.intake import Intake
from service.core.requests import Requests
from service.core.retries import Retries
from service.core.sweep import Sweeper
from service.core.sweep_requests import SweepRequests
from service.core.sweep_schedule import SweepSchedule
from service.core.verification import Verification
from service.core.worker import Topics, Worker
from service.domain import log_group
from service.domain.dead_letter import DeadLetterLimit
from service.domain.events import EventParser
from service.domain.held import HeldLanes, is_of_a_lane
from service.domain.lane import Crowd, Lane
from service.domain.log_group import AccountId
from service.domain.offsets import untracked
from service.domain.outcome import FailureClass, Outcome
from service.domain.pacing import Quota
from service.domain.request import RequestBook
from service.domain.schedule import Schedule
from service.domain.sweep import is_sweep_record
from service.domain.sweep_book import SweepBook
from service.formats import load_event_formats
from service.http.app import Sweeping, Trigger, create_app
from service.http.server import Address, serve
from service.http.tokens import TokenFile
from service.memory import keep_freed_memory, leave_what_stays_to_itself
from service.ports import Membership, RecordFilter, RecordHandler
from service.registry.opening import open_registry
from service.registry.source import Registry
from service.settings import Role, Settings
from service.stream.connection import Deadline, until_connected
from service.stream.consumer import Consumer, ConsumerLimits
from service.stream.durability import warn_of_weak_topics
from service.stream.follower import Follower
from service.stream.group import LEASE_S, SESSION_S
from service.stream.publisher import KafkaPublisher
from service.stream.topics import require_topics, topic_specs, topics_to_retry
from service.telemetry.logs import configure_logs
from service.telemetry.metrics import Metrics
from service.telemetry.registry import RegistryMetrics
from service.view import ReplicaView

# Records that ingest and the retry topics may have open: they only wait for an acknowledgement.
_FORWARDED_AT_ONCE: Final = 5000
_STREAM_FETCH_BYTES: Final = 8 * 1024 * 1024  # 200,000 records a second are read, of which most concern nobody
_FETCH_BYTES: Final = 1024 * 1024  # our own topics: some thousand commands
# Commands, of 8 kB each with their tasks; those that only wait in a lane take a tenth of that.
_STARTED_AT_ONCE: Final = 2000
# Of a stop: the last commit, and closing one thing after the other, where the broker is away.
_AFTER_DRAIN_S: Final = 15.0
_LAST_S: Final = 2.0  # for what is cancelled when a stop has taken its time
_LIMIT_WINDOW: Final = 10_000  # records that the dead letters' share is of: a minute of a busy stream
_SWEPT_LANES_HELD: Final = 200_000  # lanes of sweeps and their reports, of some hundred bytes each
# Log groups of manual requests, a few hundred bytes each, that one replica can answer for.
_REQUESTS_HELD: Final = 200_000

_log = structlog.get_logger(__name__)


class App:
    """One process of the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = LoopClock()
        self._arguments = kafka_arguments(settings)
        self._metrics = Metrics(CollectorRegistry())
        self._deadline = Deadline()
        self._publisher = KafkaPublisher(
            self._arguments,
            deadline=self._deadline,
            patient_topic=settings.work_topic,
            small_topics=[settings.outcomes_topic, settings.control_topic, *settings.retry_topics],
        )
        self._consumers: list[Consumer] = []
        self._limits: list[DeadLetterLimit] = []
        self._crowd = Crowd(_STARTED_AT_ONCE)
        self._not_ready: str | None = "starting: waiting for Kafka"
        self._has_begun = False  # to consume: there is something to drain
        self._control_follower = Follower(
            topic=settings.control_topic, arguments=self._arguments, deadline=self._deadline
        )
        self._control = Control(
            publisher=self._publisher,
            clock=self._clock,
            topic=settings.control_topic,
            caught_up=self._control_follower.caught_up,
        )
        self._held = HeldLanes()
        self._tokens = TokenFile(settings.api_token_file)
        self._view = ReplicaView(
            settings=settings,
            replica=socket.gethostname(),
            clock=self._clock,
            publisher=self._publisher,
            consumers=self._consumers,
            limits=self._limits,
            control=self._control,
            held=self._held,
            tokens=self._tokens,
            not_ready_reason=lambda: self._not_ready,
        )
        for collector in self._view.collectors():
            self._metrics.registry.register(collector)
        formats = settings.event_formats_file
        self._parser = EventParser(formats=load_event_formats(formats) if formats else ())
        self._follower = Follower(topic=settings.requests_topic, arguments=self._arguments, deadline=self._deadline)
        self._requests = Requests(
            publisher=self._publisher,
            clock=self._clock,
            book=RequestBook(capacity=_REQUESTS_HELD),
            requests_topic=settings.requests_topic,
            work_topic=settings.work_topic,
            caught_up=self._follower.caught_up,
        )

        self._sweeps = SweepRequests(
            publisher=self._publisher,
            clock=self._clock,
            book=SweepBook(capacity=_SWEPT_LANES_HELD),
            requests_topic=settings.requests_topic,
            work_topic=settings.work_topic,
            caught_up=self._follower.caught_up,
        )
        self._directory: Registry | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then end in order. Raises what ended it otherwise; nothing is committed then that was not done."""
        async with self._side_port() as address:
            _log.info("listening", address=str(address))
            serving = asyncio.create_task(self._serve(stop))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
                self._not_ready = "stopping"
                self._deadline.begin(self._settings.shutdown_drain_s)
                if not self._has_begun:
                    serving.cancel()  # still waiting for Kafka: there is nothing to drain
                _, late = await asyncio.wait([serving], timeout=self._settings.shutdown_drain_s)
                if late:
                    _log.error("stop_timed_out", after_s=self._settings.shutdown_drain_s)
                    serving.cancel()
                    await asyncio.wait([serving], timeout=_LAST_S)
                self._requests.close()  # callers that still wait are answered with what is known
                self._sweeps.close()
            finally:
                stopped.cancel()
                serving.cancel()
            if serving.done() and not serving.cancelled():
                serving.result()

    async def _serve(self, stop: asyncio.Event) -> None:
        settings = self._settings
        topics = [spec.name for spec in topic_specs(settings)]
        async with AsyncExitStack() as stack:
            # Before the wait for Kafka: a wrong tenant file should end the process at once.
            directory = (
                await stack.enter_async_context(self._open_registry()) if Role.WORKER in settings.roles else None
            )
            self._directory = directory
            present = await until_connected("topics", lambda: require_topics(self._arguments, topics))
            await stack.enter_async_context(self._publisher)
            background: list[Coroutine[Any, Any, None]] = [
                self._control_follower.follow(self._controlled),
                self._publisher.watch(),
                self._look_at_topics(),
            ]
            if Role.INGEST in settings.roles:
                background += self._ingest()
            if directory is not None:
                aws = await stack.enter_async_context(self.open_aws())
                background += [directory.watch(), *self._work(directory, aws, topics_to_retry(settings, present))]
            if Role.HTTP in settings.roles or self._has_sweep_schedule:
                background.append(self._follower.run(self._follow))
            await self._run_until_stopped(background, stop)

    async def _look_at_topics(self) -> None:
        if (found := await warn_of_weak_topics(self._arguments, self._settings)) is not None:
            self._metrics.topics_looked_at(weak=found.topics)

    async def _run_until_stopped(self, background: list[Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
        """Run it all; the end of any part is the end of the process, except that consumers end first when asked to."""
        shutdown_s = self._settings.shutdown_drain_s
        drain_s = shutdown_s - min(_AFTER_DRAIN_S, shutdown_s / 2)
        async with asyncio.TaskGroup() as tasks:
            supporting = [tasks.create_task(part) for part in background]
            if Role.WORKER in self._settings.roles:
                await (
                    self._control.until_known()
                )  # before the first command: a restart of a paused service calls nobody
            else:
                supporting.append(tasks.create_task(self._control.until_known()))
            consuming = [tasks.create_task(consumer.run(stop, drain_s=drain_s)) for consumer in self._consumers]
            self._has_begun = True
            await self._until_joined(stop)
            leave_what_stays_to_itself()
            _log.info(
                "started",
                roles=sorted(self._settings.roles),
                dry_run=self._settings.dry_run,
                version=version("logwarden"),
            )
            await stop.wait()
            if consuming:
                await asyncio.wait(consuming)
            for task in supporting:
                task.cancel()

    async def _until_joined(self, stop: asyncio.Event) -> None:
        """Become ready once every consumer has had its first assignment, be it of nothing; return without where it is to stop."""
        self._not_ready = "starting: consumers join their groups"

        async def all_joined() -> None:
            for consumer in self._consumers:
                await consumer.has_joined.wait()

        joined, stopped = asyncio.create_task(all_joined()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({joined, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                self._not_ready = None
        finally:
            joined.cancel()
            stopped.cancel()

    # -- the parts

    def _ingest(self) -> list[Coroutine[Any, Any, None]]:
        ingest = Ingest(
            publisher=self._publisher,
            dead_letters=self._dead_letters(),
            observer=self._metrics,
            work_topic=self._settings.work_topic,
            parser=self._parser,
        )
        self._consume(
            "ingest",
            self._settings.source_topics,
            ingest,
            max_pending=_FORWARDED_AT_ONCE,
            passes_over=ingest,
            fetch_max_bytes=_STREAM_FETCH_BYTES,
        )
        return [ingest.run()]

    def _work(self, directory: Registry, aws: Aws, retry_topics: Sequence[str]) -> list[Coroutine[Any, Any, None]]:
        settings = self._settings
        dead_letters = self._dead_letters()
        ensure = Ensure(
            directory=directory,
            log_groups=aws.log_groups,
            keys=aws.keys,
            clock=self._clock,
            policy=Policy(
                attempts=settings.in_place_attempts,
                max_wait_s=settings.in_place_max_wait_s,
                observe_after_s=settings.observe_after_s,
                is_damped=bool(settings.retry_delays_s),
                is_dry_run=settings.dry_run,
            ),
        )
        verification = Verification(
            submit=lambda command: dispatcher.submit(command, untracked()),
            log_groups=aws.log_groups,
            clock=self._clock,
            observer=self._metrics,
            after_s=settings.verify_after_s,
        )
        sweeper = Sweeper(
            directory=directory,
            log_groups=aws.log_groups,
            keys=aws.keys,
            publisher=self._publisher,
            clock=self._clock,
            submit=lambda command, delivery: dispatcher.submit(command, delivery),  # noqa: PLW0108  made below
            report=lambda command, outcome: worker.report(command, outcome),  # noqa: PLW0108  made below
            requests_topic=settings.requests_topic,
            max_waiting=settings.sweep_max_waiting,
        )

        def told(outcome: Outcome) -> None:
            sweeper.ended(outcome)
            verification.ended(outcome)

        worker = Worker(
            ensure=ensure,
            publisher=self._publisher,
            dead_letters=dead_letters,
            clock=self._clock,
            observer=self._metrics,
            topics=Topics(
                outcomes=settings.outcomes_topic, requests=settings.requests_topic, retries=settings.retry_topics
            ),
            retry_delays_s=settings.retry_delays_s,
            on_outcome=told,
        )
        holds = Holds(publisher=self._publisher, clock=self._clock, topic=settings.control_topic, known=self._held)

        def held(lane: log_group.Lane, failure: FailureClass, detail: str) -> None:
            self._metrics.lane_held(lane, failure, detail)
            holds.held(lane, failure, detail)

        fence = Fence(clock=self._clock, lasts_s=LEASE_S, session_s=SESSION_S)
        dispatcher = Dispatcher(
            schedule=Schedule(new_lane=self._new_lane, max_under_way=settings.max_in_flight),
            work=worker.work,
            sweep=sweeper.work,
            verify=verification.look,
            clock=self._clock,
            hold_s=settings.hold_s,
            max_hold_s=settings.max_hold_s,
            on_held=held,
            on_released=holds.released,
            on_retry=self._metrics.lane_retries,
            postpone=worker.postpone,
            hold_at_most_s=settings.hold_at_most_s if settings.retry_delays_s else math.inf,
            may_call=fence.may_call,
        )
        self._control.attach(dispatcher)
        fence.attach(dispatcher)
        intake = Intake(
            dispatcher=dispatcher,
            verification=verification,
            sweeper=sweeper,
            dead_letters=dead_letters,
            publisher=self._publisher,
            home_of=partial(self._publisher.home_of, settings.work_topic),
            observer=self._metrics,
        )
        self._view.works(dispatcher, directory, fence=fence, too_new=lambda: intake.too_new)
        retries = Retries(
            publisher=self._publisher,
            clock=self._clock,
            work_topic=settings.work_topic,
            longest_delay_s=max(settings.retry_delays_s, default=0.0),
        )
        self._consume("worker", [settings.work_topic], intake, max_pending=settings.max_pending, membership=fence)
        if retry_topics:
            self._consume("retry", retry_topics, retries, max_pending=_FORWARDED_AT_ONCE)
        running = [dispatcher.run(), holds.run(), intake.run(), sweeper.run(), retries.run()]
        if self._has_sweep_schedule:
            running.append(self._sweep_schedule(directory).run())
        return running

    @property
    def _has_sweep_schedule(self) -> bool:
        settings = self._settings
        return Role.WORKER in settings.roles and (settings.sweep_interval_s > 0 or settings.rekey_automatically)

    def _sweep_schedule(self, directory: Registry) -> SweepSchedule:
        def owns_first_partition() -> bool:
            [worker] = [consumer for consumer in self._consumers if consumer.name == "worker"]
            return worker.is_joined and any(status.partition == 0 for status in worker.partitions())

        return SweepSchedule(
            directory=directory,
            sweeps=self._sweeps,
            clock=self._clock,
            is_ours=owns_first_partition,
            interval_s=self._settings.sweep_interval_s,
            is_rekeying=self._settings.rekey_automatically,
        )

    def _follow(self, value: bytes) -> None:
        """Take in a record of the requests topic."""
        (self._sweeps.apply if is_sweep_record(value) else self._requests.apply)(value)

    def _controlled(self, key: bytes | None, value: bytes | None) -> None:
        """Take in a record of the control topic."""
        if key is not None and is_of_a_lane(key):
            self._held.apply(key, value, now_ms=self._clock.epoch_ms())
        else:
            self._control.apply(key, value)

    def _side_port(self) -> AbstractAsyncContextManager[Address]:
        settings = self._settings
        trigger = Trigger(
            requests=self._requests,
            why_waits=self._view.why_waits,
            max_groups=settings.http_max_groups,
            max_wait_s=settings.http_max_wait_s,
        )
        sweeping = Sweeping(
            requests=self._sweeps, directory=lambda: self._directory, max_wait_s=settings.http_max_wait_s
        )
        events = PostedEvents(
            publisher=self._publisher,
            dead_letters=self._dead_letters(),
            parser=self._parser,
            observer=self._metrics,
            clock=self._clock,
            work_topic=settings.work_topic,
            source_topic=settings.source_topics[0],
        )
        app = create_app(
            registry=self._metrics.registry,
            tokens=self._tokens,
            not_alive_reason=self._view.stalled,
            not_ready_reason=lambda: self._not_ready,
            replica=self._view.replica,
            status=self._view.status,
            lanes=self._view.lanes if Role.WORKER in settings.roles else None,
            trigger=trigger if Role.HTTP in settings.roles else None,
            sweeping=sweeping if Role.HTTP in settings.roles else None,
            events=events if Role.HTTP in settings.roles else None,
            control=self._control if Role.HTTP in settings.roles else None,
        )
        return serve(app, host=settings.http_host, port=settings.http_port)

    def _consume(
        self,
        name: str,
        topics: Sequence[str],
        handler: RecordHandler,
        *,
        max_pending: int,
        passes_over: RecordFilter | None = None,
        membership: Membership | None = None,
        fetch_max_bytes: int = _FETCH_BYTES,
    ) -> None:
        settings = self._settings
        self._consumers.append(
            Consumer(
                name=name,
                group=f"{settings.kafka_group_prefix}-{name}",
                topics=topics,
                arguments=self._arguments,
                handler=handler,
                limits=ConsumerLimits(
                    max_pending=max_pending,
                    commit_interval_s=settings.commit_interval_s,
                    commit_timeout_s=settings.commit_timeout_s,
                    rebalance_drain_s=settings.rebalance_drain_s,
                    fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
                    fetch_max_bytes=fetch_max_bytes,
                ),
                clock=self._clock,
                passes_over=passes_over,
                membership=membership,
                deadline=self._deadline,
            )
        )

    def _dead_letters(self) -> DeadLetters:
        settings = self._settings
        limit = DeadLetterLimit(
            max_consecutive=settings.dead_letter_max_consecutive,
            max_share=settings.dead_letter_max_share,
            window=_LIMIT_WINDOW,
        )
        self._limits.append(limit)
        return DeadLetters(
            publisher=self._publisher,
            observer=self._metrics,
            limit=limit,
            topic=settings.dead_letter_topic,
            work_topic=settings.work_topic,
        )

    def _new_lane(self, lane: log_group.Lane, owned_since: float) -> Lane:
        settings = self._settings
        rates_per_s = {
            Quota.ASSOCIATE: settings.lane_rates_per_s.get(str(lane), settings.rate_per_s),
            Quota.TAGS: settings.tags_rate_per_s,
            Quota.DESCRIBE: settings.describe_rate_per_s,
        }
        return Lane(
            lane,
            rates_per_s=rates_per_s,
            max_under_way=settings.lane_max_in_flight,
            owned_since=owned_since,
            crowd=self._crowd,
        )

    def _open_registry(self) -> AbstractAsyncContextManager[Registry]:
        return open_registry(self._settings, clock=self._clock, observer=RegistryMetrics(self._metrics.registry))

    def open_aws(self) -> AbstractAsyncContextManager[Aws]:
        """AWS by the settings."""
        settings = self._settings
        return open_aws(
            clock=self._clock,
            own_account=AccountId(settings.aws_own_account) if settings.aws_own_account else None,
            role_name=settings.aws_role_name,
            external_id=settings.aws_external_id,
            role_session_name=settings.aws_role_session_name,
            role_session_tags=settings.aws_role_session_tags,
            sts_region=settings.aws_sts_region,
            endpoint_url=settings.aws_endpoint_url,
            connect_timeout_s=settings.aws_connect_timeout_s,
            read_timeout_s=settings.aws_read_timeout_s,
            max_in_flight=settings.max_in_flight,
            user_agent=f"logwarden/{version('logwarden')}",
            endpoint_urls=settings.aws_endpoint_urls,
            use_fips=settings.aws_use_fips_endpoint,
            use_dualstack=settings.aws_use_dualstack_endpoint,
            key_fresh_s=settings.aws_key_fresh_s,
            key_recheck_s=settings.aws_key_recheck_s,
            on_call=self._metrics.called_aws,
        )


def run(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; a second signal changes nothing, the drain has its own deadline."""
    configure_logs(level=settings.log_level, form=settings.log_format)
    if Role.INGEST in settings.roles:
        keep_freed_memory()

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await App(settings).run(stop)

    uvloop.run(main())
