"""Pause and resume of the whole service, over REST."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.core.control import Control, PausedByAnotherError
from service.core.waiting import CatchingUpError, NotAcknowledgedError
from service.domain.control import MAX_REASON, InvalidReasonError, Word
from service.http.problems import FieldError, ProblemError, ProblemType, documented, pointer
from service.http.status import PauseState
from service.http.tokens import GUARDED, REFUSALS, bearer

_EXAMPLES: dict[str, Any] = {
    "incident": {
        "summary": "While somebody looks into something",
        "value": {"reason": "Keys of payments are being replaced, see INC-1234"},
    },
}
_WRITING = (ProblemType.NOT_READY, ProblemType.KAFKA_SILENT)


class NewPause(BaseModel):
    """Why the service is to pause."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(
        description=f"For whoever wonders why nothing happens: one line of at most {MAX_REASON} characters."
    )


def pause_routes(*, control: Control, not_ready_reason: Callable[[], str | None]) -> APIRouter:
    """`/v1/pause`, for an app that guards it."""
    routes = APIRouter(prefix=f"{GUARDED}/pause", tags=["operations"], dependencies=[Depends(bearer)])

    @routes.get(
        "",
        response_model=PauseState,
        response_description="The last word.",
        responses=documented(*REFUSALS, ProblemType.CATCHING_UP),
    )
    async def is_paused() -> JSONResponse:
        """See whether the service is paused, by whom, since when and why. Any replica answers for all."""
        with _as_problems():
            return _answer(await control.last_word())

    @routes.put(
        "",
        response_model=PauseState,
        response_description="Kafka has it; every replica stops within a second or so.",
        responses=documented(
            *REFUSALS,
            ProblemType.INVALID_REQUEST,
            ProblemType.PAUSED_BY_ANOTHER,
            ProblemType.TOO_LARGE,
            ProblemType.NOT_JSON,
            *_WRITING,
        ),
    )
    async def pause(request: Request, body: Annotated[NewPause, Body(openapi_examples=_EXAMPLES)]) -> JSONResponse:
        """Pause the whole service, restarts included, until it is resumed. Calls that are under way end.

        A pause in force keeps its beginning; only who made it may give it another reason.
        """
        _require_ready(not_ready_reason())
        with _as_problems():
            return _answer(await control.pause(by=request.state.caller, reason=body.reason))

    @routes.delete(
        "",
        response_model=PauseState,
        response_description="Kafka has it; every replica goes on within a second or so.",
        responses=documented(*REFUSALS, ProblemType.PAUSED_BY_ANOTHER, ProblemType.CATCHING_UP, *_WRITING),
    )
    async def resume(
        request: Request,
        force: Annotated[bool, Query(description="Whether to end somebody else's pause, too.")] = False,  # noqa: FBT002
    ) -> JSONResponse:
        """Let the whole service go on. Where it is not paused, nothing is written. The pause of somebody else takes `force`."""
        _require_ready(not_ready_reason())
        with _as_problems():
            return _answer(await control.resume(by=request.state.caller, is_forced=force))

    return routes


@contextmanager
def _as_problems() -> Iterator[None]:
    """Raise ProblemError for whatever `Control` raises."""
    try:
        yield
    except InvalidReasonError as e:
        error = FieldError(detail=str(e), pointer=pointer("reason"))
        raise ProblemError(ProblemType.INVALID_REQUEST, errors=[error]) from e
    except PausedByAnotherError as e:
        raise ProblemError(ProblemType.PAUSED_BY_ANOTHER, f"{e}.") from e
    except CatchingUpError as e:
        raise ProblemError(ProblemType.CATCHING_UP) from e
    except NotAcknowledgedError as e:
        raise ProblemError(ProblemType.KAFKA_SILENT) from e


def _require_ready(not_ready_reason: str | None) -> None:
    if not_ready_reason is not None:
        raise ProblemError(ProblemType.NOT_READY, f"{not_ready_reason}.")


def _answer(word: Word | None) -> JSONResponse:
    return JSONResponse(PauseState.of(word).model_dump(), headers={"Cache-Control": "no-store"})
