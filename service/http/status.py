"""How this replica does, on one page: whether it gets its records, its rules and its writes through, and since when."""

from collections.abc import Callable
from typing import Final, Literal, Self

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from service.domain.control import Paused, Resumed, Word
from service.domain.status import ConsumerStatus
from service.domain.timestamp import timestamp
from service.http.tokens import guarded, guarded_routes

_MAX_ERROR_LINES: Final = 20  # of a tenant file with a problem in every line; the log and `logwarden check` have more


class PartitionDocument(BaseModel):
    """One partition that this replica reads."""

    topic: str
    partition: int
    pending: int = Field(description="Records in hand whose outcome is not durable yet.")
    committed: int | None = Field(description="The offset that is committed.")
    lag: int | None = Field(
        description="Records from the committed offset to the end of the partition, some seconds old at the most; null before the broker "
        "was asked. On a retry topic most are not due yet."
    )
    unmoved_s: float = Field(
        description="For how long the committed offset has not moved though there are records after it (seconds); 0 when there are none. "
        "On a retry topic that is the topic's delay."
    )
    held_back: bool = Field(description="Whether it is not fetched, because as much of it is in hand as may be.")


class ConsumerDocument(BaseModel):
    """One member of a consumer group."""

    name: str = Field(description="`ingest`, `worker` or `retry`.")
    joined: bool = Field(description="Whether it is a member; not before and during a rebalance.")
    pending: int = Field(description="Records in hand, over all partitions.")
    lag: int = Field(description="Over all partitions where it is known.")
    unmoved_s: float = Field(description="Of the partition that has not moved for longest (seconds).")
    partitions: list[PartitionDocument]

    @classmethod
    def of(cls, status: ConsumerStatus) -> Self:
        return cls(
            name=status.name,
            joined=status.is_joined,
            pending=sum(p.pending for p in status.partitions),
            lag=sum(p.lag or 0 for p in status.partitions),
            unmoved_s=round(max((p.unmoved_s for p in status.partitions), default=0.0), 3),
            partitions=[
                PartitionDocument(
                    topic=p.topic,
                    partition=p.partition,
                    pending=p.pending,
                    committed=p.committed,
                    lag=p.lag,
                    unmoved_s=round(p.unmoved_s, 3),
                    held_back=p.is_held_back,
                )
                for p in status.partitions
            ],
        )


class FailingWritesDocument(BaseModel):
    """A topic that Kafka takes no record for."""

    topic: str
    for_s: float = Field(description="For how long (seconds).")
    error: str = Field(description="What it, or the client, says.")


class RegistryDocument(BaseModel):
    """The tenant registry as it is in force."""

    version: str = Field(description="Changes with its content.")
    loaded_at: str = Field(description="Since when this version is in force, in UTC.")
    last_error: str | None = Field(description="Why the file as it is now is not in force; null when it is.")

    @classmethod
    def of(cls, *, version: str, loaded_at_ms: int, last_error: Exception | None) -> Self:
        """Times in ms since 1970. Of a long error text the first lines."""
        lines = str(last_error).splitlines() if last_error else []
        if more := len(lines[_MAX_ERROR_LINES:]):
            lines = [*lines[:_MAX_ERROR_LINES], f"and {more} more"]
        return cls(version=version, loaded_at=timestamp(loaded_at_ms), last_error="\n".join(lines) or None)


class PauseState(BaseModel):
    """Whether the service is paused: the last word on it. The rest is null where nobody has said anything."""

    paused: bool = Field(description="While it is, events and requests are taken in and wait; nothing is started.")
    by: str | None = Field(description="Who said so: the name of the token, or who used the command line.")
    since: str | None = Field(description="When, in UTC.")
    reason: str | None = Field(description="Why it is paused; null when it is not.")

    @classmethod
    def of(cls, word: Word | None) -> Self:
        match word:
            case Paused(by=by, at_ms=at_ms, reason=reason):
                return cls(paused=True, by=by, since=timestamp(at_ms), reason=reason)
            case Resumed(by=by, at_ms=at_ms):
                return cls(paused=False, by=by, since=timestamp(at_ms), reason=None)
            case None:
                return cls(paused=False, by=None, since=None, reason=None)


class StatusDocument(BaseModel):
    """The replica that answers, as it stands. What belongs to a role that it does not have is null or empty."""

    replica: str = Field(description="Its host name, in Kubernetes that of the pod.")
    version: str
    mode: Literal["enforcing", "dry-run", "paused"] = Field(
        description="`dry-run`: nothing is changed in AWS. `paused`: nothing is started until the service is resumed."
    )
    dry_run: bool = Field(description="Whether nothing is changed in AWS, after a pause too.")
    pause: PauseState | None = Field(description="The pause that is in force; null while there is none.")
    roles: list[str] = Field(description="Which parts run in it.")
    started_at: str = Field(description="In UTC.")
    not_ready: str | None = Field(description="Why it is starting or stopping; null when it is ready.")
    last_progress_s: float | None = Field(
        description="How long ago it finished a command, or began to work, or resumed where it has finished none since (seconds); "
        "null while paused."
    )
    lanes_held: dict[str, int] = Field(description="Lanes that wait for a fault, by failure class; see `/v1/lanes`.")
    publish_failing: list[FailingWritesDocument] = Field(
        description="The topics that Kafka takes no record for, the one of the longest standing first."
    )
    calls_kept_back_s: float | None = Field(
        description="For how long no call has been made because the consumer group does not confirm that this replica's partitions "
        "are still its own (seconds); null while it does."
    )
    commands_too_new: list[str] = Field(
        description="The first command of each partition that a newer release wrote, as topic/partition/offset. It is left for one to work."
    )
    dead_letters_stopped: str | None = Field(
        description="Why no dead letter is written any more until a restart; null while they are."
    )
    registry: RegistryDocument | None
    consumers: list[ConsumerDocument]


def status_routes(status: Callable[[], StatusDocument]) -> APIRouter:
    """`/v1/status`, for an app that guards it."""
    routes = guarded_routes("/status", tag="operations")

    @routes.get(
        "",
        name="status",
        response_model=StatusDocument,
        response_description="The replica as it stands.",
        responses=guarded(),
    )
    async def show() -> JSONResponse:
        """See how the replica that answers does. Answered from memory, also while Kafka and AWS are away."""
        return JSONResponse(status().model_dump(), headers={"Cache-Control": "no-store"})

    return routes
