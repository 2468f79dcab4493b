"""Rules as claims on log groups, and an index that finds the few claims that may concern a log group among thousands."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from service.domain.conditions import END, Conditions
from service.domain.log_group import AccountId, LogGroup, TenantId
from service.domain.name_pattern import NamePattern

FEW: Final = 8  # claims that are as quickly asked one by one
_MAX_TAG_KEYS: Final = 3  # by which claims are told apart: the most frequent ones
_ANYTHING: Final = frozenset({""})


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """One rule of a tenant's, or, where `owner` is None, a shared one whose name pattern reads the tenant out of the name.

    Claims are ordered as the rules are: `order` is the place among all of them, `number` the one that people know it by.
    """

    order: int
    owner: TenantId | None
    number: int
    conditions: Conditions

    def __post_init__(self) -> None:
        if (self.owner is None) != isinstance(self.conditions.names, NamePattern):
            raise ValueError(f"{self} needs either an owner or a name pattern")

    def __lt__(self, other: "Claim") -> bool:
        return self.order < other.order

    def claimant(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> TenantId | None:
        """Whose the group is by this rule, None where the rule does not match. There may be no tenant of a shared rule's id."""
        if self.conditions.unmet(log_group, tags) is not None:
            return None
        names = self.conditions.names
        return names.tenant_in(log_group.name) if isinstance(names, NamePattern) else self.owner

    def __str__(self) -> str:
        return f"shared rule {self.number}" if self.owner is None else f"rule {self.number} of {self.owner}"


@dataclass(frozen=True, slots=True)
class Feature:
    """A text of a log group by whose start claims can be told apart: its name, its name backwards, or the value of a tag."""

    tag: str | None = None
    is_backwards: bool = False

    def of_claim(self, claim: Claim) -> frozenset[str]:
        """Prefixes: each group that the claim matches has a text that starts with one of them."""
        conditions = claim.conditions
        patterns = conditions.names if self.tag is None else conditions.tags.get(self.tag)
        if patterns is None:
            return _ANYTHING
        return patterns.tails if self.is_backwards else patterns.heads

    def of_group(self, name: str, tags: Mapping[str, str]) -> str:
        """The text of a group; empty where it has no such tag."""
        if self.tag is None:
            return f"{name[::-1] if self.is_backwards else name}{END}"
        return f"{tags[self.tag]}{END}" if self.tag in tags else ""


_NAME_FEATURES: Final = (Feature(), Feature(is_backwards=True))


def features(claims: Iterable[Claim]) -> list[Feature]:
    """By what these claims can be told apart."""
    keys = Counter(chain.from_iterable(claim.conditions.tags for claim in claims))
    return [*_NAME_FEATURES, *(Feature(key) for key, _ in keys.most_common(_MAX_TAG_KEYS))]


class ClaimIndex:
    """Claims by the feature that tells them apart best, and those that it leaves together by another one."""

    __slots__ = ("_buckets", "_claims", "_feature", "_lengths")

    def __init__(self, claims: Sequence[Claim], unused: Iterable[Feature]) -> None:
        self._claims = tuple(claims)
        self._feature: Feature | None = None
        by_feature = {feature: by_start(feature, claims) for feature in unused} if len(claims) > FEW else {}
        best = min(by_feature, key=lambda feature: _most_left(by_feature[feature]), default=None)
        if best is not None and _most_left(by_feature[best]) < (len(claims), True):
            self._feature = best
            others = [feature for feature in by_feature if feature != best]
            self._buckets = {start: ClaimIndex(bucket, others) for start, bucket in by_feature[best].items()}
            self._lengths = sorted({len(start) for start in self._buckets})

    def candidates(self, name: str, tags: Mapping[str, str]) -> Iterator[Claim]:
        """Those that may match a group of this name and these tags, some perhaps more than once."""
        if self._feature is None:
            return iter(self._claims)
        text = self._feature.of_group(name, tags)
        buckets = [self._buckets[start] for n in self._lengths if (start := text[:n]) in self._buckets]
        return chain.from_iterable(bucket.candidates(name, tags) for bucket in buckets)


def by_start(feature: Feature, claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """Claims by prefix: each is listed under every prefix with which a group that it matches may start."""
    buckets: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        for start in feature.of_claim(claim):
            buckets[start].append(claim)
    return buckets


def _most_left(buckets: Mapping[str, Sequence[Claim]]) -> tuple[int, bool]:
    """The most claims that are left together, and whether some are left for every group."""
    return max(map(len, buckets.values())), "" in buckets


class AccountClaims:
    """The claims on an account: those that ask for tags apart from those that do not, since tags are often not known."""

    __slots__ = ("_tagged", "_tagged_by_name", "_untagged", "all")

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.all = tuple(claims)
        tagged = [claim for claim in claims if claim.conditions.tags]
        self._untagged = ClaimIndex([claim for claim in claims if not claim.conditions.tags], _NAME_FEATURES)
        self._tagged = ClaimIndex(tagged, features(tagged))
        self._tagged_by_name = ClaimIndex(tagged, _NAME_FEATURES)

    def candidates(self, name: str, tags: Mapping[str, str] | None) -> Iterator[Claim]:
        """Those that may match, some perhaps more than once; no condition on tags that are not known holds."""
        untagged = self._untagged.candidates(name, {})
        return untagged if tags is None else chain(untagged, self._tagged.candidates(name, tags))

    def candidates_for_some_tags(self, name: str) -> Iterator[Claim]:
        """Those that ask for tags and may match, whatever the tags are."""
        return self._tagged_by_name.candidates(name, {})


def by_account(claims: Iterable[Claim]) -> dict[AccountId, tuple[Claim, ...]]:
    """The claims on each account; accounts with the same ones, as those of a unit have them, share one tuple."""
    on_account: dict[AccountId, list[Claim]] = defaultdict(list)
    for claim in claims:
        for account in claim.conditions.accounts:
            on_account[account].append(claim)
    shared: dict[tuple[Claim, ...], tuple[Claim, ...]] = {}
    result = {}
    for account, of_account in on_account.items():
        same = tuple(of_account)
        result[account] = shared.setdefault(same, same)
    return result
