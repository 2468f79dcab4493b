"""What became of a command, and the one table of failure classes: whose fault, what happens next, what an operator does."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final

from service.domain.log_group import KeyArn, LogGroup, TenantId


class State(StrEnum):
    """How a command ended."""

    SEALED = "sealed"
    ALREADY_SEALED = "already-sealed"
    EXCLUDED = "excluded"
    VANISHED = "vanished"
    WOULD_SEAL = "would-seal"
    KEPT = "kept"  # as it was, since the tenant's overwrite policy does not allow the call
    DEFERRED = "deferred"
    FAILED = "failed"


class Fault(StrEnum):
    """Who has to act."""

    TENANT = "tenant"
    PLATFORM = "platform"
    AWS = "aws"
    RACE = "race"


class Recourse(StrEnum):
    """What happens to the command once retries in place, if any, are used up."""

    DEFER = "defer"  # a strike: the retry topics, one after the other, then the dead-letter topic
    DEFER_ALWAYS = "defer-always"  # the retry topics, the last one again and again: nobody can mend it but AWS
    DEFER_ONCE_THEN_VANISHED = "defer-once-then-vanished"
    HOLD = "hold"  # the command stays where it is and its lane waits: the fault is not this record's
    EXCLUDE = "exclude"
    DEAD_LETTER = "dead-letter"


class FailureClass(Enum):
    """Every way to fail: label, fault, whether tried again in place, recourse after that, its shortest delay (seconds), hint.

    `shortest_delay_s` is how soon, in seconds, a retry topic may bring the command back: nobody mends a policy or a tenant file within
    half a minute, and a retry before that is a strike for nothing. 0 is whatever the first topic waits.
    """

    label: str
    fault: Fault
    is_retried_in_place: bool
    recourse: Recourse
    shortest_delay_s: float
    hint: str

    def __init__(  # a table row
        self,
        label: str,
        fault: Fault,
        is_retried_in_place: bool,  # noqa: FBT001
        recourse: Recourse,
        shortest_delay_s: float,
        hint: str,
    ) -> None:
        self.label = label
        self.fault = fault
        self.is_retried_in_place = is_retried_in_place
        self.recourse = recourse
        self.shortest_delay_s = shortest_delay_s
        self.hint = hint

    @property
    def is_silence(self) -> bool:
        """Whether nobody there does the work now, of any log group: a call that fails so is worth telling before the tries are used up."""
        return self.is_retried_in_place and self not in (FailureClass.THROTTLED, FailureClass.OPERATION_ABORTED)

    # -- AWS is busy or away
    THROTTLED = (
        "throttled", Fault.AWS, True, Recourse.DEFER_ALWAYS, 0,
        "AWS refused the rate. Something else calls AssociateKmsKey in this account and Region: find it, or lower this lane's rate.",
    )  # fmt: skip
    OPERATION_ABORTED = (
        "operation-aborted", Fault.RACE, True, Recourse.DEFER_ALWAYS, 0,
        "Another change to the log group was under way. Nothing to do unless it persists.",
    )  # fmt: skip
    SERVICE_UNAVAILABLE = (
        "service-unavailable", Fault.AWS, True, Recourse.DEFER_ALWAYS, 0,
        "AWS answered with a server error. See the AWS Health Dashboard for the service that the message names in this Region.",
    )  # fmt: skip
    UNREACHABLE = (
        "unreachable", Fault.PLATFORM, True, Recourse.HOLD, 0,
        ("AWS's endpoint does not answer, or something in between does. Check egress (NetworkPolicy, VPC endpoint, DNS, proxy, TLS "
        "trust) from the pod to the endpoint that the message names."),
    )  # fmt: skip
    # -- our own rights
    CREDENTIALS_MISSING = (
        "credentials-missing", Fault.PLATFORM, False, Recourse.HOLD, 0,
        "No AWS credentials were found. Check the Pod Identity association or the IRSA annotation of the service account.",
    )  # fmt: skip
    CREDENTIALS_REJECTED = (
        "credentials-rejected", Fault.PLATFORM, True, Recourse.HOLD, 0,
        "AWS does not accept the credentials or the signature. Check the node's clock, the session's age and an SCP on sessions.",
    )  # fmt: skip
    ROLE_NOT_ASSUMABLE = (
        "role-not-assumable", Fault.PLATFORM, False, Recourse.HOLD, 120,
        ("The role of the member account cannot be assumed. Check that it exists, trusts Logwarden's role and expects the external id. "
        "With EKS Pod Identity or session tags both sides need sts:TagSession (k8s/iam)."),
    )  # fmt: skip
    NOT_AUTHORIZED = (
        "not-authorized", Fault.PLATFORM, False, Recourse.DEFER, 120,
        ("Logwarden's role in the account lacks a right that the message names. Compare its policy with k8s/iam/member-role.json; the "
        "policy of a key in another account with k8s/iam/key-policy-other-account.json too."),
    )  # fmt: skip
    TAGS_NOT_READABLE = (
        "tags-not-readable", Fault.PLATFORM, False, Recourse.HOLD, 120,
        ("Logwarden's role in the account may neither list log groups by a tag nor look at the tags of one. Give it "
        "logs:ListTagsForResource, and logs:ListLogGroups, which saves most of those looks, as k8s/iam/member-role.json does; or set "
        "ignore_tag to never, where no rule asks for tags."),
    )  # fmt: skip
    # -- the key
    KEY_NOT_USABLE = (
        "key-not-usable", Fault.TENANT, False, Recourse.DEFER, 0,
        ("CloudWatch Logs may not use the key for this log group: its policy, its kind or its Region. The detail says what is wrong; "
        "k8s/iam/key-policy-statement.json is the statement that a key needs."),
    )  # fmt: skip
    KEY_NOT_FOUND = (
        "key-not-found", Fault.TENANT, False, Recourse.DEFER, 0,
        "The key is absent or not enabled. The detail says what is known of it and what to do; or give the tenant another one.",
    )  # fmt: skip
    # -- the log group
    LOG_GROUP_NOT_FOUND = (
        "log-group-not-found", Fault.RACE, False, Recourse.DEFER_ONCE_THEN_VANISHED, 0,
        "The log group is not visible yet, or is already deleted. Nothing to do.",
    )  # fmt: skip
    RESERVED_NAME = (
        "reserved-name", Fault.AWS, False, Recourse.EXCLUDE, 0,
        "AWS keeps names that start with aws/ for itself and refuses to change them. Nothing to do.",
    )  # fmt: skip
    INVALID_REQUEST = (
        "invalid-request", Fault.PLATFORM, False, Recourse.DEAD_LETTER, 0,
        "AWS calls the request malformed. Look at the message; it may be a rule of AWS that this release does not know.",
    )  # fmt: skip
    LIMIT_EXCEEDED = (
        "limit-exceeded", Fault.PLATFORM, False, Recourse.DEFER, 3600,
        "An account limit is used up. Ask AWS to raise the limit that the message names.",
    )  # fmt: skip
    UNRECOGNISED = (
        "unrecognised", Fault.AWS, False, Recourse.DEFER, 0,
        "AWS answered with an error that this release does not know. The message is AWS's own; please report it.",
    )  # fmt: skip
    # -- whose log group is it
    UNKNOWN_TENANT = (
        "unknown-tenant", Fault.PLATFORM, False, Recourse.DEFER, 120,
        "No rule gives this log group to a tenant. Add a rule or an exclusion; `logwarden check` shows what each rule says.",
    )  # fmt: skip
    AMBIGUOUS_TENANT = (
        "ambiguous-tenant", Fault.PLATFORM, False, Recourse.DEFER, 120,
        "Rules of several tenants match this log group. Make them exclusive; until then no key is used.",
    )  # fmt: skip
    ACCOUNT_NOT_LISTED = (
        "account-not-listed", Fault.PLATFORM, False, Recourse.DEFER, 120,
        "The account is in no tenant's rules, so no role is assumed in it. List it, or exclude it.",
    )  # fmt: skip
    NO_KEY_IN_REGION = (
        "no-key-in-region", Fault.TENANT, False, Recourse.DEFER, 120,
        "The tenant has no key in the log group's Region; a key of another Region cannot be used. Create one and add it.",
    )  # fmt: skip
    REGISTRY_UNAVAILABLE = (
        "registry-unavailable", Fault.PLATFORM, False, Recourse.HOLD, 0,
        "The tenant registry does not answer. Nothing is lost; work goes on when it is back.",
    )  # fmt: skip
    # -- who else changes it
    CONTESTED = (
        "contested", Fault.TENANT, False, Recourse.DEFER_ALWAYS, 0,
        "Somebody keeps changing the group's key, as Terraform does where kms_key_id is not set. Name the tenant's key in their code.",
    )  # fmt: skip
    # -- bad input
    MALFORMED_EVENT = (
        "malformed-event", Fault.PLATFORM, False, Recourse.DEAD_LETTER, 0,
        "The record is none of the accepted event shapes. Mend its sender, then `logwarden dead-letters replay`.",
    )  # fmt: skip
    MALFORMED_COMMAND = (
        "malformed-command", Fault.PLATFORM, False, Recourse.DEAD_LETTER, 0,
        "Something else than Logwarden writes to its work topic. Let it use `logwarden ensure`, the REST API or a source topic.",
    )  # fmt: skip


# What passes by itself, as a failure of a call that goes before the one that matters: of STS, or of a look at a key.
PASSING: Final = frozenset({FailureClass.THROTTLED, FailureClass.SERVICE_UNAVAILABLE, FailureClass.UNREACHABLE})


class CallFailedError(Exception):
    """A failure with its class: the one exception that adapters raise for an answer that the core knows how to treat."""

    def __init__(self, failure: FailureClass, detail: str) -> None:
        super().__init__(f"{failure.label}: {detail}")
        self.failure = failure
        self.detail = detail


class UnknownCallError(CallFailedError):
    """Whoever answers does not know the call: the endpoint is a wrong one, or of a Region where AWS does not have the call yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one command: `attempts` counts AssociateKmsKey calls, `detail` is for people, `retry_in_s` is in seconds.

    `key` is the one that the group should have. `old_key` is another one that it was under, and still is where nothing was called: data
    written under it stay so, and it has to stay enabled for as long as they are retained. `flips` is how often the group was brought back
    to its key within the last hour, before this.
    """

    log_group: LogGroup
    state: State
    tenant: TenantId | None = None
    key: KeyArn | None = None
    old_key: str | None = None
    failure: FailureClass | None = None
    detail: str = ""
    attempts: int = 0
    flips: int = 0
    retry_in_s: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether this is the last word on the command; a deferred one comes back."""
        return self.state is not State.DEFERRED

    def as_dict(self) -> dict[str, Any]:
        """The outcome as the outcomes topic, the REST API and the command line show it; empty fields are left out."""
        fields: dict[str, Any] = {
            "account": self.log_group.account,
            "region": self.log_group.region,
            "log_group": self.log_group.name,
            "state": self.state.value,
            "tenant": self.tenant,
            "key": self.key,
            "old_key": self.old_key,
            "detail": self.detail or None,
            "attempts": self.attempts,
            "flips": self.flips or None,
            "retry_in_s": self.retry_in_s,
        }
        if self.failure is not None:
            fields["failure"] = {
                "class": self.failure.label,
                "fault": self.failure.fault.value,
                "hint": self.failure.hint,
            }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Defer:
    """Work the command again after `delay_s` seconds; `step` is the retry topic, counted from 0."""

    step: int
    delay_s: float


