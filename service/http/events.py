"""The way in for events over HTTP: what EventBridge API destinations and the like send, in any shape that ingest reads from Kafka."""

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from service.core.ingest import PostedEvents
from service.core.waiting import NotAcknowledgedError
from service.http.probes import Reason, require_ready
from service.http.problems import OF_WRITING, FieldError, ProblemError, ProblemType
from service.http.tokens import guarded, guarded_routes

_log = structlog.get_logger(__name__)


class EventsDocument(BaseModel):
    """What was made of the events."""

    accepted: int = Field(description="Log groups that will be ensured; 0 where the events ask for nothing.")


def event_routes(*, events: PostedEvents, not_ready_reason: Reason) -> APIRouter:
    """`/v1/events`, for an app that guards it."""
    routes = guarded_routes("/events", tag="events")

    @routes.post(
        "",
        name="post_events",
        status_code=202,
        response_model=EventsDocument,
        response_description="Kafka has what the events ask for.",
        responses=guarded(ProblemType.MALFORMED_EVENTS, ProblemType.TOO_LARGE, *OF_WRITING),
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}},
    )
    async def post(request: Request) -> JSONResponse:
        """Send events in any shape that the source topics take. A repeat does no harm.

        What cannot be read is named in the answer, and the body becomes a dead letter (413: it was too large for one); the rest of it is
        worked all the same.
        """
        require_ready(not_ready_reason)
        headers = [
            (_kafka_name(name), value.encode()) for name, value in request.headers.items() if _is_the_events(name)
        ]
        try:
            posted = await events.accept(await request.body(), headers)
        except NotAcknowledgedError as e:
            raise ProblemError(ProblemType.KAFKA_SILENT) from e
        parsed = posted.parsed
        caller: str = request.state.caller
        _log.info("events_posted", caller=caller, accepted=len(parsed.commands), malformed=len(parsed.problems))
        if parsed.problems:
            errors = [FieldError(detail=f"{each.field}: {each.reason}") for each in parsed.problems]
            accepted = f" {len(parsed.commands)} log groups were accepted all the same." if parsed.commands else ""
            if not posted.is_kept:
                detail = f"The body cannot be read, and is too large to be kept on the dead-letter topic.{accepted}"
                raise ProblemError(ProblemType.TOO_LARGE, detail, errors=errors)
            detail = f"The body is kept on the dead-letter topic.{accepted}"
            raise ProblemError(ProblemType.MALFORMED_EVENTS, detail, errors=errors)
        return JSONResponse(EventsDocument(accepted=len(parsed.commands)).model_dump(), status_code=202)

    return routes


def _is_the_events(name: str) -> bool:
    """Whether a header says something of the events: others do not belong on a topic, least of all the token."""
    return name.startswith("ce-") or name == "content-type"


def _kafka_name(name: str) -> str:
    """CloudEvents' attributes are `ce-id` over HTTP and `ce_id` on Kafka."""
    return name.replace("-", "_", 1) if name.startswith("ce-") else name
