"""No tenant's key on another tenant's group, for any rules: the compiled ones against the plainest model of what they mean.

Rules are generated; the groups and tags they are asked about are a small world, asked about wholly.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.conditions import Conditions, Globs
from service.domain.log_group import KeyArn, LogGroup, TenantId, account_id, key_arn, region_name
from service.domain.outcome import FailureClass
from service.domain.tenancy import Excluded, Exclusion, Owned, Tenant, TenantRules, Undecided

Tags = Mapping[str, str] | None

ACCOUNTS = [account_id(f"{n}" * 12) for n in (1, 2)]
UNLISTED = account_id("3" * 12)
REGIONS = [region_name(name) for name in ("eu-west-1", "us-east-1")]
NAMES = ["/a", "/a/b", "/b", "b", "/A", "AWS/a"]
TAGS: list[Tags] = [None, {}, {"team": "a"}, {"team": "b", "env": "a"}]
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


EXCLUSIONS: st.SearchStrategy[list[Exclusion]] = st.just([]) | st.lists(
    st.builds(Exclusion, conditions(min_accounts=1)), max_size=1
)


@dataclass(frozen=True)
class Registry:
    tenants: Sequence[Tenant]
    exclusions: Sequence[Exclusion]
    default: TenantId | None

    def compiled(self) -> TenantRules:
        return TenantRules(tenants=self.tenants, exclusions=self.exclusions, default=self.default)


def key_of(tenant: TenantId, region: str) -> KeyArn:
    return key_arn(f"arn:aws:kms:{region}:{ACCOUNTS[0]}:key/{tenant}")


@st.composite
def registries(draw: st.DrawFn) -> Registry:
    ids = draw(st.sampled_from([["acme"], ["acme", "blue"], ["acme", "blue", "cyan"]]))
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
    return Registry(tenants, draw(EXCLUSIONS), default)


def holds(each: Conditions, group: LogGroup, tags: Tags) -> bool:
    return (
        (not each.accounts or group.account in each.accounts)
        and (not each.regions or group.region in each.regions)
        and (each.names is None or any(fnmatchcase(group.name, pattern) for pattern in each.names.patterns))
        and all(
            tags is not None and key in tags and any(fnmatchcase(tags[key], pattern) for pattern in globs.patterns)
            for key, globs in each.tags.items()
        )
    )


def model(registry: Registry, group: LogGroup, tags: Tags) -> object:
    """The (tenant, key), or the failure, or "excluded"."""
    if group.name.lower().startswith("aws/") or any(holds(e.conditions, group, tags) for e in registry.exclusions):
        return "excluded"
    owners = [tenant for tenant in registry.tenants if any(holds(rule, group, tags) for rule in tenant.rules)]
    if len(owners) > 1:
        return FailureClass.AMBIGUOUS_TENANT
    if not any(group.account in rule.accounts for tenant in registry.tenants for rule in tenant.rules):
        return FailureClass.ACCOUNT_NOT_LISTED
    owners = owners or [tenant for tenant in registry.tenants if tenant.id == registry.default]
    if not owners:
        return FailureClass.UNKNOWN_TENANT
    if any(holds(e.conditions, group, tags) for e in owners[0].exclusions):
        return "excluded"
    if group.region not in owners[0].keys:
        return FailureClass.NO_KEY_IN_REGION
    return owners[0].id, key_of(owners[0].id, group.region)


@settings(deadline=None)
@given(registries())
def test_the_compiled_rules_decide_as_the_model_does(registry: Registry) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        expected = model(registry, group, tags)
        match rules.decide(group, tags):
            case Owned(tenant, key, _):
                assert (tenant, key) == expected
            case Excluded():
                assert expected == "excluded"
            case Undecided(failure, detail):
                assert failure == expected
                assert detail


@settings(deadline=None)
@given(registries())
def test_a_key_goes_only_to_a_group_that_a_rule_of_its_tenant_matches_and_no_other_tenants(registry: Registry) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        decision = rules.decide(group, tags)
        if not isinstance(decision, Owned):
            continue
        claimants = {tenant.id for tenant in registry.tenants if any(holds(rule, group, tags) for rule in tenant.rules)}
        assert claimants == {decision.tenant} or (not claimants and decision.tenant == registry.default)
        assert decision.key == key_of(decision.tenant, group.region)
        assert group.account != UNLISTED


@settings(max_examples=50, deadline=None)
@given(registries())
def test_an_explanation_agrees_with_what_holds(registry: Registry) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        matching = {finding.subject for finding in rules.explain(group, tags) if finding.is_match}
        for tenant in registry.tenants:
            for number, rule in enumerate(tenant.rules, start=1):
                assert (f"rule {number} of {tenant.id}" in matching) == holds(rule, group, tags)


@settings(deadline=None)
@given(registries())
def test_where_tags_are_said_not_to_matter_they_do_not(registry: Registry) -> None:
    rules = registry.compiled()
    for group, tags in WORLD:
        if group.account != UNLISTED and not rules.depends_on_tags(group):
            assert type(rules.decide(group, tags)) is type(rules.decide(group, None))
            assert model(registry, group, tags) == model(registry, group, None)
