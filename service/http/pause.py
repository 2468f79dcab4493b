"""Pause and resume of the whole service, over REST."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.core.control import Control, PausedByAnotherError
from service.core.waiting import NotAcknowledgedError
from service.domain.control import MAX_REASON, InvalidReasonError, Word
from service.http.probes import Reason, require_ready
from service.http.problems import OF_A_JSON_BODY, OF_WRITING, FieldError, ProblemError, ProblemType, pointer
from service.http.status import PauseState
from service.http.tokens import guarded, guarded_routes

_EXAMPLES: dict[str, Any] = {
    "incident": {
        "summary": "While somebody looks into something",
        "value": {"reason": "Keys of payments are being replaced, see INC-1234"},
    },
}


class NewPause(BaseModel):
    """Why the service is to pause."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(
        description=f"For whoever wonders why nothing happens: one line of at most {MAX_REASON} characters."
    )


def pause_routes(*, control: Control, not_ready_reason: Reason) -> APIRouter:
    """`/v1/pause`, for an app that guards it."""
    routes = guarded_routes("/pause", tag="operations")

    @routes.get(
        "",
        response_model=PauseState,
        response_description="The last word.",
        responses=guarded(ProblemType.CATCHING_UP),
    )
    async def is_paused() -> JSONResponse:
        """See whether the service is paused, by whom, since when and why. Any replica answers for all."""
        with _as_problems():
            return _answer(await control.last_word())

    @routes.put(
        "",
        response_model=PauseState,
        response_description="Kafka has it; every replica stops within a second or so.",
        responses=guarded(*OF_A_JSON_BODY, ProblemType.PAUSED_BY_ANOTHER, *OF_WRITING),
    )
    async def pause(request: Request, body: Annotated[NewPause, Body(openapi_examples=_EXAMPLES)]) -> JSONResponse:
        """Pause the whole service, restarts included, until it is resumed. Calls that are under way end.

        A pause in force keeps its beginning; only who made it may give it another reason.
        """
        require_ready(not_ready_reason)
        with _as_problems():
            return _answer(await control.pause(by=request.state.caller, reason=body.reason))

    @routes.delete(
        "",
        response_model=PauseState,
        response_description="Kafka has it; every replica goes on within a second or so.",
        responses=guarded(ProblemType.PAUSED_BY_ANOTHER, ProblemType.CATCHING_UP, *OF_WRITING),
    )
    async def resume(
        request: Request,
        force: Annotated[bool, Query(description="Whether to end somebody else's pause, too.")] = False,  # noqa: FBT002
    ) -> JSONResponse:
        """Let the whole service go on. Where it is not paused, nothing is written. The pause of somebody else takes `force`."""
        require_ready(not_ready_reason)
        with _as_problems():
            return _answer(await control.resume(by=request.state.caller, is_forced=force))

    return routes


@contextmanager
def _as_problems() -> Iterator[None]:
    """Raise ProblemError for what `Control` raises, but CatchingUpError, which the app itself answers for every route."""
    try:
        yield
    except InvalidReasonError as e:
        error = FieldError(detail=str(e), pointer=pointer("reason"))
        raise ProblemError(ProblemType.INVALID_REQUEST, errors=[error]) from e
    except PausedByAnotherError as e:
        raise ProblemError(ProblemType.PAUSED_BY_ANOTHER, f"{e}.") from e
    except NotAcknowledgedError as e:
        raise ProblemError(ProblemType.KAFKA_SILENT) from e


def _answer(word: Word | None) -> JSONResponse:
    return JSONResponse(PauseState.of(word).model_dump(), headers={"Cache-Control": "no-store"})
