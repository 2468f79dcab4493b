"""Every error that the side-port answers, as RFC 9457 problem documents: one table, one exception, one shape on the wire.

A problem's `type` is the place in `/docs` that explains it.
"""

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from itertools import groupby
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from service.core.waiting import CatchingUpError

_MAX_ERRORS: Final = 20  # named in one document: enough to see what is wrong with a list of a thousand
_CHALLENGE: Final = 'Bearer realm="logwarden"'


class ProblemType(Enum):
    """Every problem of our own: slug, status, when to try again (seconds, 0 for never), title, and what a caller does about it."""

    slug: str
    status: int
    retry_after_s: int
    title: str
    advice: str

    def __init__(self, slug: str, status: int, retry_after_s: int, title: str, advice: str) -> None:
        self.slug = slug
        self.status = status
        self.retry_after_s = retry_after_s
        self.title = title
        self.advice = advice

    INVALID_REQUEST = (
        "invalid-request", 400, 0, "The request is not valid",
        "Mend what `errors` names: each pointer is a JSON pointer into the body. Nothing was done.",
    )  # fmt: skip
    MALFORMED_EVENTS = (
        "malformed-events", 400, 0, "Events in the body cannot be read",
        "Mend what `errors` names. The body is kept as a dead letter, and its other events are worked; a repeat of them does no harm.",
    )  # fmt: skip
    TOKEN_MISSING = (
        "token-missing", 401, 0, "A token is required",
        "Send `Authorization: Bearer TOKEN` with a token that the operator of this service gave you.",
    )  # fmt: skip
    TOKEN_REFUSED = (
        "token-refused", 401, 0, "The token is not known",
        "Check it against the service's token file; a token that was taken out of it is refused at once.",
    )  # fmt: skip
    SCOPE_MISSING = (
        "scope-missing", 403, 0, "The token may not do this",
        "Ask the operator of this service for a token with that scope. Nothing was done.",
    )  # fmt: skip
    CLOSED = (
        "closed", 403, 0, "No tokens are configured",
        ("What is under `/v1` stays closed until LOGWARDEN_API_TOKEN_FILE names a file with bearer tokens, one a line (`name:token`, "
        "`token` or `name:token:scopes`)."),
    )  # fmt: skip
    UNKNOWN_REQUEST = (
        "unknown-request", 404, 0, "There is no such request",
        "The id is wrong, or the request is older than the service remembers.",
    )  # fmt: skip
    UNKNOWN_SWEEP = (
        "unknown-sweep", 404, 0, "There is no such sweep",
        "The id is wrong, or the sweep is older than the service remembers.",
    )  # fmt: skip
    PAUSED_BY_ANOTHER = (
        "paused-by-another", 409, 0, "Somebody else has paused the service",
        "It stays paused until they resume it, or somebody else does with `?force=true`: agree on when. Nothing was done.",
    )  # fmt: skip
    TOO_LARGE = (
        "too-large", 413, 0, "The request is too large",
        "It will never be taken as it is: divide it over several requests.",
    )  # fmt: skip
    NOT_JSON = (
        "not-json", 415, 0, "The body is not declared as JSON",
        "Send `Content-Type: application/json`.",
    )  # fmt: skip
    KEY_REUSED = (
        "idempotency-key-reused", 422, 0, "The Idempotency-Key belongs to another request",
        "Choose a new key for other log groups; repeat a key only with the same ones. Nothing was done.",
    )  # fmt: skip
    NOT_ALIVE = (
        "not-alive", 503, 0, "The service has stopped working",
        "Kubernetes restarts it. Look at the log of the container before.",
    )  # fmt: skip
    NOT_READY = (
        "not-ready", 503, 5, "This replica is starting or stopping",
        "Try again: another replica answers, or this one in a few seconds. Nothing was done.",
    )  # fmt: skip
    CATCHING_UP = (
        "catching-up", 503, 2, "This replica has not read all that Kafka has yet",
        "Try again in a few seconds. If it lasts, Kafka does not answer: look at the service's log.",
    )  # fmt: skip
    REGISTRY_SILENT = (
        "registry-does-not-answer", 503, 10, "The tenant registry does not answer",
        "Try again, or name accounts and Regions. Nothing was done.",
    )  # fmt: skip
    KAFKA_SILENT = (
        "kafka-does-not-acknowledge", 503, 10, "Kafka does not acknowledge the request",
        "It may still be carried out, in whole or in part. Repeating it does no harm; with an Idempotency-Key it stays one request.",
    )  # fmt: skip
    TOKENS_UNUSABLE = (
        "tokens-unusable", 503, 60, "There is no usable token in the token file",
        "Nobody is let in until the operator mends the file; the service's log says which line is wrong, and why.",
    )  # fmt: skip

    @property
    def uri(self) -> str:
        return f"/docs#{self.slug}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that RFC 9110 and RFC 6750 want with it."""
        headers = {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else {}
        match self:
            case ProblemType.TOKEN_MISSING:
                headers["WWW-Authenticate"] = _CHALLENGE
            case ProblemType.TOKEN_REFUSED:
                headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="invalid_token"'
            case ProblemType.TOO_LARGE:
                headers["Connection"] = "close"  # the rest of the body is still on its way
            case _:
                pass
        return headers


# What every route that takes JSON may answer, and every one that writes to Kafka, for their documentation.
OF_A_JSON_BODY: Final = (ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE, ProblemType.NOT_JSON)
OF_WRITING: Final = (ProblemType.NOT_READY, ProblemType.KAFKA_SILENT)


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    detail: str = Field(description="What is wrong, for people.")
    pointer: str | None = Field(None, description="Where in the body: a JSON pointer as a URI fragment.")


class Problem(BaseModel):
    """An error, as an RFC 9457 problem document."""

    type: str = Field(description="Which problem: a place in `/docs`, or `about:blank` where the status says it all.")
    title: str = Field(description="The problem in a few words, always the same for one type.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="This occurrence of the problem, and what to do about it.")
    instance: str = Field(description="Path of what the problem is about.")
    errors: list[FieldError] | None = Field(None, description="What is wrong with the request, one by one.")


class ProblemError(HTTPException):
    """Ends the handling of an HTTP request with a problem document; `instance` is the request's own path where not given."""

    def __init__(
        self,
        problem: ProblemType,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        instance: str | None = None,
    ) -> None:
        super().__init__(problem.status, detail)
        self.problem = problem
        self.errors = errors
        self.instance = instance

    def response(self, path: str) -> JSONResponse:
        """The document, for a request of this (unquoted) path."""
        more = len(self.errors) - _MAX_ERRORS
        details = [self.detail, f"{more} more errors are not shown." if more > 0 else "", self.problem.advice]
        document = Problem(
            type=self.problem.uri,
            title=self.problem.title,
            status=self.problem.status,
            detail=" ".join(d for d in details if d),
            instance=self.instance or quote(path),
            errors=list(self.errors[:_MAX_ERRORS]) or None,
        )
        return _response(document, self.problem.headers)


def answer_with_problems(app: FastAPI) -> None:
    """Let every error of the app, the framework's own and CatchingUpError included, be answered with a problem document."""
    for kind in (HTTPException, RequestValidationError, CatchingUpError, Exception):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    path = request.scope["path"]
    match error:
        case ProblemError():
            return error.response(path)
        case HTTPException():
            return _plain(request, error.status_code, error.detail, error.headers)
        case CatchingUpError():
            return ProblemError(ProblemType.CATCHING_UP).response(path)
        case RequestValidationError(body=bytes()):  # FastAPI parses a body only where it is declared as JSON
            return ProblemError(ProblemType.NOT_JSON).response(path)
        case RequestValidationError():
            errors = [_field_error(e) for e in error.errors()]
            return ProblemError(ProblemType.INVALID_REQUEST, errors=errors).response(path)
        case _:  # Starlette raises it again after this, and uvicorn logs it with its traceback
            return _plain(request, 500, "This is a bug. The service's log has the traceback.", None)


def _plain(request: Request, status: int, detail: str, headers: Mapping[str, str] | None) -> JSONResponse:
    title = HTTPStatus(status).phrase
    if detail == title:  # Starlette's own words for 404 and 405
        detail = f"{request.method} {request.scope['path']}: {title.lower()}. `/docs` lists what there is."
    instance = quote(request.scope["path"])
    return _response(Problem(type="about:blank", title=title, status=status, detail=detail, instance=instance), headers)


def _response(document: Problem, headers: Mapping[str, str] | None) -> JSONResponse:
    return JSONResponse(
        document.model_dump(exclude_none=True),
        status_code=document.status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/problem+json",
    )


def _field_error(error: Mapping[str, Any]) -> FieldError:
    place, *path = error["loc"]
    if error["type"] == "json_invalid":
        return FieldError(detail=f"Not JSON: {error['ctx']['error']} at character {path[0]}", pointer="#")
    if place != "body":
        return FieldError(detail=f"{'.'.join(map(str, path))} ({place}): {error['msg']}")
    return FieldError(detail=error["msg"], pointer=pointer(*path))


def pointer(*path: str | int) -> str:
    """A JSON pointer (RFC 6901) as a URI fragment."""
    return "#" + "".join("/" + quote(str(part).replace("~", "~0").replace("/", "~1"), safe="~") for part in path)


def documented(*problems: ProblemType) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of these problems, by status, for a route's `responses`; `Problem` is a component of the document."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status, group in groupby(sorted(problems, key=lambda p: p.status), key=lambda p: p.status):
        alike = list(group)
        responses[status] = _described(
            "; ".join(p.title for p in alike),
            {p.slug: {"summary": p.title, "value": _example(p)} for p in alike},
        )
    return responses


def _example(problem: ProblemType) -> Any:
    return json.loads(bytes(ProblemError(problem).response("/v1/requests").body))


def _described(description: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    media = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
    return {"description": description, "content": {"application/problem+json": media}}


ANY_OTHER_ERROR: Final[dict[int | str, dict[str, Any]]] = {"default": _described("Any other error", {})}
