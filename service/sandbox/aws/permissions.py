"""What a role may do by its own inline policies: AWS asks them before it looks at the key or the role that a call is about.

A role without policies may do anything here, so that a scene needs none; at AWS it may do nothing.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from service.sandbox.aws.call import ApiCall
from service.sandbox.aws.errors import not_authorized_error
from service.sandbox.aws.identity import assume_role_actions, find_role
from service.sandbox.aws.kms import find_key, named_key
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


def _requests(call: ApiCall) -> Iterator[PolicyRequest]:
    service, operation = call.envelope.service, call.envelope.operation
    if (service, operation) == ("sts", "AssumeRole"):
        actions = assume_role_actions(call.params.get("ExternalId"), call.envelope.session_tags)
    else:
        actions = iter([(f"{service}:{operation}", {})])
    of_caller = {f"aws:PrincipalTag/{key}": value for key, value in call.caller.tags.items()}
    for action, context in actions:
        yield PolicyRequest(principals=None, action=action, resource=_resource(call), context={**of_caller, **context})
    key_id = call.params.get("kmsKeyId")
    key = find_key(str(key_id)) if service == "logs" and operation in _ENCRYPTING and key_id else None
    if key is not None:
        via = of_caller | {"kms:ViaService": logs_service(call.region)}
        for action in _KEY_ACTIONS:
            yield PolicyRequest(principals=None, action=action, resource=key.arn, context=via)


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
        case _:
            return "*"


def _statements(policy: dict[str, Any]) -> list[Any]:
    statements = policy["Statement"]
    return statements if isinstance(statements, list) else [statements]
