"""From a source record's bytes to ensure commands: every event shape that Logwarden accepts, and nothing that can raise.

Two stages: `_unwrap` knows the envelopes and finds the innermost objects in them; `_command` reads one such object, which is a
CloudTrail record or our own flat event. A new envelope is one more case in `_unwrap`. Nothing here decides whose a group is: what
an event says about the tenant is not looked at.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.log_group import InvalidIdentityError, LogGroup, account_id, key_arn, region_name

_T = TypeVar("_T")

MAX_REASON_LENGTH: Final = 200  # characters; a reason goes into a record header and a log line

_LOGS_SOURCE: Final = "logs.amazonaws.com"
# How EventBridge ends the detail-type of each event that carries a CloudTrail record.
_VIA_CLOUDTRAIL: Final = " via CloudTrail"
_TRIGGERS: Final = {
    "CreateLogGroup": Trigger.CREATED,
    "AssociateKmsKey": Trigger.KEY_ASSOCIATED,
    "DisassociateKmsKey": Trigger.KEY_DISASSOCIATED,
    "TagResource": Trigger.TAGGED,
    "UntagResource": Trigger.TAGGED,
    "TagLogGroup": Trigger.TAGGED,
    "UntagLogGroup": Trigger.TAGGED,
}
# These name an API call too, but report no call that changed anything: traffic through a VPC endpoint, and unusual call rates.
_OTHER_CATEGORIES: Final = ("NetworkActivity", "Insight")

# The batches that Lambda gets (SQS, Kinesis, S3, ...) name their source in the same field as CloudTrail, but not in its way.
_LAMBDA_SOURCE_PREFIX: Final = "aws:"

# Envelopes and string encodings in each other: several times what any real chain of services makes.
_MAX_DEPTH: Final = 10

# What AWS itself allows; the bound keeps 100,000 waiting commands small whatever a sender writes.
_MAX_TAGS: Final = 50
_MAX_TAG_KEY_LENGTH: Final = 128  # characters
_MAX_TAG_VALUE_LENGTH: Final = 256
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

# The ARN of something else in CloudWatch Logs that has tags or a key: query-result, destination, delivery, anomaly-detector, ...
_OTHER_LOGS_ARN: Final = re.compile(r"arn:aws[a-z-]*:logs:[^:]*:[^:]*:(?!log-group:)")

# For the first look at the bytes.
_LOGS_SOURCE_BYTES: Final = _LOGS_SOURCE.encode()
_SOURCE_KEY: Final = b'"eventSource"'
_SOURCE_VALUE: Final = re.compile(rb'\s*:\s*"([a-z0-9.-]+\.amazonaws\.com(?:\.cn)?)"')
# Parts of names, since every look costs: CreateLogGroup, (Dis)associateKmsKey, (Un)tagResource, (Un)tagLogGroup.
_RELEVANT_NAMES: Final = (b"CreateLogGroup", b"ssociateKmsKey", b"agResource", b"agLogGroup")


@dataclass(frozen=True, slots=True)
class Problem:
    """What makes a record malformed: a JSON path such as `detail.requestParameters.logGroupName`, and a sentence."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one source record asks for, and what in it cannot be read. Neither: the record is irrelevant.

    One bad entry among good ones gives both: the commands are to be worked, and the record is to be dead-lettered.
    """

    commands: tuple[EnsureCommand, ...] = ()
    problems: tuple[Problem, ...] = ()


def is_surely_irrelevant(value: bytes) -> bool:
    """Tell from the raw bytes, at a fraction of the cost of a parse, that a whole CloudTrail record asks for nothing.

    Sound, not complete: False means "parse it". The one `eventSource` in the bytes decides, so bytes that hold several, or that
    may spell a name otherwise (a Unicode escape, JSON within a JSON string), are parsed. What is cut off is parsed too: its
    braces do not balance.
    """
    at = value.find(_SOURCE_KEY)
    source = _SOURCE_VALUE.match(value, at + len(_SOURCE_KEY)) if at >= 0 else None
    return (
        source is not None
        and (source[1] != _LOGS_SOURCE_BYTES or not any(name in value for name in _RELEVANT_NAMES))
        and value.startswith(b"{")
        and value.rstrip().endswith(b"}")
        and (b"\\" not in value or not (b"\\u" in value or b"eventSource\\" in value))
        and value.find(_SOURCE_KEY, source.end()) < 0
        and b"log-group-created" not in value
        and value.count(b"{") == value.count(b"}")
    )


def parse_event(value: bytes | None, *, accepted_at_ms: int, origin: Origin | None) -> Parsed:
    """Read one source record; never raises, whatever the bytes. `accepted_at_ms` is when it entered Kafka (ms since the epoch)."""
    commands: list[EnsureCommand] = []
    problems: list[Problem] = []
    for found in _unwrap(value, _Envelope()):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        try:
            command = _command(found, accepted_at_ms, origin)
        except _UnusableError as e:
            problems.append(e.problem)
        else:
            if command is not None:
                commands.append(command)
    return Parsed(tuple(commands), tuple(problems))


class _UnusableError(Exception):
    """The object at hand cannot be read; ends this one and no other."""

    def __init__(self, field: str, reason: str) -> None:
        cut = reason if len(reason) <= MAX_REASON_LENGTH else f"{reason[: MAX_REASON_LENGTH - 3]}..."
        super().__init__(cut)
        self.problem = Problem(field or "value", cut)


@dataclass(frozen=True, slots=True)
class _Envelope:
    """Where in the value we are, how deep, and the fields that the envelopes around stated, as (path, value)."""

    path: str = ""
    depth: int = 0
    account: tuple[str, Any] = ("account", None)
    region: tuple[str, Any] = ("region", None)

    def to(self, field: str) -> str:
        return f"{self.path}.{field}" if self.path else field

    def inside(self, field: str) -> "_Envelope":
        return replace(self, path=self.to(field), depth=self.depth + 1)

    def of_eventbridge(self, event: dict[str, Any]) -> "_Envelope":
        account, region = (self.to("account"), event.get("account")), (self.to("region"), event.get("region"))
        return replace(self.inside("detail"), account=account, region=region)


@dataclass(frozen=True, slots=True)
class _Found:
    """An innermost object: a CloudTrail record or our own event."""

    body: dict[str, Any]
    envelope: _Envelope

    def field(self, name: str) -> tuple[str, Any]:
        """A field's path and value; the value is None where it is absent."""
        return self.envelope.to(name), self.body.get(name)

    def object(self, name: str) -> "_Found":
        """An object inside this one, given as such or as a JSON string. Raises _UnusableError."""
        path, value = self.field(name)
        if isinstance(value, str):
            value = _json(value, path)
        if not isinstance(value, dict):
            raise _UnusableError(path, f"is not an object but {_kind(value)}")
        return _Found(value, self.envelope.inside(name))


