"""The side-port without a socket: its application over fakes, and a client that speaks to it."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.core.control import Control
from service.core.dead_letters import DeadLetters
from service.core.ingest import PostedEvents
from service.core.requests import Requests
from service.core.sweep_requests import SweepRequests
from service.domain.events import EventParser
from service.domain.log_group import Lane, LogGroup
from service.domain.outcome import Outcome, State
from service.domain.request import RequestBook, RequestOutcome
from service.domain.status import LanesStatus
from service.domain.sweep_book import SweepBook
from service.domain.timestamp import timestamp
from service.http.app import Sweeping, Trigger, create_app
from service.http.status import StatusDocument
from service.http.tokens import TokenFile
from service.http.trigger import Waits
from tests.support.fakes import FakeDirectory, RecordingObserver, unlimited
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import EPOCH_MS, VirtualClock

REQUESTS_TOPIC = "requests"
WORK_TOPIC = "work"
DEAD_LETTER_TOPIC = "dead-letters"
CONTROL_TOPIC = "control"
TOKEN = "0123456789abcdef0123456789abcdef"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
CALLER = "alice"
REPLICA = "logwarden-0"


async def caught_up_already() -> None:
    """A replica that has read the whole requests topic."""


def healthy_status() -> StatusDocument:
    """The status of a replica that has nothing to do and nothing to complain of."""
    return StatusDocument(
        replica=REPLICA,
        version="1.2.3",
        mode="enforcing",
        dry_run=False,
        pause=None,
        roles=["http", "ingest", "worker"],
        started_at=timestamp(EPOCH_MS),
        not_ready=None,
        last_progress_s=None,
        lanes_held={},
        publish_failing=[],
        calls_kept_back_s=None,
        commands_too_new=[],
        dead_letters_stopped=None,
        registry=None,
        consumers=[],
    )


@dataclass(slots=True)
class SidePort:
    """One replica's side-port; `not_ready` and `not_alive` are the reasons its probes give, `lanes` and `status` what it shows."""

    app: FastAPI
    client: httpx.AsyncClient
    publisher: FakePublisher
    requests: Requests
    registry: CollectorRegistry
    sweeps: SweepRequests
    directory: FakeDirectory | None
    control: Control
    waits: dict[Lane, Waits]
    not_ready: str | None = None
    not_alive: str | None = None
    lanes: LanesStatus = field(default_factory=LanesStatus)
    status: StatusDocument = field(default_factory=healthy_status)

    def outcome(
        self, request_id: str, log_group: LogGroup, state: State = State.SEALED, *, at_ms: int = EPOCH_MS
    ) -> None:
        """Let the worker's outcome come in over the requests topic."""
        outcome = Outcome(log_group=log_group, state=state).as_dict()
        self.requests.apply(RequestOutcome(id=request_id, at_ms=at_ms, outcome=outcome).to_bytes())


@contextlib.asynccontextmanager
async def side_port(
    tokens: Path | None,
    *,
    max_groups: int = 1000,
    max_wait_s: float = 30.0,
    events_timeout_s: float = 10.0,
    headers: Iterable[tuple[str, str]] = AUTHORIZED.items(),
) -> AsyncIterator[SidePort]:
    """A side-port whose tokens are in this file, and a client that sends these headers."""
    publisher, registry = FakePublisher(), CollectorRegistry()
    waits: dict[Lane, Waits] = {}
    requests = Requests(
        publisher=publisher,
        clock=VirtualClock(),
        book=RequestBook(capacity=10_000),
        requests_topic=REQUESTS_TOPIC,
        work_topic=WORK_TOPIC,
        caught_up=caught_up_already,
    )
    sweeps = SweepRequests(
        publisher=publisher,
        clock=VirtualClock(),
        book=SweepBook(capacity=10_000),
        requests_topic=REQUESTS_TOPIC,
        work_topic=WORK_TOPIC,
        caught_up=caught_up_already,
    )

    async def heard() -> None:
        """A follower of the control topic, which reads all of it each time."""
        for record in publisher.records:
            if record.topic == CONTROL_TOPIC:
                control.apply(record.key, record.value)

    control = Control(publisher=publisher, clock=VirtualClock(), topic=CONTROL_TOPIC, caught_up=heard)
    app = create_app(
        registry=registry,
        tokens=TokenFile(tokens),
        not_alive_reason=lambda: port.not_alive,
        not_ready_reason=lambda: port.not_ready,
        replica=REPLICA,
        status=lambda: port.status,
        lanes=lambda: port.lanes,
        trigger=Trigger(requests=requests, why_waits=waits.get, max_groups=max_groups, max_wait_s=max_wait_s),
        sweeping=Sweeping(requests=sweeps, directory=lambda: port.directory, max_wait_s=max_wait_s),
        events=PostedEvents(
            publisher=publisher,
            dead_letters=DeadLetters(
                publisher=publisher,
                observer=RecordingObserver(),
                limit=unlimited(),
                topic=DEAD_LETTER_TOPIC,
                work_topic=WORK_TOPIC,
            ),
            parser=EventParser(),
            observer=RecordingObserver(),
            clock=VirtualClock(),
            work_topic=WORK_TOPIC,
            source_topic="events",
            ack_timeout_s=events_timeout_s,
        ),
        control=control,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://logwarden.test", headers=list(headers)
    ) as client:
        port = SidePort(app, client, publisher, requests, registry, sweeps, FakeDirectory(), control, waits)
        yield port


def token_file(folder: Path) -> Path:
    """A token file in which CALLER has TOKEN."""
    path = folder / "tokens"
    path.write_text(f"# who may ask\n{CALLER}:{TOKEN}\n")
    return path
