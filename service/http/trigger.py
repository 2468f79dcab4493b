"""The manual trigger: ask for log groups to be ensured, and see what became of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Header, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.core.requests import KeyReusedError, Requests
from service.core.waiting import NotAcknowledgedError
from service.domain.log_group import InvalidIdentityError, Lane, LogGroup
from service.domain.request import RequestState, RequestStatus
from service.domain.timestamp import timestamp
from service.http.prefer import applied, preferred_wait_s
from service.http.probes import Reason, require_ready
from service.http.problems import OF_A_JSON_BODY, OF_WRITING, FieldError, ProblemError, ProblemType, pointer
from service.http.tokens import guarded, guarded_routes
from service.ports import RecordTooLargeError

_ACCOUNT = "111122223333"
_NAME = "/aws/lambda/checkout"
_EXAMPLES: dict[str, Any] = {
    "by-name": {
        "summary": "By account, Region and name",
        "value": {"log_groups": [{"account": _ACCOUNT, "region": "eu-west-1", "name": _NAME}]},
    },
    "by-arn": {
        "summary": "By ARN",
        "value": {"log_groups": [{"arn": f"arn:aws:logs:eu-west-1:{_ACCOUNT}:log-group:{_NAME}"}]},
    },
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Waits:
    """Why what was asked for is not worked now: a failure class, `publish-failing` or `paused`, since when (ms since 1970), what to do."""

    reason: str
    detail: str
    hint: str
    since_ms: int

    def as_dict(self) -> dict[str, str]:
        since = timestamp(self.since_ms)
        return {"class": self.reason, "detail": self.detail, "hint": self.hint, "since": since}


class LogGroupReference(BaseModel):
    """One log group: either its `arn`, or its `account`, `region` and `name`."""

    model_config = ConfigDict(extra="forbid")

    arn: str | None = Field(None, description="The ARN, with or without the trailing `:*`.")
    account: str | None = Field(None, description="The account id, 12 digits.")
    region: str | None = Field(None, description="The Region, such as eu-west-1.")
    name: str | None = Field(None, description="The log group's name.")


class LogGroupStatus(BaseModel):
    """What became of one log group."""

    account: str
    region: str
    log_group: str = Field(description="The name.")
    state: str = Field(description="`pending`, or a state of the outcome: `sealed`, `already-sealed`, `deferred`, ...")
    tenant: str | None = Field(None, description="The tenant that owns the log group.")
    key: str | None = Field(None, description="ARN of the tenant's KMS key.")
    old_key: str | None = Field(
        None,
        description="Another key that it was under, and still is where nothing was called: data written under it stay so, and it has "
        "to stay enabled for as long as they are retained.",
    )
    detail: str | None = Field(None, description="For people: why.")
    attempts: int | None = Field(None, description="AssociateKmsKey calls made.")
    flips: int | None = Field(
        None,
        description="How often it was brought back to its key within the last hour, before this, since somebody keeps changing it.",
    )
    retry_in_s: float | None = Field(None, description="When a deferred log group is tried again (seconds).")
    failure: dict[str, str] | None = Field(None, description="`class`, `fault` (who has to act) and `hint`.")
    waits: dict[str, str] | None = Field(
        None,
        description="Why a `pending` one has to wait, where that is known: `class` (a failure class that its account and Region are "
        "held for, `publish-failing` where Kafka takes no outcomes, or `paused`), `detail`, `hint`, and `since` (in UTC).",
    )


class RequestDocument(BaseModel):
    """A request as it stands."""

    id: str
    state: str = Field(
        description="`done` when no log group is `pending` or `deferred` any more, until then `pending`."
    )
    caller: str = Field(description="Who asked, by the name of the token.")
    accepted_at: str = Field(description="When, in UTC.")
    counts: dict[str, int] = Field(description="Log groups by state.")
    log_groups: list[LogGroupStatus] = Field(description="In the order of the request.")


_Prefer = Annotated[
    list[str],
    Header(
        alias="Prefer",
        default_factory=list,
        description="`wait=SECONDS` (RFC 7240): wait that long for the last word on every log group. One that is deferred beyond that is "
        "not waited for.",
    ),
]
_IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A repeat with the same key and log groups is the same request, and sends again what has no outcome.",
    ),
]


def trigger_routes(
    *,
    requests: Requests,
    not_ready_reason: Reason,
    why_waits: Callable[[Lane], Waits | None],
    max_groups: int,
    max_wait_s: float,
) -> APIRouter:
    """The routes of the trigger, for an app that guards them. Times in seconds."""
    routes = guarded_routes("/requests", tag="requests")

    class NewRequest(BaseModel):  # here, so that its schema says the limit that is in force
        """The log groups to ensure; one that is named twice counts once."""

        model_config = ConfigDict(extra="forbid")

        log_groups: list[LogGroupReference] = Field(min_length=1, max_length=max_groups)

    @routes.post(
        "",
        status_code=202,
        response_description="Accepted: Kafka has the request; some log groups are `pending`, or `deferred`.",
        responses={
            202: {"model": RequestDocument, "headers": _headers("Location", "Preference-Applied")},
            200: {
                "model": RequestDocument,
                "description": "Done: there is a last word on every log group already.",
                "headers": _headers("Location", "Preference-Applied"),
            },
            **guarded(*OF_A_JSON_BODY, ProblemType.KEY_REUSED, *OF_WRITING),
        },
    )
    async def ask(
        request: Request,
        body: Annotated[NewRequest, Body(openapi_examples=_EXAMPLES)],
        prefer: _Prefer,
        idempotency_key: _IdempotencyKey = None,
    ) -> JSONResponse:
        """Ensure that log groups are under their own tenant's key."""
        log_groups = _log_groups(body.log_groups)
        require_ready(not_ready_reason)
        caller: str = request.state.caller
        try:
            status = await requests.submit(log_groups, caller=caller, idempotency_key=idempotency_key)
        except NotAcknowledgedError as e:
            _log.warning("request_not_acknowledged", request_id=e.what, caller=caller, log_groups=len(log_groups))
            where = f"{routes.prefix}/{e.what}"
            raise ProblemError(ProblemType.KAFKA_SILENT, f"Its id is {e.what}.", instance=where) from e
        except KeyReusedError as e:
            raise ProblemError(ProblemType.KEY_REUSED, f"It is that of {e.request_id}.") from e
        except RecordTooLargeError as e:
            raise ProblemError(ProblemType.TOO_LARGE, "Kafka takes no record of this size.") from e
        _log.info("request_accepted", request_id=status.id, caller=caller, log_groups=len(status.log_groups))
        wait_s = preferred_wait_s(prefer, longest_s=max_wait_s)
        if wait_s:
            status = await requests.answered(status.id, wait_s) or status
        headers = applied(wait_s) | {"Location": f"{routes.prefix}/{status.id}"}
        return JSONResponse(
            _document(status, why_waits), status_code=200 if status.state is RequestState.DONE else 202, headers=headers
        )

    @routes.get(
        "/{request_id}",
        response_model=RequestDocument,
        response_description="The request as it stands.",
        responses={
            200: {"headers": _headers("Preference-Applied")},
            **guarded(ProblemType.UNKNOWN_REQUEST, ProblemType.CATCHING_UP),
        },
    )
    async def look_up(
        request_id: Annotated[str, Path(description="The `id` that the request was answered with.")],
        prefer: _Prefer,
    ) -> JSONResponse:
        """See what became of a request. Any replica answers."""
        wait_s = preferred_wait_s(prefer, longest_s=max_wait_s)
        status = await (requests.answered(request_id, wait_s) if wait_s else requests.find(request_id))
        if status is None:
            raise ProblemError(ProblemType.UNKNOWN_REQUEST)
        return JSONResponse(_document(status, why_waits), headers=applied(wait_s))

    return routes