# -- envelopes


def _unwrap(value: Any, envelope: _Envelope) -> Iterator[_Found | Problem]:
    """Every innermost object, however wrapped. One that cannot be read leaves its neighbours alone."""
    try:
        yield from _opened(value, envelope)
    except _UnusableError as e:
        yield e.problem


def _opened(value: Any, envelope: _Envelope) -> Iterator[_Found | Problem]:
    """The one place that knows the envelopes. Raises _UnusableError."""
    if envelope.depth > _MAX_DEPTH:
        raise _UnusableError(envelope.path, f"more than {_MAX_DEPTH} envelopes in each other")
    match value:
        case bytes() | str():
            yield from _opened(_json(value, envelope.path), replace(envelope, depth=envelope.depth + 1))
        case {"source": str(source), "detail": detail}:
            if source == "aws.logs" and _carries_cloudtrail(value.get("detail-type")):
                yield from _opened(detail, envelope.of_eventbridge(value))
        case {"Records": list(records)}:
            for index, record in enumerate(records):
                yield from _unwrap(record, envelope.inside(f"Records[{index}]"))
        case {"eventSource": str(source), "eventName": str()} if not source.startswith(_LAMBDA_SOURCE_PREFIX):
            yield _Found(value, envelope)
        case {"type": "log-group-created"}:
            yield _Found(value, envelope)
        case {"eventType": "AwsCloudTrailInsight"}:
            pass  # what it counts was reported call by call
        case _:
            raise _UnusableError(envelope.path, f"is none of the accepted event shapes but {_kind(value)}")


def _carries_cloudtrail(detail_type: Any) -> bool:
    return detail_type is None or (isinstance(detail_type, str) and detail_type.endswith(_VIA_CLOUDTRAIL))


