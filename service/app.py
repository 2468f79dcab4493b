"""The composition root: builds every part from the settings, and owns the order in which they start and stop.

Start: the side-port first, so that probes are answered while we wait for Kafka; then topics, producer, AWS, consumers.
Stop: not ready, consumers drain and commit and leave their groups, then everything that they needed, the side-port last.
"""

import asyncio
import signal
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib.metadata import version
from typing import Any, Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from service.aws.log_groups import open_log_groups
from service.clock import LoopClock
from service.dead_letters import DeadLetters
from service.dispatcher import Dispatcher
from service.domain import log_group
from service.domain.dead_letter import DeadLetterLimit
from service.domain.lane import Lane
from service.domain.log_group import AccountId
from service.domain.pacing import Pacer
from service.domain.request import RequestBook
from service.domain.schedule import Schedule
from service.http.app import Trigger, create_app
from service.http.server import Address, serve
from service.http.tokens import TokenFile
from service.ingest import Ingest
from service.intake import Intake
from service.ports import LogGroups, RecordHandler
from service.registry.file import FileDirectory
from service.requests import Requests
from service.retries import Retries
from service.settings import Role, Settings
from service.stream.connection import client_arguments, until_connected
from service.stream.consumer import Consumer, ConsumerLimits
from service.stream.follower import Follower
from service.stream.publisher import KafkaPublisher
from service.stream.topics import require_topics, topic_specs
from service.telemetry.logs import configure_logs
from service.telemetry.metrics import Metrics
from service.view import ReplicaView
from service.worker import RetryPolicy, Topics, Worker

_FORWARDED_AT_ONCE: Final = (
    5000  # records that ingest and the retry topics may have open: they only wait for an acknowledgement
)
_LIMIT_WINDOW: Final = 10_000  # records that the dead letters' share is of: a minute of a busy stream
_REQUESTS_HELD: Final = (
    200_000  # log groups of manual requests, a few hundred bytes each, that one replica can answer for
)

_log = structlog.get_logger(__name__)


