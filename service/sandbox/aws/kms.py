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
from service.sandbox.aws.policy import Policy, PolicyRequest, is_allowed
from service.sandbox.aws.shapes import check_request

_ARN = re.compile(r"arn:[a-z-]+:kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<resource>(?:key|alias)/\S+)")
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
    return {"Policy": _key_for(call).policy, "PolicyName": "default"}


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


def _key_for(call: ApiCall, *, across_accounts: bool = False) -> Key:
    """The key that a call names by id, ARN or alias, if its policy lets the caller do what the call does."""
    key_id = _checked(call)["KeyId"]
    arn = _ARN.fullmatch(key_id)
    if arn and arn["region"] != call.region:
        raise AwsError("NotFoundException", f"Invalid arn {arn['region']}")
    is_foreign = arn is not None and arn["account"] != call.caller.account
    account = arn["account"] if arn else call.caller.account
    key = _resolve(kms_backends[account][call.region], key_id)
    action = f"kms:{call.envelope.operation}"
    if is_foreign and not across_accounts:
        reason = " because this operation cannot be performed on a key in another account"
        raise not_authorized_error("kms", caller_arn=call.caller.arn, action=action, resource=key_id, reason=reason)
    if key is None:
        raise AwsError("NotFoundException", f"Key '{key_id}' does not exist")
    if not is_allowed(key_policy(key), PolicyRequest(principals=call.caller.principals(call.region), action=action)):
        reason = f" because no resource-based policy allows the {action} action"
        raise not_authorized_error("kms", caller_arn=call.caller.arn, action=action, resource=key.arn, reason=reason)
    return key


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
    "ScheduleKeyDeletion": _schedule_key_deletion,
}
