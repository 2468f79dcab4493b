"""What a role may do by its own inline policies: AWS asks them before it looks at the key or the role that a call is about.

A role without policies may do anything here, so that a scene needs none; at AWS it may do nothing. A key of another account has to
let the caller use it too: within one account a key's policy leaves that to IAM, nearly always.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from moto.kms.models import Key

from service.domain.log_group import partition_of
from service.sandbox.aws.call import ApiCall
from service.sandbox.aws.errors import not_authorized_error
from service.sandbox.aws.identity import assume_role_actions, find_role
from service.sandbox.aws.kms import find_key, key_policy, named_key
from service.sandbox.aws.policy import LOGS_KEY_ACTIONS, PolicyRequest, is_allowed, log_group_arn, logs_service

_FREE: Final = frozenset({"sts:GetCallerIdentity"})  # nobody needs a right to it
_ENCRYPTING: Final = frozenset({"AssociateKmsKey", "CreateLogGroup"})
_KEY_ACTIONS: Final = (*LOGS_KEY_ACTIONS, "kms:DescribeKey")  # what CloudWatch Logs tries on the caller's behalf


def refuse_unpermitted(call: ApiCall) -> None:
    """Raise AwsError unless the caller's role has a policy that allows the call, and what CloudWatch Logs does to the key for it."""
    role = find_role(call.caller.role_arn) if call.caller.role_arn else None
    if role is None or not role.policies:
        return
    policy = {"Statement": [each for text in role.policies.values() for each in _statements(json.loads(text))]}
    for request in _requests(call):
        if request.action not in _FREE and not is_allowed(policy, request):
            raise not_authorized_error(
                call.envelope.service,
                caller_arn=call.caller.arn,
                action=request.action,
                resource=request.resource or "*",
                reason=f" because no identity-based policy allows the {request.action} action",
            )


def refuse_closed_key(call: ApiCall) -> None:
    """Raise AwsError unless the policy of another account's key lets the caller do what CloudWatch Logs does to it for the call."""
    key = _encrypting_key(call)
    if key is None or key.account_id == call.caller.account:
        return
    policy, callers = key_policy(key), call.caller.principals(call.region)
    for request in _requests_of_key(call, key, callers):
        if not is_allowed(policy, request):
            raise not_authorized_error(
                call.envelope.service,
                caller_arn=call.caller.arn,
                action=request.action,
                resource=key.arn,
                reason=f" because no resource-based policy allows the {request.action} action",
            )


def _requests(call: ApiCall) -> Iterator[PolicyRequest]:
    service, operation = call.envelope.service, call.envelope.operation
    if (service, operation) == ("sts", "AssumeRole"):
        actions = assume_role_actions(call.params.get("ExternalId"), call.envelope.session_tags)
    else:
        actions = iter([(f"{service}:{operation}", {})])
    of_caller = _tags_of_caller(call)
    for action, context in actions:
        yield PolicyRequest(principals=None, action=action, resource=_resource(call), context={**of_caller, **context})
    if (key := _encrypting_key(call)) is not None:
        yield from _requests_of_key(call, key, None)


def _requests_of_key(call: ApiCall, key: Key, principals: frozenset[tuple[str, str]] | None) -> Iterator[PolicyRequest]:
    via = _tags_of_caller(call) | {"kms:ViaService": logs_service(call.region)}
    for action in _KEY_ACTIONS:
        yield PolicyRequest(principals=principals, action=action, resource=key.arn, context=via)


def _tags_of_caller(call: ApiCall) -> dict[str, str]:
    return {f"aws:PrincipalTag/{key}": value for key, value in call.caller.tags.items()}


def _encrypting_key(call: ApiCall) -> Key | None:
    """The key that CloudWatch Logs is to encrypt with, if the call names one that exists."""
    key_id = call.params.get("kmsKeyId")
    is_encrypting = call.envelope.service == "logs" and call.envelope.operation in _ENCRYPTING
    return find_key(str(key_id)) if is_encrypting and key_id else None


def _resource(call: ApiCall) -> str:
    """The ARN that a policy's Resource is compared with, after the service authorization reference."""
    match call.envelope.service:
        case "logs":
            arn = call.params.get("resourceIdentifier") or call.params.get("resourceArn")
            # Where no log group is named, AWS's refusals show one with an empty name.
            name = call.params.get("logGroupName") or ":log-stream:"
            return str(arn or log_group_arn(call.caller.account, call.region, name))
        case "kms":
            key = named_key(call)
            return str(key.arn if key else call.params.get("KeyId", "*"))
        case "sts":
            return call.envelope.role or "*"
        case "dynamodb":
            params = json.loads(call.envelope.body)  # not read before: no fault and no quota looks at it
            table = params.get("TableName") or next(iter(params.get("RequestItems", {})), "")
            return f"arn:{partition_of(call.region)}:dynamodb:{call.region}:{call.caller.account}:table/{table}"
        case _:
            return "*"


def _statements(policy: dict[str, Any]) -> list[Any]:
    statements = policy["Statement"]
    return statements if isinstance(statements, list) else [statements]
