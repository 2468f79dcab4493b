"""The part of the IAM policy language that key, trust and role policies are written in here, and the key policy Logs needs.

Pure, and nothing of it is shared with the service's own reading of key policies: each is a check on the other.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from service.domain.log_group import dns_suffix_of, partition_of

# What CloudWatch Logs has to be allowed, from AWS's page on encrypting log data with KMS. The page lists kms:Describe* too, under
# a condition on the encryption context that DescribeKey never carries, so it cannot be what decides.
LOGS_KEY_ACTIONS: Final = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey")
LOGS_CONTEXT_KEY: Final = "kms:EncryptionContext:aws:logs:arn"

Policy = Mapping[str, Any]
_Matches = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequest:
    """Who wants to do what, and to what.

    `principals` are every name the caller answers to, as (type, name); None for a role's own policy, which names nobody. `resource`
    is None where a policy can only mean what it is attached to, a role's trust policy.
    """

    principals: frozenset[tuple[str, str]] | None
    action: str
    resource: str | None = None
    context: Mapping[str, str] = field(default_factory=dict)


def logs_service(region: str) -> str:
    """The principal that CloudWatch Logs acts as in a Region; a key policy has to name the Region's own."""
    return f"logs.{region}.{dns_suffix_of(region)}"


def may_encrypt_log_group(policy: Policy, *, region: str, arn: str, key: str | None = None) -> bool:
    """Whether a key policy lets CloudWatch Logs use the key (an ARN) for a log group, given its ARN without the trailing `:*`."""
    return all(
        is_allowed(
            policy,
            PolicyRequest(
                principals=frozenset({("Service", logs_service(region))}),
                action=action,
                resource=key,
                context={LOGS_CONTEXT_KEY: arn},
            ),
        )
        for action in LOGS_KEY_ACTIONS
    )


def account_principal(account: str, region: str) -> str:
    """The ARN that stands for everybody in an account whom its IAM policies allow."""
    return f"arn:{partition_of(region)}:iam::{account}:root"


def log_group_arn(account: str, region: str, name: str) -> str:
    """A log group's ARN as CloudWatch Logs shows it to KMS: without the trailing `:*`."""
    return f"arn:{partition_of(region)}:logs:{region}:{account}:log-group:{name}"


def default_key_policy(account: str, region: str) -> dict[str, Any]:
    """The policy that KMS gives a key of its own accord: IAM decides, and CloudWatch Logs may not use it."""
    return {"Version": "2012-10-17", "Statement": [_account_statement(account, region)]}


def logs_key_policy(
    account: str, region: str, *, others: Iterable[str] = (), key_account: str | None = None
) -> dict[str, Any]:
    """A key policy under which CloudWatch Logs may encrypt every log group of an account, and of `others`, in a Region.

    `key_account` is where the key lives, when that is yet another account. All of them leave it to their IAM who may use the key.
    """
    users = (account, *others)
    accounts = dict.fromkeys((key_account or account, *users))
    logs = {
        "Effect": "Allow",
        "Principal": {"Service": logs_service(region)},
        "Action": ["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"],
        "Resource": "*",
        "Condition": {"ArnLike": {LOGS_CONTEXT_KEY: [log_group_arn(each, region, "*") for each in users]}},
    }
    return {"Version": "2012-10-17", "Statement": [*(_account_statement(a, region) for a in accounts), logs]}


def _account_statement(account: str, region: str) -> dict[str, Any]:
    principal = {"AWS": account_principal(account, region)}
    return {"Effect": "Allow", "Principal": principal, "Action": "kms:*", "Resource": "*"}


def is_allowed(policy: Policy, request: PolicyRequest) -> bool:
    """Whether some Allow statement covers the request and no Deny statement does.

    A context key that the request lacks fails a condition, or meets a negated one, as in IAM. Raises NotImplementedError for a
    condition operator that is not covered here, rather than guess.
    """
    effects = {s["Effect"] for s in _listed(policy.get("Statement")) if _covers(s, request)}
    return "Allow" in effects and "Deny" not in effects


def _covers(statement: Policy, request: PolicyRequest) -> bool:
    return (
        _names_principal(statement, request.principals)
        and _names_action(statement, request.action)
        and _names_resource(statement, request.resource)
        and all(
            _holds(operator, key, _listed(wanted), request.context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _names_principal(statement: Policy, principals: frozenset[tuple[str, str]] | None) -> bool:
    if principals is None:
        return True
    if "NotPrincipal" in statement:
        return not _includes(statement["NotPrincipal"], principals)
    return _includes(statement.get("Principal"), principals)


def _includes(principal: object, callers: Iterable[tuple[str, str]]) -> bool:
    if not isinstance(principal, Mapping):
        return principal == "*"
    named = {(kind, name) for kind, names in principal.items() for name in _listed(names)}
    return ("AWS", "*") in named or not named.isdisjoint(callers)


def _names_action(statement: Policy, action: str) -> bool:
    if "NotAction" in statement:
        return not any(_like(pattern.lower(), action.lower()) for pattern in _listed(statement["NotAction"]))
    return any(_like(pattern.lower(), action.lower()) for pattern in _listed(statement.get("Action")))


def _names_resource(statement: Policy, resource: str | None) -> bool:
    """KMS takes no key policy without a Resource; a scene's short ones may leave it out."""
    if resource is None or ("Resource" not in statement and "NotResource" not in statement):
        return True
    if "NotResource" in statement:
        return not any(_like(pattern, resource) for pattern in _listed(statement["NotResource"]))
    return any(_like(pattern, resource) for pattern in _listed(statement["Resource"]))


def _holds(operator: str, key: str, wanted: list[str], context: Mapping[str, str]) -> bool:
    actual = next((value for name, value in context.items() if name.lower() == key.lower()), None)
    if operator == "Null":
        return (actual is None) == (str(wanted[0]).lower() == "true")
    name = operator.removesuffix("IfExists")
    if name not in _OPERATORS:
        raise NotImplementedError(f"The sandbox does not evaluate the condition operator {operator}.")
    if actual is None:
        return name != operator or "Not" in name
    return any(_OPERATORS[name](str(pattern), actual) for pattern in wanted) != ("Not" in name)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


@lru_cache(maxsize=4096)
def _wildcard(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _like(pattern: str, value: str) -> bool:
    return _wildcard(pattern).fullmatch(value) is not None


def _arn_like(pattern: str, value: str) -> bool:
    """ARNs match part by part, so that a `*` for the account cannot swallow the Region; the sixth part is all the rest."""
    patterns, values = pattern.split(":", 5), value.split(":", 5)
    return len(patterns) == len(values) and all(map(_like, patterns, values))


def _equals(pattern: str, value: str) -> bool:
    return pattern == value


def _equals_ignoring_case(pattern: str, value: str) -> bool:
    return pattern.lower() == value.lower()


_POSITIVE: dict[str, _Matches] = {
    "StringEquals": _equals,
    "StringEqualsIgnoreCase": _equals_ignoring_case,
    "StringLike": _like,
    "ArnEquals": _arn_like,  # IAM gives both ARN operators the same meaning
    "ArnLike": _arn_like,
    "Bool": _equals_ignoring_case,
}
_OPERATORS: dict[str, _Matches] = _POSITIVE | {
    "StringNotEquals": _equals,
    "StringNotEqualsIgnoreCase": _equals_ignoring_case,
    "StringNotLike": _like,
    "ArnNotEquals": _arn_like,
    "ArnNotLike": _arn_like,
}
