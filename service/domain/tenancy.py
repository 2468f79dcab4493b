"""Which tenant owns a log group and which key is theirs: the rules, compiled once, decided in microseconds.

A tenant has rules of its own; shared rules read the tenant out of the name. What no rule gives to a tenant gets no key. What rules
give to two tenants gets none either, or goes to the rule that comes first: that is the operator's to choose.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Final

from service.domain.claims import AccountClaims, Claim, by_account
from service.domain.conditions import MAX_LISTED, Conditions, Unmet, listed
from service.domain.log_group import AccountId, KeyRef, LogGroup, Region, TenantId, key_region
from service.domain.outcome import FailureClass
from service.domain.overlaps import Overlap, overlaps

IGNORE_TAG: Final = "logwarden:ignore"
_RESERVED_PREFIX: Final = "aws/"  # in any case; AWS lets nobody change a group of such a name


class Match(StrEnum):
    """What decides where several rules match: the tenant that all of them agree on, or the first of them."""

    ALL_AGREE = "all-agree"
    FIRST_MATCH = "first-match"


class IgnoreTag(StrEnum):
    """When a group is left alone for its tag `logwarden:ignore`, whose value may be anything but `false`."""

    NEVER = "never"
    LISTED = "listed"  # where the trigger shows no tags, such as a sweep, the groups that have it are listed, once for all in a lane
    ALWAYS = "always"  # costs a look-up for each group


class Overwrite(StrEnum):
    """Which of a tenant's groups may be brought under its key."""

    ALWAYS = "always"
    # Those without a key: one that has another key is left as it is, an old one of the tenant's too.
    WHEN_NO_KEY = "when-no-key"
    NEVER = "never"  # none: what is wrong is only told

    def why_kept(self, key: str | None) -> str | None:
        """Why a group is left as it is, given the key that it has, which is not the tenant's; None where it is not."""
        match self:
            case Overwrite.WHEN_NO_KEY if key is not None:
                return f"the tenant's overwrite policy is {self}, and the group is under {key}"
            case Overwrite.NEVER:
                return f"the tenant's overwrite policy is {self}, and the group is under {key or 'no key'}"
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Owned:
    """The group is this tenant's, and goes under this key, as far as `overwrite` allows. `rule` says which rule decided, for people."""

    tenant: TenantId
    key: KeyRef
    rule: str
    overwrite: Overwrite = Overwrite.ALWAYS


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
    """One tenant: a key for each Region it uses, the rules for what it owns, what of that to leave alone, and what to overwrite.

    Raises ValueError for a rule without accounts, since a role is assumed only in accounts that are listed, and for a key that is
    not in its Region.
    """

    id: TenantId
    keys: Mapping[Region, KeyRef]
    rules: Sequence[Conditions]
    exclusions: Sequence[Exclusion] = ()
    overwrite: Overwrite = Overwrite.ALWAYS

    def __post_init__(self) -> None:
        if not all(rule.accounts for rule in self.rules):
            raise ValueError(f"tenant {self.id} has a rule without accounts")
        if any(key_region(key) != region for region, key in self.keys.items()):
            raise ValueError(f"tenant {self.id} has a key listed under another Region than its own")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule or exclusion says of a log group: `why_not` is empty where it matches, `note` says what comes of the match."""

    subject: str
    why_not: str
    note: str = ""

    @property
    def is_match(self) -> bool:
        return not self.why_not


class TenantRules:
    """Every tenant's rules. Immutable: a new version is a new object. Raises ValueError for tenants that cannot stand together.

    `shared` are rules whose condition on the name is a NamePattern; they come after the tenants' own. Overlaps are not refused
    here, where they do no harm: `decide` gives no key. Whoever loads rules asks for `overlaps`, and `never_first`.
    """

    def __init__(
        self,
        *,
        tenants: Sequence[Tenant],
        shared: Sequence[Conditions] = (),
        exclusions: Sequence[Exclusion] = (),
        default: TenantId | None = None,
        match: Match = Match.ALL_AGREE,
        ignore_tag: IgnoreTag = IgnoreTag.LISTED,
    ) -> None:
        self.tenants = {tenant.id: tenant for tenant in tenants}
        if len(self.tenants) != len(tenants):
            raise ValueError("two tenants have one id")
        if default is not None and default not in self.tenants:
            raise ValueError(f"the default tenant {default} is not among the tenants")
        if not all(rule.accounts for rule in shared):
            raise ValueError("a shared rule has no accounts")
        self.shared = tuple(shared)
        self._exclusions = tuple(_labelled(exclusions))
        self._default = None if default is None else self.tenants[default]
        self._is_first_match = match is Match.FIRST_MATCH
        self._ignore_tag = ignore_tag
        numbered = chain(
            ((tenant.id, number, rule) for tenant in tenants for number, rule in enumerate(tenant.rules, start=1)),
            ((None, number, rule) for number, rule in enumerate(shared, start=1)),
        )
        self._all = [Claim(order, *numbered_rule) for order, numbered_rule in enumerate(numbered)]
        accounts = by_account(self._all)
        indexes = {claims: AccountClaims(claims) for claims in set(accounts.values())}
        self._claims = {account: indexes[claims] for account, claims in accounts.items()}
        # Most registries ask for no tag anywhere: then no group has to be looked at to know that its tags decide nothing.
        of_tenants = chain.from_iterable(tenant.exclusions for tenant in tenants)
        conditions = [
            *(claim.conditions for claim in self._all),
            *(exclusion.conditions for exclusion in chain(exclusions, of_tenants)),
        ]
        self._asks_for_tags = ignore_tag is IgnoreTag.ALWAYS or any(each.tags for each in conditions)

    def __len__(self) -> int:
        """The number of tenants."""
        return len(self.tenants)

    def lists(self, account: AccountId) -> bool:
        """Whether some rule lists the account: in no other is a role assumed."""
        return account in self._claims

    @property
    def lists_ignored(self) -> bool:
        """Whether the tag counts also for a group whose tags nothing shows: it is worth listing which ones have it."""
        return self._ignore_tag is IgnoreTag.LISTED

    @property
    def keys(self) -> dict[TenantId, Mapping[Region, KeyRef]]:
        """Every tenant's keys."""
        return {tenant.id: tenant.keys for tenant in self.tenants.values()}

    @property
    def default(self) -> TenantId | None:
        """Whose is what no rule matches."""
        return None if self._default is None else self._default.id

    def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        """Decide whose a log group is and which key it goes under. Pure: the same question has the same answer.

        `tags` are the group's own, None where they are not known. Then no condition on a tag holds, of a rule or of an exclusion:
        ask `depends_on_tags` first where they can be looked up.
        """
        if (excluded := self._excluded(log_group, tags)) is not None:
            return excluded
        claims = self._claims.get(log_group.account)
        if claims is None:
            return Undecided(FailureClass.ACCOUNT_NOT_LISTED, f"no rule lists account {log_group.account}")
        matching = _matching(claims, log_group, tags)
        if not matching:
            if self._default is not None:
                return _for_tenant(self._default, "the default tenant", log_group, tags)
            return Undecided(FailureClass.UNKNOWN_TENANT, _nobodys(claims, log_group, tags))
        first, tenant_id = min(matching)
        rivals = [claim for claim, claimant in matching if claimant != tenant_id]
        if rivals and not self._is_first_match:
            return Undecided(FailureClass.AMBIGUOUS_TENANT, f"{first} matches, and so does {min(rivals)}")
        tenant = self.tenants.get(tenant_id)
        if tenant is None:
            detail = f"{first} reads the tenant {tenant_id} out of the name, and there is no such tenant"
            return Undecided(FailureClass.UNKNOWN_TENANT, detail)
        return _for_tenant(tenant, str(first), log_group, tags)

    def depends_on_tags(self, log_group: LogGroup) -> bool:
        """Whether the group's tags may change the decision, so that it is worth looking them up."""
        if not self._asks_for_tags:
            return False
        claims = self._claims.get(log_group.account)
        if claims is None or _is_reserved(log_group):
            return False  # and nobody may look: a role is assumed only in listed accounts
        excluding = [conditions.unmet(log_group, None) for _, conditions in self._exclusions]
        if None in excluding:
            return False
        if self._ignore_tag is IgnoreTag.ALWAYS or Unmet.TAGS_UNKNOWN in excluding:
            return True
        first, tenant_id = min(_matching(claims, log_group, None), default=(None, None))
        if any(
            (claim.owner is None or claim.owner != tenant_id)
            and claim.conditions.unmet(log_group, None) is Unmet.TAGS_UNKNOWN
            and not (self._is_first_match and first is not None and first < claim)
            for claim in claims.candidates_for_some_tags(log_group.name)
        ):
            return True
        tenant = self.tenants.get(tenant_id) if tenant_id is not None else self._default
        return tenant is not None and any(
            exclusion.conditions.unmet(log_group, None) is Unmet.TAGS_UNKNOWN for exclusion in tenant.exclusions
        )

    def explain(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> list[Finding]:
        """What each exclusion, and each rule that lists the group's account, says: for a person who asks why.

        In the order in which they are asked; where the group is excluded, what rules say is what would be without it.
        """
        on_account = self._claims.get(log_group.account)
        claims = on_account.all if on_account else ()
        claimants = {claim: id_ for claim in claims if (id_ := claim.claimant(log_group, tags)) is not None}
        owners = list(dict.fromkeys(claimants.values()))
        if self._is_first_match:
            del owners[1:]
        if claims and not owners and self._default is not None:
            owners = [self._default.id]
        findings = [Finding(label, conditions.why_not(log_group, tags)) for label, conditions in self._exclusions]
        if self._ignore_tag is not IgnoreTag.NEVER:
            findings.insert(0, Finding(f"tag {IGNORE_TAG}", self._why_not_ignored(tags) or ""))
        for claim in claims:
            note = self._what_comes_of(claim, claimants) if claim in claimants else ""
            findings.append(Finding(str(claim), claim.conditions.why_not(log_group, tags), note))
        for tenant in (self.tenants[id_] for id_ in owners if id_ in self.tenants):
            for label, conditions in _labelled(tenant.exclusions, tenant.id):
                findings.append(Finding(label, conditions.why_not(log_group, tags)))
        return findings

    def overlaps(self) -> Iterator[Overlap]:
        """Each pair of rules that could give one log group to two tenants; none where the first one wins."""
        return iter(()) if self._is_first_match else overlaps(self._all)

    def without_key(self) -> Iterator[tuple[Claim, Sequence[Region]]]:
        """Each rule of a tenant's that names Regions in which the tenant has no key, and these: what it owns there gets none."""
        for claim in self._all:
            if claim.owner is not None and (
                keyless := claim.conditions.regions - self.tenants[claim.owner].keys.keys()
            ):
                yield claim, sorted(keyless)

    def never_first(self) -> Iterator[tuple[Claim, Claim]]:
        """Each rule that can never decide, where the first one wins, and the rule with the same conditions before it."""
        earlier: dict[object, Claim] = {}
        for claim in self._all if self._is_first_match else ():
            first = earlier.setdefault(claim.conditions.signature(), claim)
            if first is not claim:
                yield claim, first

    def _excluded(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Excluded | None:
        if _is_reserved(log_group):
            return Excluded(f"names that start with {_RESERVED_PREFIX} are reserved for AWS")
        if self._why_not_ignored(tags) is None:
            return Excluded(f"it has the tag {IGNORE_TAG}")
        matching = (label for label, conditions in self._exclusions if conditions.unmet(log_group, tags) is None)
        label = next(matching, None)
        return None if label is None else Excluded(label)

    def _why_not_ignored(self, tags: Mapping[str, str] | None) -> str | None:
        """Why the tag `logwarden:ignore` does not decide; None where it does."""
        if self._ignore_tag is IgnoreTag.NEVER:
            return "it is switched off"
        if tags is None:
            return "the tags are not known"
        if IGNORE_TAG not in tags:
            return "there is no such tag"
        value = tags[IGNORE_TAG]
        return f"it is {value}" if value.lower() == "false" else None

    def _what_comes_of(self, claim: Claim, claimants: Mapping[Claim, TenantId]) -> str:
        """What follows from a match, given all that match, in their order."""
        id_ = claimants[claim]
        first = next(iter(claimants))
        if self._is_first_match and claim is not first:
            return f"comes after {first}"
        rival = next((other for other, other_id in claimants.items() if other_id != id_), None)
        if rival is not None and not self._is_first_match:
            return f"disagrees with {rival}"
        if id_ not in self.tenants:
            return f"reads the tenant {id_} out of the name, and there is no such tenant"
        if claim is not first:
            return f"agrees with {first}"
        return "decides" if claim.owner is not None else f"decides: reads the tenant {id_} out of the name"


def _matching(
    claims: AccountClaims, log_group: LogGroup, tags: Mapping[str, str] | None
) -> list[tuple[Claim, TenantId]]:
    """The claims that match, perhaps one of them twice, each with the tenant that it gives the group to."""
    return [
        (claim, tenant_id)
        for claim in claims.candidates(log_group.name, tags)
        if (tenant_id := claim.claimant(log_group, tags)) is not None
    ]


def _is_reserved(log_group: LogGroup) -> bool:
    return log_group.name[: len(_RESERVED_PREFIX)].lower() == _RESERVED_PREFIX


def _for_tenant(tenant: Tenant, rule: str, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
    for label, conditions in _labelled(tenant.exclusions, tenant.id):
        if conditions.unmet(log_group, tags) is None:
            return Excluded(label)
    key = tenant.keys.get(log_group.region)
    if key is None:
        detail = f"{rule} decides; the keys of {tenant.id} are in {listed(tenant.keys) or 'no Region'}"
        return Undecided(FailureClass.NO_KEY_IN_REGION, detail, tenant.id)
    return Owned(tenant.id, key, rule, tenant.overwrite)


def _nobodys(claims: AccountClaims, log_group: LogGroup, tags: Mapping[str, str] | None) -> str:
    """Why none of the rules that list the account matches: of a few, those first that come nearest by name."""
    near = claims.candidates(log_group.name, tags)
    few = list(dict.fromkeys(chain(islice(near, MAX_LISTED), claims.all[:MAX_LISTED])))[:MAX_LISTED]
    told = [f"{claim}: {claim.conditions.why_not(log_group, tags)}" for claim in few]
    more = f"; and {len(claims.all) - len(few)} more" if len(claims.all) > len(few) else ""
    return f"no rule that lists account {log_group.account} matches: {'; '.join(told)}{more}"


def _labelled(exclusions: Iterable[Exclusion], tenant: TenantId | None = None) -> Iterator[tuple[str, Conditions]]:
    """Exclusions as people are told of them: numbered, with whose they are and the reason."""
    for number, exclusion in enumerate(exclusions, start=1):
        label = f"exclusion {number}" if tenant is None else f"exclusion {number} of {tenant}"
        yield f"{label}: {exclusion.reason}" if exclusion.reason else label, exclusion.conditions
