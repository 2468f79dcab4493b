"""A sweep: every log group of some lanes is looked at, and those that are not under their tenant's key are ensured.

It is asked for with one command a lane, on the work topic, so that each lane's owner does its own part under the lane's own quotas.
What becomes of the parts is told on the requests topic, which every replica reads whole.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from service.domain.command import EnsureCommand, MalformedCommandError, Priority, wrong_version
from service.domain.log_group import InvalidIdentityError, Lane, TenantId, account_id, region_name
from service.domain.request import new_request_id, repeated_request_id
from service.domain.timestamp import END_OF_TIME_MS
from service.domain.verify import VerifyCommand

MAX_LANES: Final = 40_000  # of one sweep: 15 bytes each in its first record, and brokers take 1 MB
# Of one lane that are named in the reports, those of the most log groups; each outcome names its own.
MAX_OLD_KEYS: Final = 20

# Not the number of other commands: a release without sweeps is to call the record too new.
_WIRE_VERSION: Final = "sweep-1"
_COMMAND: Final = b'{"kind":"sweep",'
_RECORD: Final = b'{"kind":"sweep-'
_MAX_BYTES: Final = 4096  # of a command
_ID: Final = re.compile(r"swp-[0-9a-hjkmnp-tv-z]{26}\Z")


def new_sweep_id(at_ms: int, entropy: bytes) -> str:
    """An id as requests have it: it sorts by time and cannot be guessed."""
    return f"swp-{new_request_id(at_ms, entropy)[4:]}"


def repeated_sweep_id(caller: str, occasion: str) -> str:
    """The id of every sweep that this caller asks for on this occasion, on whichever replica."""
    return f"swp-{repeated_request_id(caller, occasion)[4:]}"


def is_sweep_id(text: str) -> bool:
    """Whether some replica could have given this id."""
    return _ID.match(text) is not None


# -- on the work topic


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCommand:
    """Sweep one lane. With a `tenant`, ensure only its log groups; `key` is what the tenant's key there is by the registry of whoever asks.

    `asked_at_ms` is in ms since 1970. In its lane it stands beside the log groups, one place for each sweep.
    """

    lane: Lane
    sweep_id: str
    asked_at_ms: int
    tenant: TenantId | None = None
    key: str | None = None

    @property
    def queue_key(self) -> str:
        """What tells it from all else in its lane: no log group's name has a space."""
        return f"sweep {self.sweep_id}"

    @property
    def priority(self) -> Priority:
        return Priority.SWEEP

    @property
    def partition_key(self) -> bytes:
        """The record key of every command of the lane."""
        return str(self.lane).encode()

    def to_bytes(self) -> bytes:
        body: dict[str, Any] = {
            "kind": "sweep",
            "v": _WIRE_VERSION,
            "account": self.lane.account,
            "region": self.lane.region,
            "id": self.sweep_id,
            "at": self.asked_at_ms,
        }
        if self.tenant is not None:
            body["tenant"] = self.tenant
        if self.key is not None:
            body["key"] = self.key
        return _encoded(body)

    @classmethod
    def from_bytes(cls, value: bytes) -> "SweepCommand":
        """Read a command back. Raises MalformedCommandError for anything else, whatever the bytes."""
        if len(value) > _MAX_BYTES:
            raise MalformedCommandError("value", f"{len(value)} bytes; a sweep has {_MAX_BYTES} at most")
        try:
            match _decoded(value):
                case {"account": account, "region": region, "id": str(id_), "at": int(at_ms)} as body:
                    return cls(
                        lane=_lane(account, region),
                        sweep_id=_sweep_id(id_),
                        asked_at_ms=_time_ms(at_ms),
                        tenant=_tenant(body.get("tenant")),
                        key=_optional_text(body.get("key")),
                    )
                case _:
                    raise MalformedCommandError("value", "not all the fields of a sweep")
        except InvalidIdentityError as e:
            raise MalformedCommandError(e.field, str(e)) from e
        except ValueError as e:
            raise e if isinstance(e, MalformedCommandError) else MalformedCommandError("value", str(e)) from e


Command = EnsureCommand | SweepCommand | VerifyCommand  # all that a lane takes


def is_sweep(value: bytes | None) -> TypeGuard[bytes]:
    """Whether a record of the work topic says that it is a sweep."""
    return value is not None and value.startswith(_COMMAND)


# -- on the requests topic


