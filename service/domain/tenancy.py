"""Which tenant owns a log group and which key is theirs: the rules, compiled once, decided in microseconds.

A tenant has rules, any one of which may match. What no rule gives to a tenant gets no key, and what two tenants claim gets none
either.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.domain.conditions import MAX_LISTED, Conditions, Unmet, listed
from service.domain.log_group import AccountId, KeyArn, LogGroup, Region, TenantId, key_region
from service.domain.outcome import FailureClass

_RESERVED_PREFIX: Final = "aws/"  # in any case; AWS lets nobody change a group of such a name


@dataclass(frozen=True, slots=True)
class Owned:
    """The group is this tenant's, and goes under this key. `rule` says which rule decided, for people."""

    tenant: TenantId
    key: KeyArn
    rule: str


@dataclass(frozen=True, slots=True)
class Excluded:
    """The group is left alone on purpose; `reason` says which exclusion decided."""

    reason: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """No key may be used: `failure` is the class, `detail` says what was looked at; `tenant` where it is known."""

    failure: FailureClass
    detail: str
    tenant: TenantId | None = None


Decision = Owned | Excluded | Undecided


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Log groups to leave alone, and the reason that people are told."""

    conditions: Conditions
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant: a key for each Region it uses, the rules for what it owns, and what of that to leave alone.

    Raises ValueError for a rule without accounts, since a role is assumed only in accounts that are listed, and for a key that is
    not in its Region.
    """

    id: TenantId
    keys: Mapping[Region, KeyArn]
    rules: Sequence[Conditions]
    exclusions: Sequence[Exclusion] = ()

    def __post_init__(self) -> None:
        if not all(rule.accounts for rule in self.rules):
            raise ValueError(f"tenant {self.id} has a rule without accounts")
        if any(key_region(key) != region for region, key in self.keys.items()):
            raise ValueError(f"tenant {self.id} has a key listed under another Region than its own")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule or exclusion says of a log group: `why_not` is empty where it matches."""

    subject: str
    why_not: str

    @property
    def is_match(self) -> bool:
        return not self.why_not


@dataclass(frozen=True, slots=True, eq=False)
class _Claim:
    """One rule of one tenant."""

    tenant: Tenant
    number: int
    conditions: Conditions

    def __str__(self) -> str:
        return f"rule {self.number} of {self.tenant.id}"


class _Claims:
    """The claims on one account, found by the plain start of the name: thousands of tenants may share an account."""

    __slots__ = ("_by_head", "_lengths", "all")

    def __init__(self, claims: Sequence[_Claim]) -> None:
        self.all = tuple(claims)
        self._by_head: dict[str, list[_Claim]] = defaultdict(list)
        for claim in claims:
            names = claim.conditions.names
            for head in {""} if names is None else names.heads:
                self._by_head[head].append(claim)
        self._lengths = sorted({len(head) for head in self._by_head})

    def for_name(self, name: str) -> list[_Claim]:
        """Those whose condition on the name may hold, each once, in an order that depends on the rules alone."""
        heads = (name[:length] for length in self._lengths)
        return list(dict.fromkeys(claim for head in heads for claim in self._by_head.get(head, ())))


class TenantRules:
    """Every tenant's rules. Immutable: a new version is a new object. Raises ValueError for tenants that cannot stand together."""

    def __init__(
        self, *, tenants: Sequence[Tenant], exclusions: Sequence[Exclusion] = (), default: TenantId | None = None
    ) -> None:
        by_id = {tenant.id: tenant for tenant in tenants}
        if len(by_id) != len(tenants):
            raise ValueError("two tenants have one id")
        if default is not None and default not in by_id:
            raise ValueError(f"the default tenant {default} is not among the tenants")
        self._exclusions = tuple(_labelled(exclusions))
        self._default = None if default is None else by_id[default]
        self._tenant_count = len(by_id)
        claims: dict[AccountId, list[_Claim]] = defaultdict(list)
        for tenant in tenants:
            for number, conditions in enumerate(tenant.rules, start=1):
                for account in conditions.accounts:
                    claims[account].append(_Claim(tenant, number, conditions))
        self._claims = {account: _Claims(on_account) for account, on_account in claims.items()}

    def __len__(self) -> int:
        """The number of tenants."""
        return self._tenant_count

    def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        """Decide whose a log group is and which key it goes under. Pure: the same question has the same answer.

        `tags` are the group's own, None where they are not known. Then no condition on a tag holds, of a rule or of an exclusion:
        ask `depends_on_tags` first where they can be looked up.
        """
        if log_group.name.lower().startswith(_RESERVED_PREFIX):
            return Excluded(f"names that start with {_RESERVED_PREFIX} are reserved for AWS")
        for label, conditions in self._exclusions:
            if conditions.unmet(log_group, tags) is None:
                return Excluded(label)
        claims = self._claims.get(log_group.account)
        if claims is None:
            return Undecided(FailureClass.ACCOUNT_NOT_LISTED, f"no rule lists account {log_group.account}")
        matching = [c for c in claims.for_name(log_group.name) if c.conditions.unmet(log_group, tags) is None]
        if matching:
            first = matching[0]
            rival = next((claim for claim in matching if claim.tenant is not first.tenant), None)
            if rival is not None:
                return Undecided(FailureClass.AMBIGUOUS_TENANT, f"{first} matches, and so does {rival}")
            return _for_tenant(first.tenant, str(first), log_group, tags)
        if self._default is not None:
            return _for_tenant(self._default, "the default tenant", log_group, tags)
        return Undecided(FailureClass.UNKNOWN_TENANT, _nobodys(claims.all, log_group, tags))

    def depends_on_tags(self, log_group: LogGroup) -> bool:
        """Whether the group's tags may change the decision, so that it is worth looking them up."""
        on_account = self._claims.get(log_group.account)
        if on_account is None:
            return False  # and nobody may look: a role is assumed only in listed accounts
        claims = on_account.for_name(log_group.name)
        tenants = {claim.tenant.id: claim.tenant for claim in claims}
        if self._default is not None:
            tenants[self._default.id] = self._default
        conditions = [
            *(conditions for _, conditions in self._exclusions),
            *(claim.conditions for claim in claims),
            *(exclusion.conditions for tenant in tenants.values() for exclusion in tenant.exclusions),
        ]
        return any(each.unmet(log_group, None) is Unmet.TAGS_UNKNOWN for each in conditions)

    def explain(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> list[Finding]:
        """What each exclusion, and each rule that lists the group's account, says: for a person who asks why."""
        on_account = self._claims.get(log_group.account)
        claims = on_account.all if on_account else ()
        owners = {claim.tenant.id: claim.tenant for claim in claims if claim.conditions.unmet(log_group, tags) is None}
        if claims and not owners and self._default is not None:
            owners[self._default.id] = self._default
        asked = [
            *self._exclusions,
            *((str(claim), claim.conditions) for claim in claims),
            *(labelled for tenant in owners.values() for labelled in _labelled(tenant.exclusions, tenant.id)),
        ]
        return [Finding(label, conditions.why_not(log_group, tags)) for label, conditions in asked]


def _for_tenant(tenant: Tenant, rule: str, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
    for label, conditions in _labelled(tenant.exclusions, tenant.id):
        if conditions.unmet(log_group, tags) is None:
            return Excluded(label)
    key = tenant.keys.get(log_group.region)
    if key is None:
        detail = f"{rule} decides; the keys of {tenant.id} are in {listed(tenant.keys) or 'no Region'}"
        return Undecided(FailureClass.NO_KEY_IN_REGION, detail, tenant.id)
    return Owned(tenant.id, key, rule)


def _nobodys(claims: Sequence[_Claim], log_group: LogGroup, tags: Mapping[str, str] | None) -> str:
    """Why none of the rules that list the account matches, the first few of them."""
    told = [f"{claim}: {claim.conditions.why_not(log_group, tags)}" for claim in claims[:MAX_LISTED]]
    more = f"; and {len(claims) - MAX_LISTED} more" if len(claims) > MAX_LISTED else ""
    return f"no rule that lists account {log_group.account} matches: {'; '.join(told)}{more}"


def _labelled(exclusions: Iterable[Exclusion], tenant: TenantId | None = None) -> Iterator[tuple[str, Conditions]]:
    """Exclusions as people are told of them: numbered, with whose they are and the reason."""
    for number, exclusion in enumerate(exclusions, start=1):
        label = f"exclusion {number}" if tenant is None else f"exclusion {number} of {tenant}"
        yield f"{label}: {exclusion.reason}" if exclusion.reason else label, exclusion.conditions
