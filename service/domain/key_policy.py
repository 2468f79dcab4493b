"""What a key's policy says of CloudWatch Logs and one log group, read from the document alone, in words that a tenant can act on.

It is a reading, not IAM: service control policies, grants and what a request carries besides its encryption context are not in the
document. What cannot be told from it is said to be so and never guessed, and no call is stopped for it: AWS decides, and this explains
what AWS decided. A policy is a tenant's text: its size and its values are bounded, and nothing in it raises.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from service.domain.log_group import KeyArn, Lane, LogGroup, dns_suffix_of, partition_of
from service.domain.policy_conditions import Reading, all_of, any_of, conditions_hold, like, negated, shown

# What CloudWatch Logs does with a key, after AWS's page on encrypting log data. The page lists kms:Describe* too, under a condition
# on the encryption context that DescribeKey never carries: so it cannot be what decides.
LOGS_ACTIONS: Final = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey")
LOGS_CONTEXT_KEY: Final = "kms:EncryptionContext:aws:logs:arn"

_MAX_LENGTH: Final = 32_768  # characters; KMS takes 32 kB
_MAX_VALUES: Final = 1_000  # strings in one document; real ones have dozens, and each is matched
_MAX_DEPTH: Final = 8  # levels below Statement; the language has four
_MAX_TOLD: Final = 3  # statements in one text for people
_GRANTED: Final = {  # as AWS's page writes them
    "kms:Encrypt": "kms:Encrypt",
    "kms:Decrypt": "kms:Decrypt",
    "kms:ReEncryptFrom": "kms:ReEncrypt*",
    "kms:ReEncryptTo": "kms:ReEncrypt*",
    "kms:GenerateDataKey": "kms:GenerateDataKey*",
}


class PolicyVerdict(StrEnum):
    """What a policy says."""

    ALLOWS = "allows"
    DENIES = "denies"
    MISSES = "misses"
    CANNOT_TELL = "cannot-tell"


@dataclass(frozen=True, slots=True)
class PolicyFinding:
    """What a policy says, in words, and the smallest statement (JSON) that would make it right, empty where none would."""

    verdict: PolicyVerdict
    detail: str
    remedy: str = ""


def logs_principal(region: str) -> str:
    """The service principal that CloudWatch Logs acts as in a Region. The CDK builds it alike, for every partition."""
    return f"logs.{region}.{dns_suffix_of(region)}"


def logs_statement(
    lane: Lane, actions: Sequence[str] = (*dict.fromkeys(_GRANTED.values()), "kms:Describe*")
) -> dict[str, Any]:
    """The statement that lets CloudWatch Logs use a key for every log group of an account and Region, and for nothing else.

    Not for one log group: the tenant's next one would need the next statement, and a policy holds 32 kB.
    """
    groups = f"arn:{partition_of(lane.region)}:logs:{lane.region}:{lane.account}:log-group:*"
    return {
        "Sid": "CloudWatchLogs",
        "Effect": "Allow",
        "Principal": {"Service": logs_principal(lane.region)},
        "Action": list(actions),
        "Resource": "*",
        "Condition": {"ArnLike": {LOGS_CONTEXT_KEY: groups}},
    }


def read_key_policy(text: str, *, key: KeyArn, log_group: LogGroup) -> PolicyFinding:
    """Read whether a key's policy lets CloudWatch Logs use the key for a log group. Pure; raises nothing, whatever the text."""
    try:
        policy = json.loads(text) if len(text) <= _MAX_LENGTH else None
    except (ValueError, RecursionError):
        policy = None
    if not isinstance(policy, Mapping) or not _is_readable(policy):
        return PolicyFinding(PolicyVerdict.CANNOT_TELL, "the key policy is no policy document that can be read")
    request = _Request(key=key, log_group=log_group)
    listed = _listed(policy.get("Statement"))
    return _judged([request.read(number, each) for number, each in enumerate(listed, start=1)], log_group)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """One statement as it applies to the request: to whom and under which conditions, and to which actions."""

    label: str
    may_allow: bool
    may_deny: bool
    applies: Reading  # whatever the action
    actions: Mapping[str, bool | None]
    is_for_logs: bool  # or was meant to be

    def covers(self, action: str) -> bool | None:
        """Whether it says something of the action; None where that cannot be told."""
        covered = all_of([self.applies.holds, self.actions[action]])
        return None if covered and self.may_allow and self.may_deny else covered