class MalformedSweepRecordError(ValueError):
    """Bytes on the requests topic that say they are of a sweep, and are no record of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepAsked:
    """Who asked for a sweep of which lanes, and when (ms since 1970). Written last: whoever reads it knows that every lane's command is.

    `keys` is a digest of the keys that the groups are under, or will be by a sweep, for one that the service itself asks for; empty for
    anybody else's.
    """

    id: str
    asked_at_ms: int
    caller: str
    lanes: tuple[Lane, ...]
    tenant: TenantId | None = None
    keys: str = ""

    def to_bytes(self) -> bytes:
        accounts: defaultdict[str, list[str]] = defaultdict(list)
        for lane in self.lanes:
            accounts[lane.region].append(lane.account)
        body = {"kind": "sweep-asked", "v": _WIRE_VERSION, "id": self.id, "at": self.asked_at_ms, "by": self.caller}
        return _encoded(body | {"tenant": self.tenant, "keys": self.keys, "lanes": accounts})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneReport:
    """How far one lane has come at `at_ms` (ms since 1970).

    `counts` are log groups by what became of them: a state of the outcome, `other-tenant`, or where no key may be used the failure
    class. `old_keys` counts those that were under another key than their tenant's. `failure` is the class and detail of what ended
    the sweep of the lane before its end.
    """

    id: str
    lane: Lane
    at_ms: int
    is_done: bool
    counts: Mapping[str, int] = field(default_factory=dict)
    old_keys: Mapping[str, int] = field(default_factory=dict)
    failure: tuple[str, str] | None = None

    def to_bytes(self) -> bytes:
        body = {"kind": "sweep-lane", "v": _WIRE_VERSION, "id": self.id, "at": self.at_ms, "done": self.is_done}
        body |= {"account": self.lane.account, "region": self.lane.region}
        return _encoded(body | {"counts": self.counts, "old_keys": self.old_keys, "failure": self.failure})


SweepRecord = SweepAsked | LaneReport


def is_sweep_record(value: bytes) -> bool:
    """Whether a record of the requests topic says that it is of a sweep."""
    return value.startswith(_RECORD)


def sweep_record_from_bytes(value: bytes) -> SweepRecord:
    """Read a record back. Raises MalformedSweepRecordError for anything else, whatever the bytes."""
    try:
        match _decoded(value):
            case {"kind": "sweep-asked", "id": str(id_), "at": int(at_ms), "by": str(by), "lanes": dict(lanes)} as body:
                return SweepAsked(
                    id=_sweep_id(id_),
                    asked_at_ms=_time_ms(at_ms),
                    caller=by,
                    lanes=tuple(_lanes(lanes)),
                    tenant=_tenant(body.get("tenant")),
                    keys=_optional_text(body.get("keys")) or "",
                )
            case {
                "kind": "sweep-lane",
                "id": str(id_),
                "at": int(at_ms),
                "done": bool(is_done),
                "account": account,
                "region": region,
                "counts": dict(counts),
                "old_keys": dict(old_keys),
            } as body:
                return LaneReport(
                    id=_sweep_id(id_),
                    lane=_lane(account, region),
                    at_ms=_time_ms(at_ms),
                    is_done=is_done,
                    counts=_counts(counts),
                    old_keys=_counts(old_keys),
                    failure=_failure(body.get("failure")),
                )
            case _:
                raise MalformedSweepRecordError("neither a sweep that is asked for nor the report of a lane")
    except ValueError as e:
        raise e if isinstance(e, MalformedSweepRecordError) else MalformedSweepRecordError(str(e)) from e


# -- reading and writing


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _decoded(value: bytes) -> Any:
    try:
        body = json.loads(value)
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()  # refuses what JSON cannot carry on to a caller
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if not isinstance(body, dict):
        raise MalformedCommandError("value", "not a JSON object")
    if body.get("v") != _WIRE_VERSION:
        raise wrong_version(body, ours=_WIRE_VERSION)
    return body


def _lane(account: object, region: object) -> Lane:
    return Lane(account_id(account), region_name(region))


def _lanes(by_region: Mapping[str, object]) -> Iterator[Lane]:
    for region, accounts in by_region.items():
        match accounts:
            case [*_]:
                yield from (_lane(account, region) for account in accounts)
            case _:
                raise ValueError("accounts are not a list")


def _sweep_id(text: str) -> str:
    if not is_sweep_id(text):
        raise ValueError("the id is not one of ours")
    return text


def _time_ms(value: int) -> int:
    if type(value) is not int or not 0 <= value < END_OF_TIME_MS:
        raise ValueError("the time is not one of ours")
    return value


def _optional_text(value: object) -> str | None:
    match value:
        case str() | None:
            return value
        case _:
            raise ValueError("what should be text is not")


def _tenant(value: object) -> TenantId | None:
    text = _optional_text(value)
    return None if text is None else TenantId(text)


def _counts(value: Mapping[str, object]) -> Mapping[str, int]:
    counts = {name: number for name, number in value.items() if type(number) is int and 0 <= number < 2**63}
    if len(counts) < len(value):
        raise ValueError("a count is not a number")
    return counts


def _failure(value: object) -> tuple[str, str] | None:
    match value:
        case None:
            return None
        case [str(label), str(detail)]:
            return label, detail
        case _:
            raise ValueError("the failure is not its class and detail")
