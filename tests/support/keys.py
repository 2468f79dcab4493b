"""KMS in memory, for tests of the core. tests/contract/test_keys.py holds it to what the real adapter does."""

from dataclasses import dataclass, field

from service.domain.key import KeyFacts, KeyFinding, UsableKey, absent, elsewhere, unseen, wrong_with
from service.domain.log_group import KeyAlias, KeyArn, KeyRef, LogGroup, key_account, key_arn_in
from service.domain.outcome import FailureClass


@dataclass(slots=True)
class FakeKeys:
    """Keys, their policies and aliases, and what is to go wrong while `failure` is set.

    With `takes_any` a key that was never added is one that nothing speaks against: for tests that are not about keys. `inspected`
    and `forgotten` are the calls in their order.
    """

    takes_any: bool = False
    facts: dict[KeyArn, KeyFacts] = field(default_factory=dict)
    policies: dict[KeyArn, str] = field(default_factory=dict)
    aliases: dict[KeyAlias, KeyArn] = field(default_factory=dict)
    failure: FailureClass | None = None
    inspected: list[tuple[KeyRef, LogGroup]] = field(default_factory=list)
    forgotten: list[tuple[KeyRef, LogGroup]] = field(default_factory=list)

    def add(self, key: KeyArn, *, state: str = "Enabled", policy: str = "{}") -> KeyArn:
        """Add a key of the right kind."""
        self.facts[key] = KeyFacts(arn=key, state=state, spec="SYMMETRIC_DEFAULT", usage="ENCRYPT_DECRYPT")
        self.policies[key] = policy
        return key

    async def inspect(self, key: KeyRef, log_group: LogGroup) -> KeyFinding:
        self.inspected.append((key, log_group))
        if (abroad := elsewhere(key, log_group.region)) is not None:
            return abroad
        if self.failure is not None:
            return unseen(key, self.failure, "as told")
        arn = key_arn_in(key) or self.aliases.get(KeyAlias(key))
        if arn is not None and arn not in self.facts and self.takes_any:
            return UsableKey(key=arn, unread="it was never added")
        if arn is None or arn not in self.facts:
            return absent(key, "as told")
        if (finding := wrong_with(self.facts[arn])) is not None:
            return finding
        if key_account(arn) != log_group.account:
            return UsableKey(key=arn, unread="the key is in another account")
        return UsableKey(key=arn, policy=self.policies[arn])

    def forget(self, key: KeyRef, log_group: LogGroup) -> None:
        self.forgotten.append((key, log_group))
