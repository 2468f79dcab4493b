"""No tenant's key on another tenant's group, for any rules: the compiled ones against the plainest model of what they mean.

Rules are generated; the groups and tags they are asked about are a small world, asked about wholly.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.conditions import Conditions, Globs, Unmet
from service.domain.log_group import KeyArn, LogGroup, TenantId, account_id, key_arn, region_name
from service.domain.name_pattern import NamePattern
from service.domain.outcome import FailureClass
from service.domain.tenancy import (
    Decision,
    Excluded,
    Exclusion,
    IgnoreTag,
    Match,
    Owned,
    Tenant,
    TenantRules,
    Undecided,
)

Tags = Mapping[str, str] | None

ACCOUNTS = [account_id(f"{n}" * 12) for n in (1, 2)]
UNLISTED = account_id("3" * 12)
REGIONS = [region_name(name) for name in ("eu-west-1", "us-east-1")]
NAMES = ["/a", "/a/b", "/b", "b", "/A", "AWS/a", "/acme/b", "acme"]
TAGS: list[Tags] = [None, {}, {"team": "a"}, {"team": "b", "env": "a"}, {"team": "a", "logwarden:ignore": "1"}]
WORLD = [
    (LogGroup(account, region, name), tags)
    for account, region, name, tags in itertools.product([*ACCOUNTS, UNLISTED], REGIONS, NAMES, TAGS)
]

PATTERNS = st.sampled_from(
    ["*", "/a", "/a*", "/a/*", "/b*", "?b", "*b", "[!/]*", "/[ab]", "/a[", "", "aws/*", "a", "b"]
)
GLOBS = st.lists(PATTERNS, min_size=1, max_size=2).map(Globs)


def conditions(*, min_accounts: int) -> st.SearchStrategy[Conditions]:
    return st.builds(
        Conditions,
        accounts=st.frozensets(st.sampled_from(ACCOUNTS), min_size=min_accounts),
        regions=st.frozensets(st.sampled_from(REGIONS)),
        names=st.none() | GLOBS,
        tags=st.dictionaries(st.sampled_from(["team", "env"]), GLOBS, max_size=2),
    )


SHARED = st.builds(
    Conditions,
    accounts=st.frozensets(st.sampled_from(ACCOUNTS), min_size=1),
    regions=st.frozensets(st.sampled_from(REGIONS)),
    names=st.sampled_from(
        [NamePattern(text) for text in (r"^/(?P<tenant>[a-z]+)/", r"^/?(?P<tenant>\w+)$", r"^/a/(?P<tenant>b)")]
    ),
    tags=st.dictionaries(st.just("team"), GLOBS, max_size=1),
)
EXCLUSIONS: st.SearchStrategy[list[Exclusion]] = st.just([]) | st.lists(
    st.builds(Exclusion, conditions(min_accounts=1)), max_size=1
)


@dataclass(frozen=True)
class Registry:
    tenants: Sequence[Tenant]
    shared: Sequence[Conditions]
    exclusions: Sequence[Exclusion]
    default: TenantId | None
    match: Match
    ignore_tag: IgnoreTag

    def compiled(self) -> TenantRules:
        return TenantRules(
            tenants=self.tenants,
            shared=self.shared,
            exclusions=self.exclusions,
            default=self.default,
            match=self.match,
            ignore_tag=self.ignore_tag,
        )

    def claimants(self, group: LogGroup, tags: Tags) -> list[str]:
        """The tenants that rules give the group to, in the order of the rules."""
        own = [tenant.id for tenant in self.tenants for rule in tenant.rules if holds(rule, group, tags)]
        read = [re.match(regex_of(rule), group.name) for rule in self.shared if holds(rule, group, tags)]
        return [*own, *(match["tenant"] for match in read if match)]


def key_of(tenant: TenantId, region: str) -> KeyArn:
    return key_arn(f"arn:aws:kms:{region}:{ACCOUNTS[0]}:key/{tenant}")


@st.composite
def registries(draw: st.DrawFn, matches: Sequence[Match] = tuple(Match)) -> Registry:
    ids = draw(st.sampled_from([["acme"], ["acme", "b"], ["acme", "b", "cyan"]]))
    tenants = [
        Tenant(
            id=TenantId(id_),
            keys={region: key_of(TenantId(id_), region) for region in draw(st.sampled_from([REGIONS, REGIONS[:1]]))},
            rules=draw(st.lists(conditions(min_accounts=1), min_size=1, max_size=2)),
            exclusions=draw(EXCLUSIONS),
        )
        for id_ in ids
    ]
    default = draw(st.none() | st.sampled_from([tenant.id for tenant in tenants]))
    shared = draw(st.just([]) | st.lists(SHARED, max_size=2))
    match, ignore_tag = draw(st.sampled_from(matches)), draw(st.sampled_from(IgnoreTag))
    return Registry(tenants, shared, draw(EXCLUSIONS), default, match, ignore_tag)


def regex_of(rule: Conditions) -> str:
    assert isinstance(rule.names, NamePattern)
    return rule.names.patterns[0]


def holds(each: Conditions, group: LogGroup, tags: Tags) -> bool:
    return (
        (not each.accounts or group.account in each.accounts)
        and (not each.regions or group.region in each.regions)
        and (
            each.names is None
            or (isinstance(each.names, NamePattern) and re.match(regex_of(each), group.name) is not None)
            or (isinstance(each.names, Globs) and any(fnmatchcase(group.name, p) for p in each.names.patterns))
        )
        and all(
            tags is not None and key in tags and any(fnmatchcase(tags[key], pattern) for pattern in globs.patterns)
            for key, globs in each.tags.items()
        )
    )


def model(registry: Registry, group: LogGroup, tags: Tags) -> object:
    """The (tenant, key), or the failure, or "excluded"."""
    if group.name.lower().startswith("aws/") or any(holds(e.conditions, group, tags) for e in registry.exclusions):
        return "excluded"
    if registry.ignore_tag is not IgnoreTag.NEVER and (tags or {}).get("logwarden:ignore", "false") != "false":
        return "excluded"
    rules = [*(rule for tenant in registry.tenants for rule in tenant.rules), *registry.shared]
    if not any(group.account in rule.accounts for rule in rules):
        return FailureClass.ACCOUNT_NOT_LISTED
    claimants = registry.claimants(group, tags)
    if registry.match is Match.FIRST_MATCH:
        del claimants[1:]
    if len(set(claimants)) > 1:
        return FailureClass.AMBIGUOUS_TENANT
    owner = claimants[0] if claimants else registry.default
    tenant = next((tenant for tenant in registry.tenants if tenant.id == owner), None)
    if tenant is None:
        return FailureClass.UNKNOWN_TENANT
    if any(holds(e.conditions, group, tags) for e in tenant.exclusions):
        return "excluded"
    if group.region not in tenant.keys:
        return FailureClass.NO_KEY_IN_REGION
    return tenant.id, key_of(tenant.id, group.region)


def result(decision: Decision) -> object:
    match decision:
        case Owned(tenant, key):
            return tenant, key
        case Excluded():
            return "excluded"
        case Undecided(failure):
            return failure


@settings(deadline=None)
@given(registries())
def test_the_compiled_rules_decide_as_the_model_does(registry: Registry) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        decision = rules.decide(group, tags)
        assert result(decision) == model(registry, group, tags)
        assert not isinstance(decision, Undecided) or decision.detail


@settings(deadline=None)
@given(registries())
def test_a_key_goes_only_to_a_group_that_a_rule_gives_to_its_tenant_and_none_that_counts_to_another(
    registry: Registry,
) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        decision = rules.decide(group, tags)
        if not isinstance(decision, Owned):
            continue
        claimants = registry.claimants(group, tags)
        counted = set(claimants[:1] if registry.match is Match.FIRST_MATCH else claimants)
        assert counted == {decision.tenant} or (not counted and decision.tenant == registry.default)
        assert decision.key == key_of(decision.tenant, group.region)
        assert group.account != UNLISTED


@settings(max_examples=50, deadline=None)
@given(registries())
def test_an_explanation_agrees_with_what_holds(registry: Registry) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        findings = {finding.subject: finding for finding in rules.explain(group, tags)}
        own = {
            f"rule {number} of {tenant.id}": rule
            for tenant in registry.tenants
            for number, rule in enumerate(tenant.rules, start=1)
        }
        shared = {f"shared rule {number}": rule for number, rule in enumerate(registry.shared, start=1)}
        for subject, rule in (own | shared).items():
            finding = findings.get(subject)
            assert (finding is not None and finding.is_match) == holds(rule, group, tags)
        decision = rules.decide(group, tags)
        if isinstance(decision, Owned) and decision.rule != "the default tenant":
            assert findings[decision.rule].note.startswith("decides")


@settings(deadline=None)
@given(registries())
def test_where_tags_are_said_not_to_matter_they_do_not(registry: Registry) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        is_ignored = registry.ignore_tag is IgnoreTag.LISTED and "logwarden:ignore" in (tags or {})
        if rules.lists(group.account) and not is_ignored and not rules.depends_on_tags(group):
            assert result(rules.decide(group, tags)) == result(rules.decide(group, None))


@settings(deadline=None)
@given(registries(matches=[Match.ALL_AGREE]), st.randoms(use_true_random=False))
def test_where_all_have_to_agree_the_order_of_tenants_and_rules_does_not_matter(
    registry: Registry, random: Random
) -> None:
    def shuffled(values: Sequence[Any]) -> list[Any]:
        return random.sample(values, len(values))

    tenants = [replace(tenant, rules=shuffled(tenant.rules)) for tenant in shuffled(registry.tenants)]
    other = replace(registry, tenants=tenants, shared=shuffled(registry.shared)).compiled()
    rules = registry.compiled()
    for group, tags in WORLD:
        assert result(rules.decide(group, tags)) == result(other.decide(group, tags))


@settings(deadline=None)
@given(registries(matches=[Match.ALL_AGREE]))
def test_rules_without_overlaps_never_give_a_group_to_two_tenants(registry: Registry) -> None:
    rules = registry.compiled()
    if any(rules.overlaps()):
        return
    for group, tags in WORLD:
        claimants = registry.claimants(group, tags)
        assert len(set(claimants)) <= 1
        if claimants and claimants[0] in {tenant.id for tenant in registry.tenants}:
            decision = result(rules.decide(group, tags))
            assert isinstance(decision, tuple) or decision in {"excluded", FailureClass.NO_KEY_IN_REGION}


@settings(deadline=None)
@given(registries(matches=[Match.ALL_AGREE]))
def test_the_example_of_an_overlap_matches_both_rules(registry: Registry) -> None:
    for overlap in registry.compiled().overlaps():
        group = LogGroup(overlap.account, overlap.region or REGIONS[0], overlap.name)
        for claim in (overlap.first, overlap.second):
            assert claim.conditions.unmet(group, None) in {None, Unmet.TAGS_UNKNOWN}
        assert overlap.first.order < overlap.second.order
