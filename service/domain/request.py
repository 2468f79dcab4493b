"""A manual request: the log groups that somebody asked for, and what has become of each.

Its records live on a topic that every replica reads whole, so that any of them can answer, also after the one that took the request
is gone. They arrive in any order and more than once: what the book says depends only on which records it has seen.
"""

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, assert_never

from service.domain.log_group import InvalidIdentityError, LogGroup
from service.domain.outcome import State
from service.domain.timestamp import END_OF_TIME_MS, timestamp

MAX_LOG_GROUPS: Final = 1500  # of one request: names of 512 characters make a record of 0.8 MB, and brokers take 1 MB
ENTROPY_BYTES: Final = 10  # in a new id, besides 48 bits of time

_WIRE_VERSION: Final = 1
_BASE32: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's, as in a ULID
_ID: Final = re.compile(rf"req-[{_BASE32}]{{26}}\Z")


class MalformedRequestRecordError(ValueError):
    """Bytes on the requests topic that are no record of ours."""


def new_request_id(at_ms: int, entropy: bytes) -> str:
    """An id that sorts by time (ms since 1970) and cannot be guessed: a ULID in lower case. `entropy` is ENTROPY_BYTES long."""
    return _id_of(at_ms.to_bytes(6) + entropy)


def repeated_request_id(caller: str, idempotency_key: str) -> str:
    """The id of every request that this caller makes under this key, on whichever replica."""
    return _id_of(hashlib.sha256(json.dumps([caller, idempotency_key]).encode()).digest()[:16])


def is_request_id(text: str) -> bool:
    """Whether some replica could have given this id."""
    return _ID.match(text) is not None


