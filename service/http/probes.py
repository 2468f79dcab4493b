"""What Kubernetes and Prometheus ask. None of it depends on anything outside the process: an outage of Kafka or AWS restarts nobody."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.http.problems import ProblemError, ProblemType, documented

Reason = Callable[[], str | None]  # why not, in a few words; None where there is nothing against it


def probe_routes(*, registry: CollectorRegistry, not_alive_reason: Reason, not_ready_reason: Reason) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics`."""
    routes = APIRouter(tags=["operations"], default_response_class=PlainTextResponse)

    @routes.get("/livez", response_description="It works.", responses=documented(ProblemType.NOT_ALIVE))
    async def livez() -> PlainTextResponse:
        """Whether the event loop runs and the consumers poll; if not, a restart helps."""
        return _answer(ProblemType.NOT_ALIVE, not_alive_reason())

    @routes.get("/readyz", response_description="It takes requests.", responses=documented(ProblemType.NOT_READY))
    async def readyz() -> PlainTextResponse:
        """Whether the service has started, and joined its consumer groups, and is not stopping."""
        return _answer(ProblemType.NOT_READY, not_ready_reason())

    @routes.get("/metrics", response_description="The metrics.")
    async def metrics(request: Request) -> Response:
        """Metrics in the Prometheus text format, or in OpenMetrics where the Accept header asks for it."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return routes


def require_ready(not_ready_reason: Reason) -> None:
    """Raise ProblemError while this replica takes no requests."""
    _require(ProblemType.NOT_READY, not_ready_reason())


def _require(problem: ProblemType, reason: str | None) -> None:
    if reason is not None:
        raise ProblemError(problem, f"{reason}.")


def _answer(problem: ProblemType, reason: str | None) -> PlainTextResponse:
    _require(problem, reason)
    return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})