class _Request:
    """What CloudWatch Logs asks of KMS for one log group, and what of it a policy can look at."""

    def __init__(self, *, key: KeyArn, log_group: LogGroup) -> None:
        self._key = key
        self._principal = logs_principal(log_group.region)
        # Names that may mean the same principal: the CDK calls the global one always right, AWS's page names the Region's alone.
        suffixes = ("amazonaws.com", dns_suffix_of(log_group.region))
        self._doubtful = {f"logs.{middle}{suffix}" for middle in ("", f"{log_group.region}.") for suffix in suffixes}
        # Whether Logs' calls carry the last three is not documented: a condition on them may hold if it fits, and cannot if not.
        self._certain = {LOGS_CONTEXT_KEY: log_group.arn, "aws:PrincipalIsAWSService": "true"}
        self._possible = {
            "aws:SourceAccount": (log_group.account,),
            "aws:SourceArn": (log_group.arn, f"{log_group.arn}:*"),
            "kms:ViaService": (self._principal,),
        }

    def read(self, number: int, statement: object) -> _Statement:
        """How one statement applies; one that is not well formed may say anything."""
        fields = statement if isinstance(statement, Mapping) else {}
        effect, principal = fields.get("Effect"), self._principal_in(fields)
        aspects = (
            principal,
            self._resource_in(fields),
            conditions_hold(fields.get("Condition", {}), self._certain, self._possible),
        )
        return _Statement(
            label=_label(number, fields.get("Sid")),
            may_allow=effect != "Deny",
            may_deny=effect != "Allow",
            applies=Reading(
                all_of(aspect.holds for aspect in aspects),
                " and ".join(aspect.why for aspect in aspects if aspect.why),
            ),
            actions={action: _action_in(fields, action) for action in LOGS_ACTIONS},
            is_for_logs=principal.holds is not False or _names_logs(fields.get("Principal")),
        )

    def _principal_in(self, fields: Mapping[str, Any]) -> Reading:
        name, value = _element(fields, "Principal")
        holds = self._includes(value) if name == "Principal" else negated(self._includes(value))
        doubt = "may or may not mean" if holds is None else "does not mean"
        return Reading(holds, "" if holds else f"its {name or 'Principal'} {shown(value)} {doubt} {self._principal}")

    def _includes(self, principal: object) -> bool | None:
        if principal == "*":
            return True
        if not isinstance(principal, Mapping):
            return None
        return any_of(self._is_included(kind, name) for kind, names in principal.items() for name in _listed(names))

    def _is_included(self, kind: str, name: object) -> bool | None:
        if not isinstance(name, str):
            return None
        match kind:
            case "Service" if name == self._principal:
                return True
            case "Service":
                return None if name in self._doubtful or "*" in name or "?" in name else False
            case "AWS":
                return name == "*"
            case "Federated" | "CanonicalUser":
                return False
            case _:
                return None

    def _resource_in(self, fields: Mapping[str, Any]) -> Reading:
        name, value = _element(fields, "Resource")
        holds = any_of(like(pattern, self._key) for pattern in _listed(value)) if name else None
        holds = negated(holds) if name == "NotResource" else holds
        return Reading(holds, "" if holds else f"its {name or 'Resource'} {shown(value)} is not the key")


def _action_in(fields: Mapping[str, Any], action: str) -> bool | None:
    name, value = _element(fields, "Action")
    patterns = [each.lower() if isinstance(each, str) else each for each in _listed(value)]
    holds = any_of(like(pattern, action.lower()) for pattern in patterns) if name else None
    return negated(holds) if name == "NotAction" else holds