def _id_of(value: bytes) -> str:
    number = int.from_bytes(value)
    return "req-" + "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAccepted:
    """Who asked for which log groups, each named once, and when (ms since 1970). Written when the command of each is: an outcome may
    come before it.
    """

    id: str
    accepted_at_ms: int
    log_groups: tuple[LogGroup, ...]
    caller: str

    def to_bytes(self) -> bytes:
        log_groups = [str(g) for g in self.log_groups]
        return _encoded(
            {"kind": "accepted", "id": self.id, "at": self.accepted_at_ms, "by": self.caller, "log_groups": log_groups}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutcome:
    """What became of one log group of a request at `at_ms` (ms since 1970); `outcome` is `Outcome.as_dict()`."""

    id: str
    at_ms: int
    outcome: Mapping[str, Any]

    @property
    def log_group(self) -> LogGroup:
        return LogGroup.of(self.outcome.get("account"), self.outcome.get("region"), self.outcome.get("log_group"))

    @property
    def is_final(self) -> bool:
        """Whether this is the last word; a state that only a newer release knows counts as one."""
        return bool(self.outcome["state"] != State.DEFERRED)

    def is_due_by(self, at_ms: float) -> bool:
        """Whether a deferred log group is tried again by then (ms since 1970), as far as it says when."""
        retry_in_s = self.outcome.get("retry_in_s")
        return not isinstance(retry_in_s, int | float) or self.at_ms + retry_in_s * 1000 <= at_ms

    def to_bytes(self) -> bytes:
        return _encoded({"kind": "outcome", "id": self.id, "at": self.at_ms, "outcome": dict(self.outcome)})


RequestRecord = RequestAccepted | RequestOutcome


def record_from_bytes(value: bytes | None) -> RequestRecord:
    """Read a record of the requests topic. Raises MalformedRequestRecordError for anything else, whatever the bytes."""
    try:
        body = json.loads(value or b"")
        _encoded(body)  # refuses what JSON cannot carry on to a caller: infinities, half surrogate pairs
    except (ValueError, RecursionError) as e:
        raise MalformedRequestRecordError(f"not JSON: {e}") from e
    if not isinstance(body, dict) or body.get("v") != _WIRE_VERSION:
        raise MalformedRequestRecordError("not a version that this release reads")
    try:
        match body:
            case {
                "kind": "accepted",
                "id": str(id_),
                "at": int(at_ms),
                "by": str(caller),
                "log_groups": [_, *_] as names,
            }:
                log_groups = tuple(dict.fromkeys(_log_group(name) for name in names))
                record: RequestRecord = RequestAccepted(
                    id=id_, accepted_at_ms=at_ms, log_groups=log_groups, caller=caller
                )
            case {"kind": "outcome", "id": str(id_), "at": int(at_ms), "outcome": {"state": str()} as outcome}:
                record = RequestOutcome(id=id_, at_ms=at_ms, outcome=outcome)
                _ = record.log_group
            case _:
                raise MalformedRequestRecordError("neither an acceptance nor an outcome")
    except InvalidIdentityError as e:
        raise MalformedRequestRecordError(str(e)) from e
    if not is_request_id(id_) or not 0 <= at_ms < END_OF_TIME_MS:
        raise MalformedRequestRecordError("the id or the time is not one of ours")
    return record


def _encoded(body: Any) -> bytes:
    if isinstance(body, dict):
        body = {"v": _WIRE_VERSION} | body
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _log_group(text: Any) -> LogGroup:
    """Read back str(LogGroup); no part of it can contain a colon."""
    account, region, name = [*str(text).split(":"), "", ""][:3]
    return LogGroup.of(account, region, name)


class RequestState(StrEnum):
    """Where a request, or a log group of it that has no outcome yet, stands."""

    PENDING = "pending"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """A request as it stands: `outcomes` of those log groups that have one."""

    accepted: RequestAccepted
    outcomes: Mapping[LogGroup, RequestOutcome]

    @property
    def id(self) -> str:
        return self.accepted.id

    @property
    def log_groups(self) -> Sequence[LogGroup]:
        return self.accepted.log_groups

    @property
    def state(self) -> RequestState:
        """DONE when every log group has had its last word."""
        is_done = self.is_answered and all(self.outcomes[g].is_final for g in self.log_groups)
        return RequestState.DONE if is_done else RequestState.PENDING

    @property
    def is_answered(self) -> bool:
        """Whether every log group has an outcome. A deferred one is an answer, though it comes back later."""
        return not self.unanswered

    def may_change_by(self, at_ms: float) -> bool:
        """Whether more may be known by then (ms since 1970): an outcome is outstanding, or a deferred log group comes due."""
        if not self.is_answered:
            return True
        outcomes = (self.outcomes[g] for g in self.log_groups)
        return any(outcome.is_due_by(at_ms) for outcome in outcomes if not outcome.is_final)

    @property
    def unanswered(self) -> list[LogGroup]:
        """The log groups without an outcome, in the request's order."""
        return [g for g in self.log_groups if g not in self.outcomes]

    def as_dict(self) -> dict[str, Any]:
        """The status as the REST API shows it, log groups in the request's order."""
        log_groups = [self._shown(g) for g in self.log_groups]
        return {
            "id": self.id,
            "state": self.state.value,
            "caller": self.accepted.caller,
            "accepted_at": timestamp(self.accepted.accepted_at_ms),
            "counts": dict(Counter(g["state"] for g in log_groups)),
            "log_groups": log_groups,
        }

    def _shown(self, log_group: LogGroup) -> Mapping[str, Any]:
        if (outcome := self.outcomes.get(log_group)) is not None:
            return outcome.outcome
        return {
            "account": log_group.account,
            "region": log_group.region,
            "log_group": log_group.name,
            "state": RequestState.PENDING.value,
        }


class RequestBook:
    """What is known of recent requests. Holds `capacity` log groups and outcomes in all; past that the oldest request is forgotten."""

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._pages: dict[str, _Page] = {}
        self._by_age: list[tuple[int, str]] = []  # a heap of the pages: oldest first

    def __len__(self) -> int:
        return len(self._pages)

    def apply(self, record: RequestRecord) -> None:
        """Take a record in; a repeat changes nothing, and neither does the order in which records come."""
        page = self._pages.get(record.id)
        if page is None:
            page = self._pages[record.id] = _Page()
            at_ms = record.accepted_at_ms if isinstance(record, RequestAccepted) else record.at_ms
            heapq.heappush(self._by_age, (at_ms, record.id))
        self._held -= page.size
        page.apply(record)
        self._held += page.size
        while self._held > self._capacity and len(self._pages) > 1:
            _, oldest = heapq.heappop(self._by_age)
            self._held -= self._pages.pop(oldest).size

    def find(self, request_id: str) -> RequestStatus | None:
        """The request as it stands; None when its acceptance has not been seen, or is forgotten."""
        page = self._pages.get(request_id)
        if page is None or page.accepted is None:
            return None
        return RequestStatus(page.accepted, dict(page.outcomes))

    def is_answered(self, request_id: str) -> bool:
        """Whether `find` would give an answered request; cheap enough to ask after every record."""
        page = self._pages.get(request_id)
        if page is None or page.accepted is None or len(page.outcomes) < len(page.accepted.log_groups):
            return False
        return all(g in page.outcomes for g in page.accepted.log_groups)


class _Page:
    """The records of one request. An outcome may be here before the acceptance is."""

    __slots__ = ("accepted", "outcomes")

    def __init__(self) -> None:
        self.accepted: RequestAccepted | None = None
        self.outcomes: dict[LogGroup, RequestOutcome] = {}

    @property
    def size(self) -> int:
        return len(self.outcomes) + (0 if self.accepted is None else len(self.accepted.log_groups))

    def apply(self, record: RequestRecord) -> None:
        match record:
            case RequestAccepted():
                # Two acceptances differ when one idempotency key was used twice at once: the first one stands.
                if self.accepted is None or _age(record) < _age(self.accepted):
                    self.accepted = record
            case RequestOutcome():
                held = self.outcomes.get(record.log_group)
                if held is None or _precedence(record) > _precedence(held):
                    self.outcomes[record.log_group] = record
            case _:
                assert_never(record)


def _age(record: RequestAccepted) -> tuple[int, Sequence[LogGroup]]:
    return record.accepted_at_ms, record.log_groups


def _precedence(record: RequestOutcome) -> tuple[bool, int, bytes]:
    """A last word stands over a deferral, the later one over the earlier; the bytes decide between two of one millisecond."""
    return record.is_final, record.at_ms, _encoded(dict(record.outcome))
