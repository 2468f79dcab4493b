"""What is known of a tenant's key before it is used: hard facts that make every call with it vain, or what else there is to say of it.

Only what DescribeKey shows may stop a call. What the key's policy says is a reading, which explains a refusal afterwards, or foretells
one where no call is made.
"""

from dataclasses import dataclass
from typing import Final

from service.domain.key_policy import PolicyVerdict, logs_principal, read_key_policy
from service.domain.log_group import KeyArn, KeyRef, LogGroup, Region, key_account, key_arn_in, key_region
from service.domain.outcome import PASSING, FailureClass

_SPEC: Final = "SYMMETRIC_DEFAULT"
_USAGE: Final = "ENCRYPT_DECRYPT"
# States in which KMS encrypts nothing, after its page on key states, and what the tenant does about each. Updating is not among
# them: "you can use the keys in cryptographic operations" (UpdatePrimaryRegion). Any other state is newer than this release.
_ENABLED: Final = frozenset({"Enabled", "Updating"})
_REMEDY_BY_STATE: Final = {
    "Creating": "wait until the replica is made",
    "Disabled": "enable it",
    "PendingDeletion": "cancel its deletion and enable it, or give the tenant another key",
    "PendingImport": "import its key material",
    "PendingReplicaDeletion": "give the tenant another key: this one goes as soon as its replicas have gone",
    "Unavailable": "reconnect its custom key store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """What DescribeKey shows of a key, by the words of KMS, to which AWS adds new ones."""

    arn: KeyArn
    state: str
    spec: str
    usage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableKey:
    """Nothing that DescribeKey shows speaks against the key. `policy` is its text, None where it could not be read, and why."""

    key: KeyArn
    policy: str | None = None
    unread: str = ""

    def is_withheld(self, log_group: LogGroup) -> bool:
        """Whether the policy, as far as it can be read, does not let CloudWatch Logs use the key for a log group."""
        if self.policy is None:
            return False
        verdict = read_key_policy(self.policy, key=self.key, log_group=log_group).verdict
        return verdict in {PolicyVerdict.DENIES, PolicyVerdict.MISSES}

    def explain(self, log_group: LogGroup) -> str:
        """Why AWS may have refused the key for a log group: what the policy says as far as it can be read, and what would mend it."""
        if self.policy is None:
            return f"the key is enabled, so its policy is what to look at. {_needed(self.key, log_group)}. It could not be read: {self.unread}"
        finding = read_key_policy(self.policy, key=self.key, log_group=log_group)
        if finding.verdict is PolicyVerdict.ALLOWS:
            return f"{finding.detail} now; a change of it takes some minutes to be in force, and AWS may have judged by the one before"
        return f"{finding.detail}. Add to it: {finding.remedy}" if finding.remedy else finding.detail


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableKey:
    """A call with the key would be vain: `failure` is the class, `detail` says what is wrong and what to do."""

    failure: FailureClass
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownKey:
    """What the key is like is not known, for the reason in `detail`: AWS decides when it is used."""

    key: KeyArn
    detail: str

    def explain(self, log_group: LogGroup) -> str:
        """What a refusal may be due to, where to find out which, and why that is not known here."""
        look = f"`aws kms describe-key --region {key_region(self.key)} --key-id {self.key}`"
        return (
            f"whether the key is absent, not enabled or closed to us could not be found out: {look} in account {key_account(self.key)} "
            f"tells. If it is enabled, its policy is what to look at. {_needed(self.key, log_group)}. The look failed by: {self.detail}"
        )


KeyFinding = UsableKey | UnusableKey | UnknownKey


def _needed(key: KeyArn, log_group: LogGroup) -> str:
    """What has to be in a key's policy, where nobody can say what is."""
    logs = f"It has to let {logs_principal(log_group.region)} use the key for account {log_group.account} (k8s/iam/key-policy-statement.json)"
    if key_account(key) == log_group.account:
        return logs
    return f"{logs}, and our role there look at it and use it (k8s/iam/key-policy-other-account.json)"


def elsewhere(ref: KeyRef, region: Region) -> UnusableKey | None:
    """The finding for a key of another Region than the log group's, which needs no look at it; None for one of the same."""
    if key_region(ref) == region:
        return None
    arn = key_arn_in(ref)
    is_multi_region = arn is not None and "key/mrk-" in arn
    what = "has a replica with an ARN of its own in each Region: name that one" if is_multi_region else "cannot be used"
    kind = "a multi-Region key" if is_multi_region else "a key of another Region"
    detail = f"{ref} is in {key_region(ref)}, the log group in {region}: {kind} {what}"
    return UnusableKey(failure=FailureClass.KEY_NOT_USABLE, detail=detail)


def wrong_with(facts: KeyFacts) -> UnusableKey | UnknownKey | None:
    """What speaks against a key, None where nothing does; a state that this release does not know is no hard fact."""
    if (facts.spec, facts.usage) != (_SPEC, _USAGE):
        detail = (
            f"{facts.arn} is a {facts.spec} key for {facts.usage}: CloudWatch Logs takes a {_SPEC} key for {_USAGE}. A key's kind "
            "cannot be changed: give the tenant another one"
        )
        return UnusableKey(failure=FailureClass.KEY_NOT_USABLE, detail=detail)
    if facts.state in _REMEDY_BY_STATE:
        detail = f"{facts.arn} is {facts.state}: {_REMEDY_BY_STATE[facts.state]}"
        return UnusableKey(failure=FailureClass.KEY_NOT_FOUND, detail=detail)
    if facts.state not in _ENABLED:
        return UnknownKey(
            key=facts.arn, detail=f"KMS says {facts.state[:80]!a}, a state that this release does not know"
        )
    return None


def absent(ref: KeyRef, said: str) -> UnusableKey:
    """The finding for a key or alias of which KMS says that there is none."""
    what = "There is no such key" if key_arn_in(ref) else "There is no such alias, or it stands for no key"
    advice = "Correct its ARN in the tenant registry, or give the tenant another one"
    return UnusableKey(failure=FailureClass.KEY_NOT_FOUND, detail=f"{what}: {ref}. {advice}. KMS said: {said}")


def unseen(ref: KeyRef, failure: FailureClass, said: str) -> UnknownKey | UnusableKey:
    """The finding where the look at a key failed: a key ARN is used unseen; an alias cannot be, since nobody says what it stands for.

    What passes by itself becomes SERVICE_UNAVAILABLE: a trouble of KMS must neither slow down nor hold the lane, whose other groups
    may need no look. Every other class stays as it is.
    """
    arn = key_arn_in(ref)
    if arn is not None:
        return UnknownKey(key=arn, detail=said)
    detail = f"{ref} is an alias, and KMS did not say for which key: {said}. The key's own ARN needs no such look"
    return UnusableKey(failure=FailureClass.SERVICE_UNAVAILABLE if failure in PASSING else failure, detail=detail)