class End(Enum):
    """A recourse that needs no number."""

    HOLD = "hold"
    EXCLUDE = "exclude"
    VANISHED = "vanished"
    DEAD_LETTER = "dead-letter"


def deferred(failure: FailureClass, *, trips: int, delays_s: Sequence[float]) -> Defer:
    """The retry topic for a command that has made so many trips already: the next one, the last one again and again, and none whose
    delay is too short for the class while there is a longer one.
    """
    last = len(delays_s) - 1
    first = next((step for step, s in enumerate(delays_s) if s >= failure.shortest_delay_s), last)
    step = max(first, min(trips, last))
    return Defer(step, delays_s[step])


def next_step(failure: FailureClass, *, deferrals: int, strikes: int, delays_s: Sequence[float]) -> Defer | End:
    """Decide what happens to a command that failed in this way after `deferrals` trips through the retry topics, `strikes` of them
    for failures that somebody has to mend.
    """
    match failure.recourse:
        case Recourse.HOLD:
            return End.HOLD
        case Recourse.EXCLUDE:
            return End.EXCLUDE
        case Recourse.DEAD_LETTER:
            return End.DEAD_LETTER
        case Recourse.DEFER_ONCE_THEN_VANISHED:
            is_over = deferrals or not delays_s
            return End.VANISHED if is_over else deferred(failure, trips=0, delays_s=delays_s)
        case Recourse.DEFER_ALWAYS:
            return deferred(failure, trips=deferrals, delays_s=delays_s) if delays_s else End.HOLD
        case Recourse.DEFER:
            is_over = strikes >= len(delays_s)
            return End.DEAD_LETTER if is_over else deferred(failure, trips=strikes, delays_s=delays_s)
