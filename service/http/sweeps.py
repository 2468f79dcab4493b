"""Sweeps over HTTP: ask for every log group of some lanes to be looked at, and see how far that has come."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar

import structlog
from fastapi import APIRouter, Body, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.core.sweep_requests import NoLanesError, SweepRequests, lanes_to_sweep
from service.core.waiting import NotAcknowledgedError
from service.domain.log_group import InvalidIdentityError, TenantId, account_id, region_name
from service.domain.outcome import CallFailedError
from service.http.prefer import applied, preferred_wait_s
from service.http.probes import Reason, require_ready
from service.http.problems import OF_A_JSON_BODY, FieldError, ProblemError, ProblemType, pointer
from service.http.tokens import guarded, guarded_routes
from service.ports import RecordTooLargeError, TenantDirectory

_EXAMPLES: dict[str, Any] = {
    "rekey": {"summary": "All log groups of a tenant whose key has changed", "value": {"tenant": "acme"}},
    "lane": {
        "summary": "Everything in one account and Region",
        "value": {"accounts": ["111122223333"], "regions": ["eu-west-1"]},
    },
    "everything": {"summary": "Everything", "value": {}},
}

_MOST_SHOWN: Final = 100  # sweeps in one answer, of which each may name two hundred lanes

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class NewSweep(BaseModel):
    """What to sweep: of all that the registry lists, only what is named here."""

    model_config = ConfigDict(extra="forbid")

    accounts: list[str] | None = Field(
        None, min_length=1, description="Account ids; all that the registry lists where it is left out."
    )
    regions: list[str] | None = Field(
        None,
        min_length=1,
        description="Regions, with a tenant's key there or without (`no-key-in-region`); where it is left out, those of the tenants' keys.",
    )
    tenant: str | None = Field(
        None, description="Only this tenant's log groups, where its rules and its keys are: its re-key."
    )


class SweptLanes(BaseModel):
    """Accounts and Regions, as numbers."""

    total: int
    pending: int = Field(description="Not done yet.")
    failed: int = Field(description="Given up: `failed_lanes` says why.")


class FailedLane(BaseModel):
    """An account and Region that could not be swept."""

    lane: str = Field(description="`ACCOUNT:REGION`.")
    failure: str = Field(alias="class", description="The failure class.")
    detail: str


class SweepDocument(BaseModel):
    """A sweep as it stands."""

    id: str
    state: str = Field(
        description="`done` when every log group was looked at and worked once, until then `pending`. What is `deferred` comes back "
        "by itself."
    )
    caller: str = Field(description="Who asked, by the name of the token; `logwarden` where it was the service itself.")
    asked_at: str = Field(description="When, in UTC.")
    tenant: str | None = Field(description="Whose log groups alone are ensured.")
    counts: dict[str, int] = Field(
        description="Log groups by what became of them: a state of the outcome, `other-tenant`, or the failure class of those that "
        "got no key."
    )
    old_keys: dict[str, int] = Field(
        description="Other keys that log groups were under, and how many were. Data written before stay under them: keep them enabled."
    )
    lanes: SweptLanes
    pending_lanes: list[str] = Field(description="The first hundred that are not done.")
    failed_lanes: list[FailedLane] = Field(description="The first hundred that were given up.")


class SweepsDocument(BaseModel):
    """The sweeps that are known: what the requests topic retains."""

    sweeps: list[SweepDocument]


_Prefer = Annotated[
    list[str],
    Header(
        alias="Prefer",
        default_factory=list,
        description="`wait=SECONDS` (RFC 7240): wait that long for the sweep to be done.",
    ),
]


def sweep_routes(
    *,
    sweeps: SweepRequests,
    directory: Callable[[], TenantDirectory | None],
    not_ready_reason: Reason,
    max_wait_s: float,
) -> APIRouter:
    """The routes of sweeps, for an app that guards them. A process without a registry (None) sweeps only what is named."""
    routes = guarded_routes("/sweeps", tag="sweeps")

    @routes.post(
        "",
        name="sweep",
        status_code=202,
        response_model=SweepDocument,
        response_description="Accepted: Kafka has the sweep.",
        responses=guarded(
            *OF_A_JSON_BODY, ProblemType.NOT_READY, ProblemType.REGISTRY_SILENT, ProblemType.KAFKA_SILENT
        ),
    )
    async def ask(request: Request, body: Annotated[NewSweep, Body(openapi_examples=_EXAMPLES)]) -> JSONResponse:
        """Look at every log group of some accounts and Regions, and ensure those that are not under their tenant's key."""
        accounts = _checked(body.accounts or (), "accounts", account_id)
        regions = _checked(body.regions or (), "regions", region_name)
        tenant = None if body.tenant is None else TenantId(body.tenant)
        require_ready(not_ready_reason)
        caller: str = request.state.caller
        with _errors_as_problems(caller):
            lanes = await lanes_to_sweep(directory(), accounts=accounts, regions=regions, tenant=tenant)
            status = await sweeps.ask(lanes, tenant=tenant, caller=caller)
        headers = {"Cache-Control": "no-store", "Location": f"{routes.prefix}/{status.id}"}
        return JSONResponse(status.as_dict(), status_code=202, headers=headers)

    @routes.get(
        "",
        name="sweeps",
        response_model=SweepsDocument,
        response_description="The sweeps as they stand, the last asked for first.",
        responses=guarded(ProblemType.INVALID_REQUEST, ProblemType.CATCHING_UP),
    )
    async def list_known(
        limit: Annotated[int, Query(ge=1, le=_MOST_SHOWN, description="How many sweeps to list.")] = 20,
    ) -> JSONResponse:
        """See which sweeps and re-keys were asked for lately, by whom, and how far they have come. Any replica answers."""
        statuses = await sweeps.newest(limit)
        document = {"sweeps": [status.as_dict() for status in statuses]}
        return JSONResponse(document, headers={"Cache-Control": "no-store"})

    @routes.get(
        "/{sweep_id}",
        name="sweep status",
        response_model=SweepDocument,
        response_description="The sweep as it stands.",
        responses=guarded(ProblemType.UNKNOWN_SWEEP, ProblemType.CATCHING_UP),
    )
    async def look_up(
        sweep_id: Annotated[str, Path(description="The `id` that the sweep was answered with.")], prefer: _Prefer
    ) -> JSONResponse:
        """See how far a sweep has come. Any replica answers."""
        wait_s = preferred_wait_s(prefer, longest_s=max_wait_s)
        status = await (sweeps.done(sweep_id, wait_s) if wait_s else sweeps.find(sweep_id))
        if status is None:
            raise ProblemError(ProblemType.UNKNOWN_SWEEP)
        return JSONResponse(status.as_dict(), headers=applied(wait_s))

    return routes


