"""KMS as far as moto differs from AWS: who may do what by the key's policy, keys of other accounts, defaults of CreateKey, states.

moto answers the rest, on the same keys. It takes key ids alone where it changes a key's state; AWS takes ARNs too.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from moto.core.utils import utcnow
from moto.kms.models import Key, KmsBackend, kms_backends

from service.sandbox.aws.call import ApiCall
from service.sandbox.aws.errors import AwsError, not_authorized_error
from service.sandbox.aws.policy import Policy, PolicyRequest, default_key_policy, is_allowed
from service.sandbox.aws.shapes import check_request

_ARN = re.compile(r"arn:[a-z-]+:kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<resource>(?:key|alias)/\S+)")
_CLOSED: Final = (
    "on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a "
    "resource-based policy explicitly denies access"
)
_DEFAULT_WAITING_DAYS: Final = 30  # ScheduleKeyDeletion's default


def find_key(key_arn: str) -> Key | None:
    """The key of a key ARN (no id, no alias), whatever its account and Region."""
    match = _ARN.fullmatch(key_arn)
    if match is None or not match["resource"].startswith("key/"):
        return None
    return kms_backends[match["account"]][match["region"]].keys.get(match["resource"].removeprefix("key/"))


def key_policy(key: Key) -> Policy:
    """A key's policy; one that is not JSON, which moto accepts in PutKeyPolicy, allows nobody anything."""
    try:
        policy = json.loads(key.policy)
    except ValueError:
        return {}
    return policy if isinstance(policy, Mapping) else {}


def create_key(*, account: str, region: str, policy: str | None, usage: str, spec: str, **moto_args: Any) -> Key:
    """Create an enabled key."""
    backend = kms_backends[account][region]
    args = {"description": "", "tags": None, "multi_region": False} | moto_args
    return backend.create_key(policy=policy, key_usage=usage, key_spec=spec, **args)


def set_key_state(key: Key, state: str, *, waiting_days: int = _DEFAULT_WAITING_DAYS) -> None:
    """Put a key into any of KMS's states, those included that no call leads to (PendingImport, Unavailable, ...)."""
    key.key_state = state
    key.enabled = state == "Enabled"
    key.deletion_date = utcnow() + timedelta(days=waiting_days) if state == "PendingDeletion" else None


def _create_key(call: ApiCall) -> dict[str, Any]:
    params = _checked(call)
    policy = params.get("Policy")
    if policy is not None and not policy.lstrip().startswith("{"):
        raise AwsError("MalformedPolicyDocumentException", "The new key policy is not a JSON object.")
    key = create_key(
        account=call.caller.account,
        region=call.region,
        policy=policy,
        usage=params.get("KeyUsage") or "ENCRYPT_DECRYPT",
        spec=params.get("KeySpec") or params.get("CustomerMasterKeySpec") or "SYMMETRIC_DEFAULT",
        description=params.get("Description", ""),
        tags=params.get("Tags"),
        multi_region=params.get("MultiRegion", False),
        origin=params.get("Origin") or "AWS_KMS",
    )
    return key.to_dict()


def _describe_key(call: ApiCall) -> dict[str, Any]:
    key = _key_for(call, across_accounts=True)
    return key.to_dict()


def _get_key_policy(call: ApiCall) -> dict[str, Any]:
    if "alias/" in call.params.get("KeyId", ""):  # "Specify the key ID or key ARN": which code comes is not confirmed
        raise AwsError("InvalidArnException", f"Invalid arn {call.params['KeyId']}")
    return {"Policy": _key_for(call).policy, "PolicyName": "default"}


def _replicate_key(call: ApiCall) -> dict[str, Any]:
    """Make a replica that has a policy, aliases and a state of its own; moto's shares them with the key that it copies."""
    primary, region = _key_for(call), call.params["ReplicaRegion"]
    if not primary.multi_region:
        raise AwsError("UnsupportedOperationException", f"{primary.arn} is not a multi-Region key.")
    if primary.id in kms_backends[primary.account_id][region].keys:
        raise AwsError("AlreadyExistsException", f"{primary.arn} has a replica in {region}.")
    replica = kms_backends[primary.account_id][call.region].replicate_key(primary.id, region)
    replica.aliases = {}
    replica.policy = call.params.get("Policy") or json.dumps(default_key_policy(primary.account_id, region))
    replica.multi_region_configuration = primary.multi_region_configuration | {"MultiRegionKeyType": "REPLICA"}
    set_key_state(replica, "Enabled")
    return {"ReplicaKeyMetadata": replica.to_dict()["KeyMetadata"], "ReplicaPolicy": replica.policy, "ReplicaTags": []}