def _element(fields: Mapping[str, Any], name: str) -> tuple[str, Any]:
    """The element of that name or its Not- twin, and its value; an empty name unless there is exactly one of them."""
    found = [(each, fields[each]) for each in (name, f"Not{name}") if fields.get(each) is not None]
    return found[0] if len(found) == 1 else ("", None)


def _judged(statements: Sequence[_Statement], log_group: LogGroup) -> PolicyFinding:
    whom = f"{logs_principal(log_group.region)} for {log_group.arn}"
    denying = {s.label: [a for a in LOGS_ACTIONS if s.covers(a)] for s in statements if not s.may_allow}
    if told := [f"{label} denies {_enumerated(actions)}" for label, actions in denying.items() if actions]:
        detail = f"the key policy denies the key to {whom}: {'; '.join(told[:_MAX_TOLD])}"
        advice = 'Except AWS services from it, by the condition "BoolIfExists": {"aws:PrincipalIsAWSService": "false"}'
        return PolicyFinding(PolicyVerdict.DENIES, f"{detail}. {advice}")
    allowed = {a: any_of(s.covers(a) for s in statements if s.may_allow) for a in LOGS_ACTIONS}
    lacking = [action for action, is_allowed in allowed.items() if is_allowed is not True]
    remedy = (
        json.dumps(logs_statement(log_group.lane, [*dict.fromkeys(_GRANTED[a] for a in lacking)])) if lacking else ""
    )
    if missing := [action for action, is_allowed in allowed.items() if is_allowed is False]:
        detail = f"the key policy does not allow {_enumerated(missing)} to {whom}"
        near = list(_near_misses(statements, missing))
        return PolicyFinding(PolicyVerdict.MISSES, "; ".join([detail, *near[:_MAX_TOLD]]), remedy)
    doubtful = [s for s in statements if any(s.covers(a) is None for a in (LOGS_ACTIONS if s.may_deny else lacking))]
    if doubtful:
        told = [
            f"{s.label} decides, and {s.applies.why or 'its actions or effect cannot be read'}"
            for s in doubtful[:_MAX_TOLD]
        ]
        may_mend = "" if any(s.may_deny for s in doubtful) else remedy
        detail = f"whether the key policy allows the key to {whom} cannot be told: {'; '.join(told)}"
        return PolicyFinding(PolicyVerdict.CANNOT_TELL, detail, may_mend)
    return PolicyFinding(PolicyVerdict.ALLOWS, f"the key policy allows the key to {whom}")


def _near_misses(statements: Iterable[_Statement], missing: Sequence[str]) -> Iterator[str]:
    """Statements that would allow what is missing, but for one thing; those for an account's own users are none."""
    for each in statements:
        if each.may_allow and each.is_for_logs and each.applies.holds is not True:
            would = [action for action in missing if each.actions[action] is not False]
            if would:
                yield f"{each.label} would, but {each.applies.why}"


def _names_logs(principal: object) -> bool:
    """Whether a principal is CloudWatch Logs of some Region, perhaps of the wrong one."""
    services = _listed(principal.get("Service")) if isinstance(principal, Mapping) else []
    return any(isinstance(name, str) and name.startswith("logs.") for name in services)


def _is_readable(policy: Mapping[str, Any]) -> bool:
    """Whether there are no more values, nor any deeper, than are worth matching and can be shown."""
    waiting, count = [(policy.get("Statement"), 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > _MAX_VALUES or depth > _MAX_DEPTH:
            return False
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting.extend((each, depth + 1) for each in inner)
    return True


def _listed(value: object) -> list[Any]:
    """IAM lets a single value stand for a list of one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _label(number: int, sid: object) -> str:
    return f"statement {number} ({shown(sid)})" if isinstance(sid, str) and sid else f"statement {number}"


def _enumerated(actions: Sequence[str]) -> str:
    return ", ".join(actions)