def _document(status: RequestStatus, why_waits: Callable[[Lane], Waits | None]) -> dict[str, Any]:
    """The request, and of each log group without an outcome why it waits, where that is known."""
    shown = status.as_dict()
    lanes = {log_group.lane for log_group in status.unanswered}
    waits = {lane: why.as_dict() for lane in lanes if (why := why_waits(lane)) is not None}
    for place, log_group in enumerate(status.log_groups):
        if log_group not in status.outcomes and log_group.lane in waits:
            shown["log_groups"][place] = {**shown["log_groups"][place], "waits": waits[log_group.lane]}
    return shown


def _log_groups(references: Sequence[LogGroupReference]) -> list[LogGroup]:
    """The log groups that are meant. Raises ProblemError, which points at each one that cannot be."""
    resolved = [_resolve(reference, "log_groups", index) for index, reference in enumerate(references)]
    if errors := [r for r in resolved if isinstance(r, FieldError)]:
        raise ProblemError(ProblemType.INVALID_REQUEST, errors=errors)
    return [r for r in resolved if isinstance(r, LogGroup)]


def _resolve(reference: LogGroupReference, *path: str | int) -> LogGroup | FieldError:
    try:
        match reference:
            case LogGroupReference(arn=str(arn), account=None, region=None, name=None):
                return LogGroup.from_arn(arn)
            case LogGroupReference(arn=None, account=str(account), region=str(region), name=str(name)):
                return LogGroup.of(account, region, name)
            case _:
                return FieldError(
                    detail="Either `arn` alone, or all of `account`, `region` and `name`", pointer=pointer(*path)
                )
    except InvalidIdentityError as e:
        field = "arn" if reference.arn is not None else "name" if e.field == "log_group" else e.field
        return FieldError(detail=str(e), pointer=pointer(*path, field))


def _headers(*names: str) -> Mapping[str, Any]:
    """What OpenAPI says of a response's headers."""
    return {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in names}


_HEADERS = {
    "Location": "Where the request can be looked up.",
    "Preference-Applied": "The wait that was honoured, where one was asked for.",
}
