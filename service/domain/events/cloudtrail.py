"""CloudTrail records: what a call to CloudWatch Logs changed.

The only shape that can prove a group's key (`shown_key`): AWS writes these records, while our own and custom events are their
sender's word. A record's place in an envelope is not AWS's word either; who may write to a source topic is the broker's to say.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from service.domain.command import MAX_CALLER_LENGTH, EnsureCommand, Trigger
from service.domain.events.fields import Fields, agreed, checked, kind, tags
from service.domain.events.result import Arrival, Irrelevant, UnusableError
from service.domain.log_group import InvalidIdentityError, LogGroup, account_id, key_arn, region_name

LOGS_SOURCE: Final = "logs.amazonaws.com"
TRIGGERS: Final[Mapping[str, Trigger]] = {
    "CreateLogGroup": Trigger.CREATED,
    "DeleteLogGroup": Trigger.DELETED,
    "AssociateKmsKey": Trigger.KEY_ASSOCIATED,
    "DisassociateKmsKey": Trigger.KEY_DISASSOCIATED,
    "TagResource": Trigger.TAGGED,
    "UntagResource": Trigger.TAGGED,
    "TagLogGroup": Trigger.TAGGED,
    "UntagLogGroup": Trigger.TAGGED,
}

# The batches that Lambda gets (SQS, Kinesis, S3, ...) name their source in the same field as CloudTrail, but not in its way.
_LAMBDA_SOURCE_PREFIX: Final = "aws:"
# These name an API call too, but report no call that changed anything: traffic through a VPC endpoint, and unusual call rates.
_OTHER_CATEGORIES: Final = ("NetworkActivity", "Insight")
# The ARN of something else in CloudWatch Logs that has tags or a key: query-result, destination, delivery, anomaly-detector, ...
_OTHER_LOGS_ARN: Final = re.compile(r"arn:aws[a-z-]*:logs:[^:]*:[^:]*:(?!log-group:)")


def is_record(body: Mapping[str, Any]) -> bool:
    """Whether an object has the shape of a CloudTrail record, of any service."""
    match body:
        case {"eventSource": str(source), "eventName": str()}:
            return not source.startswith(_LAMBDA_SOURCE_PREFIX)
        case _:
            return False


def read_record(record: Fields, arrival: Arrival) -> EnsureCommand | Irrelevant:
    """Read a CloudTrail record, eventVersion 1.x: a minor version only adds fields. Raises UnusableError."""
    source, name = record.body["eventSource"], record.body["eventName"]
    trigger = TRIGGERS.get(name) if source == LOGS_SOURCE else None
    if trigger is None:
        return Irrelevant(f"{name[:60]!r} of {source[:60]!r} is no call that matters here")
    error, category = record.body.get("errorCode"), record.body.get("eventCategory")
    if error not in (None, "", "null"):
        return Irrelevant(f"the call failed: {error[:60]!r}" if isinstance(error, str) else "the call failed")
    if category in _OTHER_CATEGORIES:
        return Irrelevant(f"reports no call that changed anything, but {category}")
    path, version = record.field("eventVersion")
    if version is not None and not (isinstance(version, str) and version.startswith("1.")):
        raise UnusableError(path, "is not 1.x, the version of CloudTrail records that this release reads")
    parameters = record.object("requestParameters")
    log_group = _log_group(record, parameters)
    if log_group is None:
        return Irrelevant(f"{name} of something else in CloudWatch Logs than a log group")
    return EnsureCommand(
        log_group=log_group,
        trigger=trigger,
        accepted_at_ms=arrival.accepted_at_ms,
        origin=arrival.origin,
        # A change of tags shows a part of them.
        tags=tags(*parameters.field("tags")) if trigger is Trigger.CREATED else None,
        shown_key=_shown_key(trigger, *parameters.field("kmsKeyId")),
        caller=_caller(record.body) if trigger in {Trigger.KEY_ASSOCIATED, Trigger.KEY_DISASSOCIATED} else None,
    )


def _log_group(record: Fields, parameters: Fields) -> LogGroup | None:
    """The group that the call names, or None where it names something else. Whatever states an account or a Region must agree."""
    accounts = [record.field("recipientAccountId"), record.place.account]
    regions = [record.field("awsRegion"), record.place.region]
    names = [parameters.field("logGroupName")]
    for field in ("resourceIdentifier", "resourceArn"):
        path, arn = parameters.field(field)
        if arn is None:
            continue
        if isinstance(arn, str) and _OTHER_LOGS_ARN.match(arn):
            return None
        identified = checked(path, arn, LogGroup.from_arn)
        accounts.append((path, identified.account))
        regions.append((path, identified.region))
        names.append((path, identified.name))
    if all(account is None for _, account in accounts):
        # The caller's account, where nothing else is stated: a caller from another account would be stated apart.
        accounts.append((record.place.to("userIdentity.accountId"), _identity(record.body).get("accountId")))
    account = agreed(accounts, account_id)
    region = agreed(regions, region_name)
    return agreed(names, lambda name: LogGroup.of(account, region, name))


def _shown_key(trigger: Trigger, path: str, value: Any) -> str | None:
    """The key that the record proves the group to have, "" for none. An id or an alias proves one, but not which: None."""
    match trigger:
        case Trigger.KEY_DISASSOCIATED:
            return ""
        case Trigger.CREATED | Trigger.KEY_ASSOCIATED:
            if value is None:
                return "" if trigger is Trigger.CREATED else None
            if not isinstance(value, str):
                raise UnusableError(path, f"is not a string but {kind(value)}")
            try:
                return key_arn(value) if value else ""
            except InvalidIdentityError:
                return None
        case _:
            return None


def _caller(record: Mapping[str, Any]) -> str | None:
    """Who made the call, and with what: only for people, so whatever is odd about it is left out and never malformed."""
    identity = _identity(record)
    names = [identity.get("arn"), identity.get("principalId"), identity.get("invokedBy"), identity.get("type")]
    tools = [record.get("userAgent"), record.get("sourceIPAddress")]
    name = next((text for text in names if isinstance(text, str) and text), None)
    tool = next((text for text in tools if isinstance(text, str) and text), None)
    if name is None and tool is None:
        return None
    text = f"{name or 'somebody'} ({tool})" if tool else name or ""
    shown = text[:MAX_CALLER_LENGTH]
    return "".join(character if character.isprintable() else "?" for character in shown)


def _identity(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """`userIdentity`, given as an object or as a JSON string; empty where it is neither."""
    identity = record.get("userIdentity")
    if isinstance(identity, str):
        try:
            identity = json.loads(identity)
        except (ValueError, RecursionError):
            return {}
    return identity if isinstance(identity, dict) else {}