def _enable_key(call: ApiCall) -> dict[str, Any]:
    set_key_state(_not_being_deleted(_key_for(call)), "Enabled")
    return {}


def _disable_key(call: ApiCall) -> dict[str, Any]:
    set_key_state(_not_being_deleted(_key_for(call)), "Disabled")
    return {}


def _schedule_key_deletion(call: ApiCall) -> dict[str, Any]:
    key = _not_being_deleted(_key_for(call))
    waiting_days = call.params.get("PendingWindowInDays") or _DEFAULT_WAITING_DAYS
    set_key_state(key, "PendingDeletion", waiting_days=waiting_days)
    deletion_date = key.to_dict()["KeyMetadata"]["DeletionDate"]
    return {
        "KeyId": key.arn,
        "DeletionDate": deletion_date,
        "KeyState": key.key_state,
        "PendingWindowInDays": waiting_days,
    }


def _cancel_key_deletion(call: ApiCall) -> dict[str, Any]:
    key = _key_for(call)
    if key.key_state != "PendingDeletion":
        raise AwsError("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
    set_key_state(key, "Disabled")
    return {"KeyId": key.arn}


def _not_being_deleted(key: Key) -> Key:
    if key.key_state == "PendingDeletion":
        raise AwsError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
    return key


def _checked(call: ApiCall) -> Mapping[str, Any]:
    check_request("kms", call.envelope.operation, dict(call.params), error_code="ValidationException")
    return call.params


def named_key(call: ApiCall) -> Key | None:
    """The key that a call names by id, ARN or alias, if there is one."""
    key_id = str(call.params.get("KeyId", ""))
    arn = _ARN.fullmatch(key_id)
    return _resolve(kms_backends[arn["account"] if arn else call.caller.account][call.region], key_id)


def _key_for(call: ApiCall, *, across_accounts: bool = False) -> Key:
    """The key that a call names by id, ARN or alias, if its policy lets the caller do what the call does.

    To another account, KMS does not say whether a key is absent or closed to the caller.
    """
    key_id = _checked(call)["KeyId"]
    arn = _ARN.fullmatch(key_id)
    if arn and arn["region"] != call.region:
        raise AwsError("NotFoundException", f"Invalid arn {arn['region']}")
    is_foreign = arn is not None and arn["account"] != call.caller.account
    action = f"kms:{call.envelope.operation}"
    if is_foreign and not across_accounts:
        reason = " because this operation cannot be performed on a key in another account"
        raise not_authorized_error("kms", caller_arn=call.caller.arn, action=action, resource=key_id, reason=reason)
    key = named_key(call)
    if key is None and not is_foreign:
        what = f"Alias {key_id} is not found." if "alias/" in key_id else f"Key '{key_id}' does not exist"
        raise AwsError("NotFoundException", what)
    request = PolicyRequest(
        principals=call.caller.principals(call.region), action=action, resource=key.arn if key else key_id
    )
    if key is not None and is_allowed(key_policy(key), request):
        return key
    if is_foreign:
        raise AwsError(
            "AccessDeniedException", f"User: {call.caller.arn} is not authorized to perform: {action} {_CLOSED}"
        )
    reason = f" because no resource-based policy allows the {action} action"
    raise not_authorized_error(
        "kms", caller_arn=call.caller.arn, action=action, resource=str(request.resource), reason=reason
    )


def _resolve(backend: KmsBackend, key_id: str) -> Key | None:
    alias = backend.get_alias_name(key_id)
    if alias.startswith("alias/"):
        return backend.keys.get(backend.get_key_id_from_alias(alias) or "")
    return backend.keys.get(backend.get_key_id(key_id))


OPERATIONS: Final[Mapping[str, Callable[[ApiCall], dict[str, Any]]]] = {
    "CancelKeyDeletion": _cancel_key_deletion,
    "CreateKey": _create_key,
    "DescribeKey": _describe_key,
    "DisableKey": _disable_key,
    "EnableKey": _enable_key,
    "GetKeyPolicy": _get_key_policy,
    "ReplicateKey": _replicate_key,
    "ScheduleKeyDeletion": _schedule_key_deletion,
}