def _json(text: str | bytes, path: str) -> Any:
    try:
        return json.loads(text.decode().removeprefix("\ufeff") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as e:
        raise _UnusableError(path, f"is not JSON: {e}") from e


def _kind(value: Any) -> str:
    """What a value is, for an error text: never the value itself, which may be large, deep or secret."""
    match value:
        case None:
            return "null"
        case dict():
            keys = ", ".join(repr(key[:30]) for key in list(value)[:6])
            return f"an object with {keys}{', ...' if len(value) > 6 else ''}" if value else "an empty object"
        case list():
            return "a list"
        case str():
            return "a string"
        case _:
            return f"a {type(value).__name__}"


# -- the objects in them


def _command(found: _Found, accepted_at_ms: int, origin: Origin | None) -> EnsureCommand | None:
    """The command that one object asks for, or None. Raises _UnusableError."""
    match found.body:
        case {"eventSource": str(source), "eventName": str(name)}:
            trigger = _TRIGGERS.get(name) if source == _LOGS_SOURCE else None
            return None if trigger is None else _from_cloudtrail(found, trigger, accepted_at_ms, origin)
        case _:
            return _from_own_event(found, accepted_at_ms, origin)


def _from_own_event(event: _Found, accepted_at_ms: int, origin: Origin | None) -> EnsureCommand:
    account = _agreed([event.field("account"), event.envelope.account], account_id)
    region = _agreed([event.field("region"), event.envelope.region], region_name)
    path, name = event.field("log_group")
    return EnsureCommand(
        log_group=_checked(path, name, lambda value: LogGroup.of(account, region, value)),
        trigger=Trigger.CREATED,
        accepted_at_ms=accepted_at_ms,
        origin=origin,
        tags=_tags(*event.field("tags")),
        shown_key=_shown_key(*event.field("kms_key_id")),
    )


def _from_cloudtrail(
    record: _Found, trigger: Trigger, accepted_at_ms: int, origin: Origin | None
) -> EnsureCommand | None:
    """Read a CloudTrail record, eventVersion 1.x: a minor version only adds fields."""
    has_failed = record.body.get("errorCode") not in (None, "", "null")
    if has_failed or record.body.get("eventCategory") in _OTHER_CATEGORIES:
        return None
    path, version = record.field("eventVersion")
    if version is not None and not (isinstance(version, str) and version.startswith("1.")):
        raise _UnusableError(path, "is not 1.x, the version of CloudTrail records that this release reads")
    parameters = record.object("requestParameters")
    log_group = _log_group(record, parameters)
    if log_group is None:
        return None
    tags, shown_key = None, None
    match trigger:
        case Trigger.CREATED:
            tags = _tags(*parameters.field("tags"))
            shown_key = _shown_key(*parameters.field("kmsKeyId"), absent="")
        case Trigger.KEY_ASSOCIATED:
            shown_key = _shown_key(*parameters.field("kmsKeyId"))
        case Trigger.KEY_DISASSOCIATED:
            shown_key = ""
        case _:
            pass  # a change of tags shows a part of them, and nothing of the key
    return EnsureCommand(
        log_group=log_group,
        trigger=trigger,
        accepted_at_ms=accepted_at_ms,
        origin=origin,
        tags=tags,
        shown_key=shown_key,
    )


def _log_group(record: _Found, parameters: _Found) -> LogGroup | None:
    """The group that the call names, or None where it names something else. Whatever states an account or a Region must agree."""
    accounts = [record.field("recipientAccountId"), record.envelope.account]
    regions = [record.field("awsRegion"), record.envelope.region]
    names = [parameters.field("logGroupName")]
    for field in ("resourceIdentifier", "resourceArn"):
        path, arn = parameters.field(field)
        if arn is None:
            continue
        if isinstance(arn, str) and _OTHER_LOGS_ARN.match(arn):
            return None
        identified = _checked(path, arn, LogGroup.from_arn)
        accounts.append((path, identified.account))
        regions.append((path, identified.region))
        names.append((path, identified.name))
    caller = record.body.get("userIdentity")
    if all(account is None for _, account in accounts) and isinstance(caller, dict):
        # The caller's account, where nothing else is stated: a caller from another account would be stated apart.
        accounts.append((record.envelope.to("userIdentity.accountId"), caller.get("accountId")))
    account = _agreed(accounts, account_id)
    region = _agreed(regions, region_name)
    return _agreed(names, lambda name: LogGroup.of(account, region, name))


def _agreed(claims: Sequence[tuple[str, Any]], check: Callable[[Any], _T]) -> _T:
    """The checked value of several (path, value) that must say the same; None says nothing. Raises _UnusableError."""
    given = [(path, _checked(path, value, check)) for path, value in claims if value is not None]
    if not given:
        raise _UnusableError(claims[0][0], "is missing")
    first_path, agreed = given[0]
    for path, value in given[1:]:
        if value != agreed:
            raise _UnusableError(path, f"{value} contradicts {first_path}, {agreed}")
    return agreed


def _checked(path: str, value: Any, check: Callable[[Any], _T]) -> _T:
    if not isinstance(value, str):
        raise _UnusableError(path, "is missing" if value is None else f"is not a string but {_kind(value)}")
    try:
        return check(value)
    except InvalidIdentityError as e:
        raise _UnusableError(path, str(e)) from e


def _shown_key(path: str, value: Any, *, absent: str | None = None) -> str | None:
    """The key that the event proves the group to have. An id or an alias proves one, but not which: None."""
    if value is None:
        return absent
    if not isinstance(value, str):
        raise _UnusableError(path, f"is not a string but {_kind(value)}")
    try:
        return key_arn(value) if value else ""
    except InvalidIdentityError:
        return None


def _tags(path: str, value: Any) -> Mapping[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _UnusableError(path, f"is not a map of strings but {_kind(value)}")
    if len(value) > _MAX_TAGS:
        raise _UnusableError(path, f"has {len(value)} tags; AWS allows {_MAX_TAGS}")
    for key, text in value.items():
        if not (_is_text(key, _MAX_TAG_KEY_LENGTH) and _is_text(text, _MAX_TAG_VALUE_LENGTH)):
            raise _UnusableError(path, f"has a tag that AWS would not accept: {key[:40]!r}")
    return value


def _is_text(value: Any, max_length: int) -> bool:
    """Whether this is a string that can be written as UTF-8: JSON can spell half a surrogate pair, and UTF-8 cannot."""
    return isinstance(value, str) and len(value) <= max_length and not _SURROGATE.search(value)
