"""What waits in the lanes of this replica, and why. Each lane is in one replica, so each replica answers for its own."""

from collections.abc import Callable, Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from service.domain.command import Priority
from service.domain.outcome import FailureClass
from service.domain.status import Hold, LanesStatus, LaneStatus, Trouble
from service.http.problems import ProblemType
from service.http.tokens import guarded, guarded_routes

_MOST_SHOWN: Final = 1000  # 0.4 MB of JSON
_HINTS: Final = {failure.label: failure.hint for failure in FailureClass}


class HoldDocument(BaseModel):
    """Why a lane waits."""

    reason: str = Field(description="The failure class.")
    detail: str = Field(description="What AWS, or whoever does not let us, says, for people.")
    hint: str | None = Field(description="What an operator does about it.")
    for_s: float = Field(description="When it tries again (seconds); 0 while it does.")


class TroubleDocument(BaseModel):
    """Why calls fail, while they are made again at once."""

    reason: str = Field(description="The failure class.")
    detail: str = Field(description="What AWS, or whoever answers for it, says, for people.")
    hint: str | None = Field(description="What an operator does about it, should it go on.")


class LaneDocument(BaseModel):
    """One lane: the account and Region whose quota its log groups share."""

    account: str
    region: str
    waiting: dict[str, int] = Field(
        description="Log groups that wait, by priority: `urgent` (events, requests), `retry`, `sweep`."
    )
    in_flight: int = Field(
        description="Log groups that have started, those included that wait to call again, or for Kafka to take their outcome."
    )
    rate_per_s: float = Field(description="AssociateKmsKey calls a second that the lane allows itself now.")
    ceiling_per_s: float = Field(description="The most it may; less is allowed for a while after a throttle.")
    throttled_ago_s: float | None = Field(description="When AWS last refused a call for its rate (seconds ago).")
    throttled_operation: str | None = Field(
        description="Which one that was: AssociateKmsKey, or a look-up that goes before it, which have quotas of their own; of the two that "
        "list log groups it is DescribeLogGroups, whose pace both keep."
    )
    oldest_waiting_s: float | None = Field(
        description="How long the oldest command has waited since this replica read it (seconds)."
    )
    held: HoldDocument | None = Field(description="Why the lane waits for a fault that is not any one log group's.")
    retrying: TroubleDocument | None = Field(
        description="Why no call comes to anything, while they are made again; where it goes on, the lane is held for it."
    )
    estimated_end_s: float | None = Field(
        description="When everything that waits will have started, at the rate of now (seconds); null while paused, held, retrying, or "
        "no calls are made or no outcomes written (`/v1/status` says why). Look-ups have quotas of their own and may take longer."
    )


class LaneTotals(BaseModel):
    """All lanes of this replica together, also those that are not listed."""

    lanes: int = Field(description="How many there are, those without work included.")
    waiting: dict[str, int] = Field(description="Log groups that wait, by priority.")
    in_flight: int = Field(description="Log groups that have started.")
    held: dict[str, int] = Field(description="Lanes that wait for a fault, by failure class.")
    oldest_waiting_s: float | None = Field(description="How long the oldest command has waited (seconds).")
    estimated_end_s: float | None = Field(
        description="When the last lane will have started everything (seconds); null where that is not known of a lane."
    )


class LanesDocument(BaseModel):
    """The lanes of the replica that answers, as they stand."""

    replica: str = Field(description="Which replica answers: its host name, in Kubernetes that of the pod.")
    totals: LaneTotals
    lanes: list[LaneDocument] = Field(description="Those that are held first, then the fullest.")


def lane_routes(*, replica: str, lanes: Callable[[], LanesStatus]) -> APIRouter:
    """`/v1/lanes`, for an app that guards it and a process that has lanes."""
    routes = guarded_routes("/lanes", tag="operations")

    @routes.get(
        "",
        name="lanes",
        response_model=LanesDocument,
        response_description="The lanes as they stand.",
        responses=guarded(ProblemType.INVALID_REQUEST),
    )
    async def show(
        limit: Annotated[int, Query(ge=1, le=_MOST_SHOWN, description="How many lanes to list.")] = 100,
    ) -> JSONResponse:
        """See what waits, how fast it goes and what holds it up. A lane lives in one replica: `replica` is the one that answers."""
        status = lanes()
        document = LanesDocument(
            replica=replica, totals=_totals(status), lanes=[_lane(lane) for lane in status.lanes[:limit]]
        )
        return JSONResponse(document.model_dump(), headers={"Cache-Control": "no-store"})

    return routes


def _totals(status: LanesStatus) -> LaneTotals:
    return LaneTotals(
        lanes=len(status.lanes),
        waiting=_by_name(status.waiting),
        in_flight=status.in_flight,
        held=dict(status.held),
        oldest_waiting_s=_rounded(status.oldest_waiting_s),
        estimated_end_s=_rounded(status.estimated_end_s),
    )


def _lane(status: LaneStatus) -> LaneDocument:
    return LaneDocument(
        account=status.lane.account,
        region=status.lane.region,
        waiting=_by_name(status.waiting),
        in_flight=status.in_flight,
        rate_per_s=round(status.rate_per_s, 3),
        ceiling_per_s=status.ceiling_per_s,
        throttled_ago_s=_rounded(status.throttled_ago_s),
        throttled_operation=status.throttled_operation,
        oldest_waiting_s=_rounded(status.oldest_waiting_s),
        held=None if status.hold is None else _hold(status.hold),
        retrying=None if status.trouble is None else _trouble(status.trouble),
        estimated_end_s=_rounded(status.estimated_end_s),
    )


def _hold(hold: Hold) -> HoldDocument:
    return HoldDocument(
        reason=hold.reason, detail=hold.detail, hint=_HINTS.get(hold.reason), for_s=round(hold.for_s, 3)
    )


def _trouble(trouble: Trouble) -> TroubleDocument:
    return TroubleDocument(reason=trouble.reason, detail=trouble.detail, hint=_HINTS.get(trouble.reason))


def _by_name(waiting: Mapping[Priority, int]) -> dict[str, int]:
    return {priority.name.lower(): count for priority, count in waiting.items()}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
