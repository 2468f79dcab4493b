"""Which rules could give one log group to two tenants: found when rules are loaded, with a log group to show for it.

Names are compared exactly, whatever the patterns. Values of tags that are both globs are compared by their plain starts and ends,
so that two globs may be called overlapping that are not; so may two shared rules that read one tenant at two places of a name.
Names that are reserved for AWS and exclusions are not looked at: rules should not need them to be told apart.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Final

from service.domain.claims import FEW, Claim, Feature, by_account, by_start, features
from service.domain.conditions import Conditions, Globs, listed
from service.domain.log_group import AccountId, Region
from service.domain.name_language import (
    NameLanguage,
    common_name,
    common_name_of_another,
    common_name_read_elsewhere,
)
from service.domain.name_pattern import NamePattern

_ANY_NAME: Final = Globs("*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two rules and a log group that both match, `second` being the later rule; Region None is any, `tags` says which it has."""

    first: Claim
    second: Claim
    account: AccountId
    region: Region | None
    name: str
    tags: str

    @property
    def example(self) -> str:
        """The log group, for people."""
        region = f" in {self.region}" if self.region else ""
        tags = f", with {self.tags}" if self.tags else ""
        return f"{self.name} of account {self.account}{region}{tags}"


def overlaps(claims: Iterable[Claim]) -> Iterator[Overlap]:
    """Each pair of rules that could give a log group to two tenants, once. Lazy: the first ones are quick to have."""
    asked: set[tuple[Claim, Claim]] = set()
    languages = cache(lambda names: names.language())
    one_account = {on_account: account for account, on_account in by_account(claims).items()}
    for on_account, account in one_account.items():
        for one, other in _pairs(on_account):
            first, second = sorted((one, other))
            if first is second or (first.owner is not None and first.owner == second.owner):
                continue
            if (first, second) in asked or not _may_meet(first.conditions, second.conditions):
                continue
            asked.add((first, second))
            name = _disputed_name(first, second, languages)
            if name is not None:
                region = _common_region(first.conditions.regions, second.conditions.regions)
                tags = _both_tags(first.conditions.tags, second.conditions.tags)
                yield Overlap(first=first, second=second, account=account, region=region, name=name, tags=tags)


def _common_region(some: frozenset[Region], others: frozenset[Region]) -> Region | None:
    """The first one in both, which are not disjoint; an empty set is every Region."""
    return min(some & others or some | others, default=None)


# -- which pairs are worth a closer look


def _pairs(claims: Sequence[Claim], used: frozenset[Feature] = frozenset()) -> Iterator[tuple[Claim, Claim]]:
    """Pairs that no feature, of those that leave the fewest together, tells apart; some of them more than once."""
    unused = [feature for feature in features(claims) if feature not in used] if len(claims) > FEW else []
    orders = {feature: sorted(by_start(feature, claims).items()) for feature in unused}
    if not orders:
        yield from combinations(claims, 2)
        return
    best = min(orders, key=lambda feature: _pair_count((start, len(bucket)) for start, bucket in orders[feature]))
    buckets = orders[best]
    for index, (start, bucket) in enumerate(buckets):
        yield from _pairs(bucket, used | {best})
        for following in range(index + 1, len(buckets)):
            longer, others = buckets[following]
            if not longer.startswith(start):  # in this order, those that do come first
                break
            yield from product(bucket, others)


def _pair_count(ordered: Iterable[tuple[str, int]]) -> int:
    """How many pairs there are whose one text starts with the other, given each text and how many have it."""
    count = 0
    starts: list[tuple[str, int]] = []  # those that the text starts with
    for text, size in ordered:
        while starts and not text.startswith(starts[-1][0]):
            starts.pop()
        count += size * (size - 1) // 2 + size * sum(others for _, others in starts)
        starts.append((text, size))
    return count


def _may_meet(one: Conditions, other: Conditions) -> bool:
    """Whether Regions, tags and the plain ends of the names leave a common log group possible."""
    return (
        (not one.regions or not other.regions or not one.regions.isdisjoint(other.regions))
        and (one.names is None or other.names is None or _ends_agree(one.names, other.names))
        and all(_values_may_agree(globs, other.tags[key]) for key, globs in one.tags.items() if key in other.tags)
    )


def _ends_agree(one: Globs | NamePattern, other: Globs | NamePattern) -> bool:
    return _starts_agree(one.heads, other.heads) and _starts_agree(one.tails, other.tails)


def _starts_agree(some: Iterable[str], others: Iterable[str]) -> bool:
    return any(a.startswith(b) or b.startswith(a) for a, b in product(some, others))


def _values_may_agree(one: Globs, other: Globs) -> bool:
    if len(one.plain) == len(one.patterns):
        return any(map(other.matches, one.plain))
    if len(other.plain) == len(other.patterns):
        return any(map(one.matches, other.plain))
    return _ends_agree(one, other)


def _both_tags(one: Mapping[str, Globs], other: Mapping[str, Globs]) -> str:
    told = []
    for key in sorted({*one, *other}):
        globs = [tags[key] for tags in (one, other) if key in tags]
        common = sorted(value for each in globs for value in each.plain if all(g.matches(value) for g in globs))
        value = common[0] if common else " and ".join(listed(each.patterns) for each in globs)
        told.append(f"tag {key} = {value}")
    return ", ".join(told)


# -- a name that both match


def _disputed_name(one: Claim, other: Claim, languages: Callable[[Globs | NamePattern], NameLanguage]) -> str | None:
    """The shortest name that the two claims give to two tenants."""
    ours, theirs = (languages(claim.conditions.names or _ANY_NAME) for claim in (one, other))
    if one.owner is None and other.owner is None:
        return common_name_read_elsewhere(ours, theirs)
    if one.owner is None and other.owner is not None:
        return common_name_of_another(ours, theirs, other.owner)
    if one.owner is not None and other.owner is None:
        return common_name_of_another(theirs, ours, one.owner)
    return common_name(ours, theirs)