class App:
    """One process of the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = LoopClock()
        self._arguments = client_arguments(settings)
        self._metrics = Metrics(CollectorRegistry())
        self._publisher = KafkaPublisher(self._arguments)
        self._consumers: list[Consumer] = []
        self._limits: list[DeadLetterLimit] = []
        self._not_ready: str | None = "starting: waiting for Kafka"
        self._view = ReplicaView(
            settings=settings,
            replica=socket.gethostname(),
            clock=self._clock,
            publisher=self._publisher,
            consumers=self._consumers,
            limits=self._limits,
            not_ready_reason=lambda: self._not_ready,
        )
        for collector in self._view.collectors():
            self._metrics.registry.register(collector)
        self._follower = Follower(topic=settings.requests_topic, arguments=self._arguments)
        self._requests = Requests(
            publisher=self._publisher,
            clock=self._clock,
            book=RequestBook(capacity=_REQUESTS_HELD),
            requests_topic=settings.requests_topic,
            work_topic=settings.work_topic,
            caught_up=self._follower.caught_up,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then end in order. Raises what ended it otherwise; nothing is committed then that was not done."""
        async with self._side_port() as address:
            _log.info("listening", address=str(address))
            serving = asyncio.create_task(self._serve(stop))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
                is_started, self._not_ready = self._not_ready is None, "stopping"
                if not is_started:
                    serving.cancel()  # still waiting for Kafka: there is nothing to drain
                await asyncio.wait([serving])
                self._requests.close()  # callers that still wait are answered with what is known
            finally:
                stopped.cancel()
                serving.cancel()
            if not serving.cancelled():
                serving.result()

    async def _serve(self, stop: asyncio.Event) -> None:
        settings = self._settings
        directory = FileDirectory(settings.tenants_file) if Role.WORKER in settings.roles else None
        topics = [spec.name for spec in topic_specs(settings)]
        await until_connected("topics", lambda: require_topics(self._arguments, topics))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._publisher)
            background: list[Coroutine[Any, Any, None]] = []
            if Role.INGEST in settings.roles:
                background += self._ingest()
            if directory is not None:
                log_groups = await stack.enter_async_context(self._open_log_groups())
                background += [directory.watch(), *self._work(directory, log_groups)]
            if Role.HTTP in settings.roles:
                background.append(self._follower.run(self._requests.apply))
            await self._run_until_stopped(background, stop)

    async def _run_until_stopped(self, background: list[Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
        """Run it all; the end of any part is the end of the process, except that consumers end first when asked to."""
        drain_s = self._settings.shutdown_drain_s
        async with asyncio.TaskGroup() as tasks:
            supporting = [tasks.create_task(part) for part in background]
            consuming = [tasks.create_task(consumer.run(stop, drain_s=drain_s)) for consumer in self._consumers]
            self._not_ready = None
            _log.info("started", roles=sorted(self._settings.roles), version=version("logwarden"))
            await stop.wait()
            if consuming:
                await asyncio.wait(consuming)
            for task in supporting:
                task.cancel()

    # -- the parts

    def _ingest(self) -> list[Coroutine[Any, Any, None]]:
        ingest = Ingest(
            publisher=self._publisher,
            dead_letters=self._dead_letters(),
            observer=self._metrics,
            work_topic=self._settings.work_topic,
        )
        self._consume("ingest", self._settings.source_topics, ingest, max_pending=_FORWARDED_AT_ONCE)
        return [ingest.run()]

    def _work(self, directory: FileDirectory, log_groups: LogGroups) -> list[Coroutine[Any, Any, None]]:
        settings = self._settings
        dead_letters = self._dead_letters()
        worker = Worker(
            directory=directory,
            log_groups=log_groups,
            publisher=self._publisher,
            dead_letters=dead_letters,
            clock=self._clock,
            observer=self._metrics,
            topics=Topics(
                outcomes=settings.outcomes_topic, requests=settings.requests_topic, retries=settings.retry_topics
            ),
            retry=RetryPolicy(
                attempts=settings.in_place_attempts,
                max_wait_s=settings.in_place_max_wait_s,
                delays_s=settings.retry_delays_s,
            ),
            is_dry_run=settings.dry_run,
        )
        dispatcher = Dispatcher(
            schedule=Schedule(new_lane=self._new_lane, max_calling=settings.max_in_flight),
            work=worker.work,
            clock=self._clock,
            hold_s=settings.hold_s,
            max_hold_s=settings.max_hold_s,
            on_held=self._metrics.lane_held,
        )
        self._view.works(dispatcher, directory)
        intake = Intake(dispatcher=dispatcher, dead_letters=dead_letters)
        retries = Retries(publisher=self._publisher, clock=self._clock, work_topic=settings.work_topic)
        self._consume("worker", [settings.work_topic], intake, max_pending=settings.max_pending)
        self._consume("retry", settings.retry_topics, retries, max_pending=_FORWARDED_AT_ONCE)
        return [dispatcher.run(), intake.run(), retries.run()]

    def _side_port(self) -> AbstractAsyncContextManager[Address]:
        settings = self._settings
        trigger = Trigger(
            requests=self._requests, max_groups=settings.http_max_groups, max_wait_s=settings.http_max_wait_s
        )
        app = create_app(
            registry=self._metrics.registry,
            tokens=TokenFile(settings.api_token_file),
            not_alive_reason=self._view.stalled,
            not_ready_reason=lambda: self._not_ready,
            replica=self._view.replica,
            status=self._view.status,
            lanes=self._view.lanes if Role.WORKER in settings.roles else None,
            trigger=trigger if Role.HTTP in settings.roles else None,
        )
        return serve(app, host=settings.http_host, port=settings.http_port)

    def _consume(self, name: str, topics: Sequence[str], handler: RecordHandler, *, max_pending: int) -> None:
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
                ),
                clock=self._clock,
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

    def _new_lane(self, lane: log_group.Lane, now: float) -> Lane:
        rate = self._settings.lane_rates_per_s.get(str(lane), self._settings.rate_per_s)
        return Lane(lane, pacer=Pacer(ceiling_per_s=rate, now=now), max_running=self._settings.lane_max_in_flight)

    def _open_log_groups(self) -> AbstractAsyncContextManager[LogGroups]:
        settings = self._settings
        return open_log_groups(
            clock=self._clock,
            own_account=AccountId(settings.aws_own_account) if settings.aws_own_account else None,
            role_name=settings.aws_role_name,
            external_id=settings.aws_external_id,
            role_session_name=settings.aws_role_session_name,
            sts_region=settings.aws_sts_region,
            endpoint_url=settings.aws_endpoint_url,
            connect_timeout_s=settings.aws_connect_timeout_s,
            read_timeout_s=settings.aws_read_timeout_s,
            max_in_flight=settings.max_in_flight,
            user_agent=f"logwarden/{version('logwarden')}",
        )


def run(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; a second signal changes nothing, the drain has its own deadline."""
    configure_logs(level=settings.log_level, form=settings.log_format)

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await App(settings).run(stop)

    uvloop.run(main())
