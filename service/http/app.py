"""The side-port's application: put together from its parts, one for every process or test, with nothing global."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic.json_schema import models_json_schema

from service.core.control import Control
from service.core.ingest import PostedEvents
from service.core.requests import Requests
from service.core.sweep_requests import SweepRequests
from service.domain.log_group import Lane
from service.domain.status import LanesStatus
from service.http.body_limit import BodyLimit
from service.http.events import event_routes
from service.http.lanes import lane_routes
from service.http.pages import page_routes
from service.http.pause import pause_routes
from service.http.probes import Reason, probe_routes
from service.http.problems import ANY_OTHER_ERROR, Problem, answer_with_problems
from service.http.status import StatusDocument, status_routes
from service.http.sweeps import sweep_routes
from service.http.tokens import Guard, TokenFile, scope_of
from service.http.trigger import Waits, trigger_routes
from service.ports import TenantDirectory

_DESCRIPTION = "Keeps every CloudWatch log group encrypted under its own tenant's KMS key."


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What the manual trigger needs; `max_groups` of one request, `max_wait_s` (seconds) for one that waits; why a lane has to."""

    requests: Requests
    why_waits: Callable[[Lane], Waits | None]
    max_groups: int
    max_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweeping:
    """What sweeps need; `directory` gives None in a process without a registry."""

    requests: SweepRequests
    directory: Callable[[], TenantDirectory | None]
    max_wait_s: float


def create_app(
    *,
    registry: CollectorRegistry,
    tokens: TokenFile,
    not_alive_reason: Reason,
    not_ready_reason: Reason,
    replica: str,
    status: Callable[[], StatusDocument],
    lanes: Callable[[], LanesStatus] | None = None,
    trigger: Trigger | None = None,
    control: Control | None = None,
    sweeping: Sweeping | None = None,
    events: PostedEvents | None = None,
) -> FastAPI:
    """The application of the process called `replica`; a process without the role for them has no `lanes`, or no `trigger`."""
    app = _App(
        title="Logwarden",
        version=version("logwarden"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from whatever the Host header says
        responses=ANY_OTHER_ERROR,
        generate_unique_id_function=lambda route: route.name,  # operation ids that a generated client can be read with
    )
    answer_with_problems(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard, tokens=tokens)
    if trigger is not None:
        app.include_router(
            trigger_routes(
                requests=trigger.requests,
                not_ready_reason=not_ready_reason,
                why_waits=trigger.why_waits,
                max_groups=trigger.max_groups,
                max_wait_s=trigger.max_wait_s,
            )
        )
    if events is not None:
        app.include_router(event_routes(events=events, not_ready_reason=not_ready_reason))
    if sweeping is not None:
        app.include_router(
            sweep_routes(
                sweeps=sweeping.requests,
                directory=sweeping.directory,
                not_ready_reason=not_ready_reason,
                max_wait_s=sweeping.max_wait_s,
            )
        )
    if control is not None:
        app.include_router(pause_routes(control=control, not_ready_reason=not_ready_reason))
    if lanes is not None:
        app.include_router(lane_routes(replica=replica, lanes=lanes))
    app.include_router(status_routes(status))
    app.include_router(
        probe_routes(registry=registry, not_alive_reason=not_alive_reason, not_ready_reason=not_ready_reason)
    )
    app.include_router(page_routes())
    return app


class _App(FastAPI):
    """FastAPI, whose OpenAPI document also has the schema that every error is documented by, and the scope that each call needs."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                for requirement in operation.get("security", ()):
                    requirement.update({scheme: [scope_of(method.upper(), path).value] for scheme in requirement})
        return document
