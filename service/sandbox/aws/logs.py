"""CloudWatch Logs as far as moto lacks it: keys of log groups, exact look-ups, and what AWS refuses.

moto 5.2.5 has no AssociateKmsKey, ignores `logGroupIdentifiers` and checks no key. These operations work on moto's own log groups,
so its other operations (tags, streams, retention) see the same ones.

Where AWS's behaviour is not known (marked "not confirmed"), the strict reading is taken: better refused here than there.
"""

import base64
import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from moto.logs.models import LogGroup, LogsBackend, logs_backends

from service.sandbox.aws.call import ApiCall
from service.sandbox.aws.errors import AwsError
from service.sandbox.aws.kms import find_key, key_policy
from service.sandbox.aws.permissions import refuse_closed_key
from service.sandbox.aws.policy import log_group_arn, may_encrypt_log_group
from service.sandbox.aws.shapes import check_request

_DEFAULT_PAGE: Final = 50  # log groups; DescribeLogGroups' and ListLogGroups' default
_DEFAULT_CLASS: Final = "STANDARD"
_RESERVED_PREFIX: Final = "aws/"
_LOG_GROUP_ARN = re.compile(r"arn:[a-z-]+:logs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):log-group:(?P<name>[^:]+)")

Operation = Callable[[ApiCall], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _SlowChange:
    """A change of key that DescribeLogGroups does not show yet."""

    shown_key: str | None
    until_s: float


class LogGroups:
    """The operations on log groups that moto lacks or does otherwise than AWS."""

    def __init__(self, *, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._classes: dict[LogGroup, str] = {}
        self._slow_changes: dict[LogGroup, _SlowChange] = {}
        self.operations: Mapping[str, Operation] = {
            "AssociateKmsKey": self._associate_kms_key,
            "CreateLogGroup": self._create_log_group,
            "DeleteLogGroup": self._delete_log_group,
            "DescribeLogGroups": self._describe_log_groups,
            "ListTagsForResource": self._list_tags_for_resource,
            "DisassociateKmsKey": self._disassociate_kms_key,
            "ListLogGroups": self._list_log_groups,
        }

    def create(
        self,
        *,
        account: str,
        region: str,
        name: str,
        tags: Mapping[str, str],
        key: str | None,
        log_group_class: str = _DEFAULT_CLASS,
    ) -> None:
        """Create a log group without a question asked, a reserved name or a useless key included: the scene is the caller's.

        Raises moto's error when it exists.
        """
        group = logs_backends[account][region].create_log_group(name, dict(tags), kmsKeyId=key)
        self._classes[group] = log_group_class

    def delete(self, *, account: str, region: str, name: str) -> None:
        """Delete a log group and its tags, which moto would hand on to the next one of that name."""
        backend = logs_backends[account][region]
        group = _existing(backend, name)
        backend.tagger.delete_all_tags_for_resource(group.arn)
        backend.delete_log_group(name)
        self._classes.pop(group, None)
        self._slow_changes.pop(group, None)

    def reset(self) -> None:
        """Forget what is known beside moto's own state, which its own reset clears."""
        self._classes.clear()
        self._slow_changes.clear()

    def _create_log_group(self, call: ApiCall) -> dict[str, Any]:
        params = _checked(call)
        name, key = params["logGroupName"], params.get("kmsKeyId")
        _refuse_reserved(name)
        if key is not None and name not in _backend(call).groups:
            _refuse_unusable_key(key, region=call.region, arn=log_group_arn(call.caller.account, call.region, name))
            refuse_closed_key(call)
        self.create(
            account=call.caller.account,
            region=call.region,
            name=name,
            tags=params.get("tags") or {},
            key=key,
            log_group_class=params.get("logGroupClass") or _DEFAULT_CLASS,
        )
        return {}

    def _delete_log_group(self, call: ApiCall) -> dict[str, Any]:
        name = _checked(call)["logGroupName"]
        self.delete(account=call.caller.account, region=call.region, name=name)
        return {}

    def _associate_kms_key(self, call: ApiCall) -> dict[str, Any]:
        key = _checked(call)["kmsKeyId"]
        group = _targeted(call)
        _refuse_unusable_key(key, region=group.region, arn=group.arn)
        refuse_closed_key(call)
        self._change_key(group, key, call.effect_delay_s)
        return {}

    def _disassociate_kms_key(self, call: ApiCall) -> dict[str, Any]:
        _checked(call)
        self._change_key(_targeted(call), None, call.effect_delay_s)
        return {}

    def _change_key(self, group: LogGroup, key: str | None, effect_delay_s: float) -> None:
        if effect_delay_s:
            until_s = self._now_s() + effect_delay_s
            self._slow_changes[group] = _SlowChange(shown_key=self._shown_key(group), until_s=until_s)
        else:
            self._slow_changes.pop(group, None)
        group.kms_key_id = key

    def _shown_key(self, group: LogGroup) -> str | None:
        change = self._slow_changes.get(group)
        if change is None or self._now_s() >= change.until_s:
            key: str | None = group.kms_key_id
            return key
        return change.shown_key

    def _list_tags_for_resource(self, call: ApiCall) -> dict[str, Any]:
        name = _name_in_own_arn(call, _checked(call)["resourceArn"])
        backend = _backend(call)
        return {"tags": backend.list_tags_for_resource(_existing(backend, name).arn)}

    def _describe_log_groups(self, call: ApiCall) -> dict[str, Any]:
        params = _checked(call)
        groups, next_token = self._page(call, _described(_backend(call), params))
        # AWS leaves kmsKeyId out when a pattern was asked for.
        with_key = not params.get("logGroupNamePattern")
        return {"logGroups": [self._shown(group, with_key=with_key) for group in groups]} | next_token

    def _shown(self, group: LogGroup, *, with_key: bool) -> dict[str, Any]:
        shown: dict[str, Any] = group.to_describe_dict() | {"logGroupClass": self._class(group)}
        shown.pop("kmsKeyId", None)
        key = self._shown_key(group)
        return shown | {"kmsKeyId": key} if with_key and key else shown

    def _list_log_groups(self, call: ApiCall) -> dict[str, Any]:
        params, backend = _checked(call), _backend(call)
        pattern, filters = params.get("logGroupNamePattern", ""), params.get("logGroupTags", [])
        found = (
            group
            for name, group in backend.groups.items()
            if re.search(pattern, name) and _has_tags(backend, group, filters)
        )
        groups, next_token = self._page(call, found)
        shown = [{"logGroupName": g.name, "logGroupArn": g.arn, "logGroupClass": self._class(g)} for g in groups]
        return {"logGroups": shown} | next_token

    def _page(self, call: ApiCall, found: Iterable[LogGroup]) -> tuple[list[LogGroup], dict[str, str]]:
        """The page that a call asks for, in order of name, and what of the answer leads to the next: a token holds the last name."""
        wanted_class, limit = call.params.get("logGroupClass"), call.params.get("limit") or _DEFAULT_PAGE
        after = _last_name(call.params.get("nextToken"))
        left = (group for group in found if group.name > after and wanted_class in (None, self._class(group)))
        page = heapq.nsmallest(limit + 1, left, key=lambda group: group.name)
        if len(page) <= limit:
            return page, {}
        return page[:limit], {"nextToken": base64.urlsafe_b64encode(page[limit - 1].name.encode()).decode()}

    def _class(self, group: LogGroup) -> str:
        return self._classes.get(group, _DEFAULT_CLASS)


def _backend(call: ApiCall) -> LogsBackend:
    return logs_backends[call.caller.account][call.region]


def _checked(call: ApiCall) -> Mapping[str, Any]:
    check_request("logs", call.envelope.operation, dict(call.params), error_code="InvalidParameterException")
    return call.params


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterException", message)


def _existing(backend: LogsBackend, name: str) -> LogGroup:
    group = backend.groups.get(name)
    if group is None:
        raise AwsError("ResourceNotFoundException", "The specified log group does not exist.")
    return group


def _refuse_reserved(name: str) -> None:
    if name.lower().startswith(_RESERVED_PREFIX):
        raise _invalid("Log groups starting with AWS/ are reserved for AWS")


def _targeted(call: ApiCall) -> LogGroup:
    """The log group of `logGroupName` or `resourceIdentifier`; AWS wants exactly one of the two."""
    name, identifier = call.params.get("logGroupName"), call.params.get("resourceIdentifier")
    if (name is None) == (identifier is None):
        raise _invalid("Exactly one of logGroupName and resourceIdentifier must be given.")
    if identifier is not None:
        name = _name_in_own_arn(call, identifier)
    _refuse_reserved(str(name))
    return _existing(_backend(call), str(name))


def _name_in_own_arn(call: ApiCall, identifier: str) -> str:
    """The name in a log group's ARN. Results of stored queries, which have identifiers too, are not covered by the sandbox."""
    match = _LOG_GROUP_ARN.fullmatch(identifier)
    if match is None or (match["account"], match["region"]) != (call.caller.account, call.region):
        raise _invalid("The specified resourceIdentifier is not the ARN of a log group in this account and Region.")
    return match["name"]


def _refuse_unusable_key(kms_key_id: str, *, region: str, arn: str) -> None:
    """Raise AwsError unless CloudWatch Logs can encrypt the log group under the key.

    An absent key and one whose policy does not let Logs use it are told apart by neither code nor text. That a key of another
    Region, an asymmetric one and an alias look like an absent key id is not confirmed.
    """
    not_found = _invalid("The specified KMS Key Id could not be found.")
    parts = kms_key_id.split(":", 5)
    if len(parts) < 6 or parts[3] != region or not parts[5].startswith("key/"):
        raise not_found
    key = find_key(kms_key_id)
    if key and (key.key_state, key.key_spec, key.key_usage) != ("Enabled", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"):
        raise not_found
    if key is None or not may_encrypt_log_group(key_policy(key), region=region, arn=arn, key=key.arn):
        message = f"The specified KMS key does not exist or is not allowed to be used with Arn '{arn}'"
        raise AwsError("AccessDeniedException", message)


def _described(backend: LogsBackend, params: Mapping[str, Any]) -> Iterable[LogGroup]:
    """The log groups that DescribeLogGroups is asked for, of every class."""
    prefix, pattern = params.get("logGroupNamePrefix"), params.get("logGroupNamePattern")
    identifiers = params.get("logGroupIdentifiers")
    if identifiers is not None:
        if prefix is not None or pattern is not None or params.get("logGroupClass") is not None:
            raise _invalid("logGroupIdentifiers excludes every other filter.")
        if any(identifier.startswith("arn:") for identifier in identifiers):
            raise _invalid("Log group ARNs are accepted in a monitoring account only.")
        return [backend.groups[name] for name in set(identifiers) if name in backend.groups]
    if prefix is not None and pattern is not None:
        raise _invalid("LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.")
    if pattern is not None:
        return (group for name, group in backend.groups.items() if pattern in name)
    return (group for name, group in backend.groups.items() if name.startswith(prefix or ""))


def _last_name(next_token: str | None) -> str:
    try:
        return base64.b64decode(next_token, altchars=b"-_", validate=True).decode() if next_token else ""
    except ValueError as e:
        raise _invalid("The specified nextToken is invalid.") from e


def _has_tags(backend: LogsBackend, group: LogGroup, filters: list[dict[str, Any]]) -> bool:
    if not filters:
        return True
    tags = backend.list_tags_for_resource(group.arn)
    return all(f["key"] in tags and (not f.get("values") or tags[f["key"]] in f["values"]) for f in filters)
