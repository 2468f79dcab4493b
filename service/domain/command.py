"""The one command, *ensure log group G*, and its form on the work, retry and dead-letter topics.

The command names no key: the key is looked up when the command is worked, so a duplicate, a replay or two commands in the wrong
order do no harm.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Any, Final, TypeGuard

from service.domain.log_group import InvalidIdentityError, Lane, LogGroup, TenantId, account_id, region_name

_WIRE_VERSION: Final = 1
# Half of what a broker takes: whatever we write of a command has to fit, headers and all.
_MAX_BYTES: Final = 512 * 1024
# On a command that is written: 10 kB of them. Requests accumulate on a command that stays deferred, and each deferral answers every one.
MAX_REQUEST_IDS: Final = 300
MAX_CALLER_LENGTH: Final = 256  # characters: an assumed role's ARN and a tool's name; it goes into a log line
_INTEGER_LIMIT: Final = 2**63  # Kafka's own offsets and times are of 64 bits
_KINDS: Final = {"sweep": 1}  # what else is on the work topic, and its version
_OF_A_KIND: Final = re.compile(r"(?P<name>[a-z]{1,30})-(?P<number>[1-9][0-9]{0,2})\Z")
_MOST_VERSIONS: Final = 1000
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)  # json.dumps would make one each time
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Trigger(StrEnum):
    """What made somebody look at the log group."""

    CREATED = "created"
    KEY_ASSOCIATED = "key-associated"
    KEY_DISASSOCIATED = "key-disassociated"
    TAGGED = "tagged"
    DELETED = "deleted"
    REQUEST = "request"
    SWEEP = "sweep"
    VERIFY = "verify"


_UNHURRIED: Final = (Trigger.SWEEP, Trigger.VERIFY, Trigger.DELETED)  # a tuple, since an enum hashes slowly


class Priority(IntEnum):
    """Who goes first within a lane; lower is sooner."""

    URGENT = 0  # events and REST requests: somebody waits, or data is being written unencrypted
    RETRY = 1
    SWEEP = 2


class MalformedCommandError(ValueError):
    """Bytes on the work or a retry topic that are no command of ours. `field` says what is wrong with them."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class NewerCommandError(MalformedCommandError):
    """A command that a newer release wrote, during an upgrade or before a roll-back: it is for one to work, and no mistake of anybody."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The record that first asked for this, so that an outcome or a dead letter can name it."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureCommand:
    """Ensure that one log group is under its own tenant's key.

    `accepted_at_ms` is when the trigger entered Kafka (ms since the epoch). `tags` are those the trigger showed, None where it
    showed none. `shown_key` is the key that the trigger proves the group to have, "" for none, None where it proves nothing.
    `caller` is who changed the key, and with what, as an event says it: for people, to tell who flips a contested group.
    `only_tenant` is whose log groups alone are to be ensured, None for anybody's.
    `deferrals` counts how often the command went through a retry topic, `strikes` how often of those for a failure that somebody has
    to mend: so many are allowed.
    """

    log_group: LogGroup
    trigger: Trigger
    accepted_at_ms: int
    origin: Origin | None = None
    tags: Mapping[str, str] | None = None
    shown_key: str | None = None
    caller: str | None = None
    only_tenant: TenantId | None = None
    request_ids: tuple[str, ...] = ()
    deferrals: int = 0
    strikes: int = 0

    @property
    def lane(self) -> Lane:
        return self.log_group.lane

    @property
    def queue_key(self) -> str:
        """What tells it from all else in its lane."""
        return self.log_group.name

    @property
    def priority(self) -> Priority:
        if self.trigger in _UNHURRIED:
            return Priority.SWEEP
        return Priority.RETRY if self.deferrals else Priority.URGENT

    @property
    def partition_key(self) -> bytes:
        """The record key that brings every command of one lane to one partition, and so to one replica: its Lane, in fewer steps."""
        return f"{self.log_group.account}:{self.log_group.region}".encode()

    def merged(self, later: "EnsureCommand") -> "EnsureCommand":
        """One command that does the work of both, `later` being the one that arrived second; as urgent as the more urgent of them.

        Since their order is not known, two triggers prove nothing about the key or the tags together, unless both show the same of the
        two: a group's creation that shows the key of a later event would pass for one that shows all there is to know.
        """
        first = min(self, later, key=lambda c: c.accepted_at_ms)
        show_the_same = (self.tags, self.shown_key) == (later.tags, later.shown_key)
        # A deletion asks for nothing by itself: whoever it joins looks before they act, and stays who they are.
        return replace(
            min(self, later, key=lambda c: (c.trigger is Trigger.DELETED, c.priority, c.deferrals, c.strikes)),
            accepted_at_ms=first.accepted_at_ms,
            origin=first.origin,
            tags=self.tags if self.tags == later.tags else None,
            shown_key=self.shown_key if show_the_same else None,
            caller=self.caller if later.caller is None else later.caller,
            only_tenant=self.only_tenant if self.only_tenant == later.only_tenant else None,
            request_ids=tuple(dict.fromkeys(self.request_ids + later.request_ids)),
        )

    def deferred(self, *, is_strike: bool) -> "EnsureCommand":
        """The command as it goes to a retry topic: what the event showed is out of date by the time it returns."""
        return replace(self, deferrals=self.deferrals + 1, strikes=self.strikes + is_strike, shown_key=None, tags=None)

    def to_bytes(self) -> bytes:
        """The command as JSON, small: fields at their default are left out, and so are requests beyond MAX_REQUEST_IDS.

        The writer answers those with the present outcome; they get no later one.
        """
        body: dict[str, Any] = {
            "v": _WIRE_VERSION,
            "account": self.log_group.account,
            "region": self.log_group.region,
            "log_group": self.log_group.name,
            "trigger": self.trigger.value,
            "at": self.accepted_at_ms,
        }
        if self.origin is not None:
            body["origin"] = [self.origin.topic, self.origin.partition, self.origin.offset]
        if self.tags is not None:
            body["tags"] = dict(self.tags)
        if self.shown_key is not None:
            body["shown_key"] = self.shown_key
        if self.caller is not None:
            body["caller"] = self.caller
        if self.only_tenant is not None:
            body["tenant"] = self.only_tenant
        if self.request_ids:
            body["requests"] = list(self.request_ids[:MAX_REQUEST_IDS])
        if self.deferrals:
            body["deferrals"] = self.deferrals
        if self.strikes:
            body["strikes"] = self.strikes
        return _ENCODER.encode(body).encode()

    @classmethod
    def from_bytes(cls, value: bytes | None) -> "EnsureCommand":
        """Read a command back. Raises MalformedCommandError for anything else, whatever the bytes."""
        if value is None:
            raise MalformedCommandError("value", "the record has no value")
        if len(value) > _MAX_BYTES:
            raise MalformedCommandError("value", f"{len(value)} bytes; a command has {_MAX_BYTES} at most")
        try:
            body = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise MalformedCommandError("value", f"not JSON: {e}") from e
        if not isinstance(body, dict):
            raise MalformedCommandError("value", "not a JSON object")
        if body.get("v") != _WIRE_VERSION:
            raise wrong_version(body, ours=_WIRE_VERSION)
        try:
            return cls(
                log_group=LogGroup.of(body.get("account"), body.get("region"), body.get("log_group")),
                trigger=Trigger(_text(body, "trigger")),
                accepted_at_ms=_integer(body, "at", least=-_INTEGER_LIMIT),
                origin=_origin(body.get("origin")),
                tags=_string_map(body, "tags"),
                shown_key=None if body.get("shown_key") is None else _text(body, "shown_key"),
                caller=None if body.get("caller") is None else _text(body, "caller")[:MAX_CALLER_LENGTH],
                only_tenant=None if body.get("tenant") is None else TenantId(_text(body, "tenant")),
                request_ids=_texts(body, "requests"),
                deferrals=_integer(body, "deferrals", least=0) if "deferrals" in body else 0,
                strikes=_integer(body, "strikes", least=0) if "strikes" in body else 0,
            )
        except InvalidIdentityError as e:
            raise MalformedCommandError(e.field, str(e)) from e
        except ValueError as e:
            raise e if isinstance(e, MalformedCommandError) else MalformedCommandError("trigger", str(e)) from e


def wrong_version(body: Mapping[str, Any], *, ours: object) -> MalformedCommandError:
    """The error for a body that is not of `ours`: a newer release's command, or no command.

    Every version says in `v` which it is, a number or KIND-NUMBER, and names its lane in `account` and `region`: what does neither is
    something else, and nobody needs to wait for a release that reads it.
    """
    reason = f"not of version {ours}, the one that this release reads"
    return (NewerCommandError if _is_newer(body.get("v")) and _has_lane(body) else MalformedCommandError)("v", reason)


def _has_lane(body: Mapping[str, Any]) -> bool:
    try:
        account_id(body.get("account"))
        region_name(body.get("region"))
    except InvalidIdentityError:
        return False
    return True


def _is_newer(version: object) -> bool:
    if type(version) is int:
        return _WIRE_VERSION < version < _MOST_VERSIONS
    kind = _OF_A_KIND.match(version) if isinstance(version, str) else None
    return kind is not None and int(kind["number"]) > _KINDS.get(kind["name"], 0)


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not _is_text(value):
        raise MalformedCommandError(name, f"{name} is not a string of valid Unicode")
    return value


def _integer(body: dict[str, Any], name: str, *, least: int) -> int:
    value = body.get(name)
    if not _is_integer(value) or value < least:
        raise MalformedCommandError(name, f"{name} is not a 64-bit integer of at least {least}")
    return value


def _texts(body: dict[str, Any], name: str) -> tuple[str, ...]:
    values = body.get(name, [])
    if not isinstance(values, list) or not all(map(_is_text, values)):
        raise MalformedCommandError(name, f"{name} is not a list of strings")
    return tuple(values)


def _string_map(body: dict[str, Any], name: str) -> Mapping[str, str] | None:
    values = body.get(name)
    if values is None:
        return None
    if not isinstance(values, dict) or not all(_is_text(text) for item in values.items() for text in item):
        raise MalformedCommandError(name, f"{name} is not a map of strings")
    return values


def _origin(value: Any) -> Origin | None:
    match value:
        case None:
            return None
        case [topic, partition, offset] if _is_text(topic) and _is_integer(partition) and _is_integer(offset):
            return Origin(sys.intern(topic), partition, offset)
        case _:
            raise MalformedCommandError("origin", "origin is not [topic, partition, offset]")


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether this is a string that can be written again: JSON can spell half a surrogate pair, and UTF-8 cannot."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def _is_integer(value: Any) -> TypeGuard[int]:
    """Whether this is an integer that can be reckoned with: JSON has no limit, and a bool is one to Python."""
    return type(value) is int and -_INTEGER_LIMIT <= value < _INTEGER_LIMIT