@contextmanager
def _errors_as_problems(caller: str) -> Iterator[None]:
    """Say why a sweep could not be asked for."""
    try:
        yield
    except NoLanesError as e:
        raise ProblemError(ProblemType.INVALID_REQUEST, errors=[FieldError(detail=str(e), pointer="#")]) from e
    except CallFailedError as e:
        raise ProblemError(ProblemType.REGISTRY_SILENT, f"{e.detail}.") from e
    except RecordTooLargeError as e:
        raise ProblemError(ProblemType.TOO_LARGE, "Kafka takes no record of this size.") from e
    except NotAcknowledgedError as e:
        _log.warning("sweep_not_acknowledged", sweep_id=e.what, caller=caller)
        raise ProblemError(ProblemType.KAFKA_SILENT, f"Its id is {e.what}.") from e


def _checked(values: Sequence[str], field: str, check: Callable[[object], _T]) -> list[_T]:
    """The values that are meant. Raises ProblemError, which points at each one that cannot be."""
    checked: list[_T] = []
    errors = []
    for index, value in enumerate(values):
        try:
            checked.append(check(value))
        except InvalidIdentityError as e:
            errors.append(FieldError(detail=str(e), pointer=pointer(field, index)))
    if errors:
        raise ProblemError(ProblemType.INVALID_REQUEST, errors=errors)
    return checked
