"""Whose log group is it, under which key, and what people are told."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from service.domain.conditions import Conditions, Globs
from service.domain.log_group import KeyArn, LogGroup, TenantId, account_id, key_arn, region_name
from service.domain.name_pattern import NamePattern
from service.domain.outcome import FailureClass
from service.domain.reach import reach_of
from service.domain.tenancy import (
    Excluded,
    Exclusion,
    Finding,
    IgnoreTag,
    Match,
    Owned,
    Tenant,
    TenantRules,
    Undecided,
)

ACME, BLUE = TenantId("acme"), TenantId("blue")
SHARED, OTHER, UNLISTED = "111122223333", "444455556666", "777788889999"


def key_of(tenant: TenantId, region: str = "eu-west-1") -> KeyArn:
    return key_arn(f"arn:aws:kms:{region}:{OTHER}:key/{tenant}-{region}")


def when(
    *accounts: str,
    regions: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    tags: Mapping[str, tuple[str, ...]] | None = None,
) -> Conditions:
    return Conditions(
        accounts=frozenset(map(account_id, accounts)),
        regions=frozenset(map(region_name, regions)),
        names=Globs(names) if names else None,
        tags={key: Globs(globs) for key, globs in (tags or {}).items()},
    )


def shared(*accounts: str, pattern: str, tags: Mapping[str, tuple[str, ...]] | None = None) -> Conditions:
    return Conditions(
        accounts=frozenset(map(account_id, accounts)),
        names=NamePattern(pattern),
        tags={key: Globs(globs) for key, globs in (tags or {}).items()},
    )


def tenant(
    id_: TenantId, *rules: Conditions, regions: tuple[str, ...] = ("eu-west-1",), exclude: tuple[Exclusion, ...] = ()
) -> Tenant:
    keys = {region_name(region): key_of(id_, region) for region in regions}
    return Tenant(id=id_, keys=keys, rules=rules, exclusions=exclude)


def group(name: str = "/acme/orders", account: str = SHARED, region: str = "eu-west-1") -> LogGroup:
    return LogGroup.of(account, region, name)


TWO_TENANTS = TenantRules(
    tenants=[
        tenant(ACME, when(SHARED, names=("/acme/*",)), when(OTHER)),
        tenant(BLUE, when(SHARED, names=("/blue/*",)), when(SHARED, tags={"tenant": ("blue", "azure-*")})),
    ]
)


# -- rules


def test_a_rule_gives_a_group_to_its_tenant() -> None:
    assert TWO_TENANTS.decide(group("/acme/orders"), None) == Owned(ACME, key_of(ACME), "rule 1 of acme")
    assert TWO_TENANTS.decide(group("/blue/orders"), None) == Owned(BLUE, key_of(BLUE), "rule 1 of blue")


def test_any_rule_will_do() -> None:
    assert TWO_TENANTS.decide(group("/anything", account=OTHER), None) == Owned(ACME, key_of(ACME), "rule 2 of acme")


def test_all_conditions_of_a_rule_must_hold() -> None:
    rules = TenantRules(
        tenants=[tenant(ACME, when(SHARED, regions=("eu-west-1",), names=("/acme/*",), tags={"env": ("prod",)}))]
    )
    prod = {"env": "prod"}
    assert isinstance(rules.decide(group(), prod), Owned)
    assert isinstance(rules.decide(group(region="us-east-1"), prod), Undecided)
    assert isinstance(rules.decide(group("/blue/orders"), prod), Undecided)
    assert isinstance(rules.decide(group(), {"env": "test"}), Undecided)
    assert isinstance(rules.decide(group(), {}), Undecided)


def test_any_value_of_a_condition_will_do() -> None:
    rules = TenantRules(
        tenants=[
            tenant(
                ACME,
                when(SHARED, OTHER, regions=("eu-west-1", "us-east-1"), names=("/a/*", "/b")),
                regions=("eu-west-1", "us-east-1"),
            )
        ]
    )
    assert rules.decide(group("/a/x"), None) == Owned(ACME, key_of(ACME), "rule 1 of acme")
    assert rules.decide(group("/b", OTHER, "us-east-1"), None) == Owned(
        ACME, key_of(ACME, "us-east-1"), "rule 1 of acme"
    )


def test_all_tags_of_a_rule_must_match() -> None:
    rules = TenantRules(tenants=[tenant(ACME, when(SHARED, tags={"team": ("a",), "env": ("prod",)}))])
    assert isinstance(rules.decide(group(), {"team": "a", "env": "prod"}), Owned)
    assert isinstance(rules.decide(group(), {"team": "a", "env": "test"}), Undecided)
    assert isinstance(rules.decide(group(), {"team": "a"}), Undecided)


@pytest.mark.parametrize("value", ["blue", "azure-", "azure-sky"])
def test_a_tag_matches_by_its_value(value: str) -> None:
    assert TWO_TENANTS.decide(group("/x"), {"tenant": value}) == Owned(BLUE, key_of(BLUE), "rule 2 of blue")


@pytest.mark.parametrize("tags", [{"tenant": "Blue"}, {"Tenant": "blue"}, {"tenant": ""}, {}])
def test_a_tag_of_another_spelling_does_not_match(tags: dict[str, str]) -> None:
    assert isinstance(TWO_TENANTS.decide(group("/x"), tags), Undecided)


def test_two_rules_of_one_tenant_are_no_conflict() -> None:
    rules = TenantRules(tenants=[tenant(ACME, when(SHARED, names=("/acme/*",)), when(SHARED, names=("/acme/o*", "*")))])
    assert isinstance(rules.decide(group(), None), Owned)


# -- no decision


def test_a_group_that_two_tenants_claim_gets_no_key() -> None:
    decision = TWO_TENANTS.decide(group("/acme/orders"), {"tenant": "blue"})
    assert isinstance(decision, Undecided)
    assert decision.failure is FailureClass.AMBIGUOUS_TENANT
    assert "rule 1 of acme" in decision.detail
    assert "rule 2 of blue" in decision.detail


def test_an_account_in_no_rule_gets_no_key() -> None:
    decision = TWO_TENANTS.decide(group(account=UNLISTED), {"tenant": "blue"})
    assert decision == Undecided(FailureClass.ACCOUNT_NOT_LISTED, f"no rule lists account {UNLISTED}")


def test_a_group_that_no_rule_matches_says_what_each_rule_misses() -> None:
    decision = TWO_TENANTS.decide(group("/green/orders"), None)
    assert isinstance(decision, Undecided)
    assert decision.failure is FailureClass.UNKNOWN_TENANT
    assert "rule 1 of acme: the name matches none of /acme/*" in decision.detail
    assert "rule 2 of blue: the tags are not known, and tenant would have to match" in decision.detail


def test_what_people_are_told_stays_short_with_many_rules() -> None:
    many = [tenant(TenantId(f"t{i}"), when(SHARED, names=(f"/t{i}/*",))) for i in range(500)]
    decision = TenantRules(tenants=many).decide(group(), None)
    assert isinstance(decision, Undecided)
    assert decision.detail.endswith("and 495 more")
    assert len(decision.detail) < 500


def test_a_tenant_without_a_key_in_the_region_gets_no_other() -> None:
    decision = TWO_TENANTS.decide(group(account=OTHER, region="us-east-1"), None)
    assert decision == Undecided(
        FailureClass.NO_KEY_IN_REGION, "rule 2 of acme decides; the keys of acme are in eu-west-1", ACME
    )


# -- exclusions


@pytest.mark.parametrize("name", ["aws/spans", "AWS/spans", "Aws/x"])
def test_reserved_names_are_excluded_whatever_the_rules(name: str) -> None:
    assert isinstance(TWO_TENANTS.decide(group(name, account=OTHER), None), Excluded)
    assert isinstance(TWO_TENANTS.decide(group(name, account=UNLISTED), None), Excluded)


@pytest.mark.parametrize("name", ["/aws/lambda/x", "aws", "awslogs/x"])
def test_names_that_only_resemble_reserved_ones_are_not(name: str) -> None:
    assert isinstance(TWO_TENANTS.decide(group(name, account=OTHER), None), Owned)


def test_a_general_exclusion_goes_before_every_rule() -> None:
    rules = TenantRules(
        tenants=[tenant(ACME, when(SHARED))],
        exclusions=[
            Exclusion(when(OTHER)),
            Exclusion(when(names=("/acme/tmp-*",)), "scratch space"),
            Exclusion(when(tags={"encryption": ("none",)})),
        ],
    )
    assert rules.decide(group("/x", OTHER), None) == Excluded("exclusion 1")
    assert rules.decide(group("/acme/tmp-1"), None) == Excluded("exclusion 2: scratch space")
    assert rules.decide(group(), {"encryption": "none"}) == Excluded("exclusion 3")
    assert isinstance(rules.decide(group(), None), Owned)


def test_a_tenants_exclusion_is_for_its_own_groups() -> None:
    not_debug = Exclusion(when(names=("*/debug",)), "noise")
    rules = TenantRules(
        tenants=[
            tenant(ACME, when(SHARED, names=("/acme/*",)), exclude=(not_debug,)),
            tenant(BLUE, when(SHARED, names=("/blue/*",))),
        ]
    )
    assert rules.decide(group("/acme/debug"), None) == Excluded("exclusion 1 of acme: noise")
    assert isinstance(rules.decide(group("/blue/debug"), None), Owned)


def test_a_tenants_exclusion_settles_no_conflict() -> None:
    rules = TenantRules(
        tenants=[tenant(ACME, when(SHARED), exclude=(Exclusion(when(names=("/acme/*",))),)), tenant(BLUE, when(SHARED))]
    )
    decision = rules.decide(group(), None)
    assert isinstance(decision, Undecided)
    assert decision.failure is FailureClass.AMBIGUOUS_TENANT


# -- the default tenant


def test_the_default_tenant_takes_what_no_rule_matches_in_listed_accounts_only() -> None:
    rules = TenantRules(
        tenants=[
            tenant(ACME, when(SHARED, names=("/acme/*",))),
            tenant(BLUE, when(OTHER), exclude=(Exclusion(when(names=("/tmp/*",))),)),
        ],
        default=BLUE,
    )
    assert rules.decide(group("/x"), None) == Owned(BLUE, key_of(BLUE), "the default tenant")
    assert rules.decide(group("/acme/x"), None) == Owned(ACME, key_of(ACME), "rule 1 of acme")
    assert rules.decide(group("/tmp/x"), None) == Excluded("exclusion 1 of blue")
    decision = rules.decide(group("/x", account=UNLISTED), None)
    assert isinstance(decision, Undecided)
    assert decision.failure is FailureClass.ACCOUNT_NOT_LISTED


# -- what cannot stand


def test_rules_that_would_break_a_promise_are_refused() -> None:
    with pytest.raises(ValueError, match="without accounts"):
        tenant(ACME, when(names=("*",)))
    with pytest.raises(ValueError, match="another Region"):
        Tenant(id=ACME, keys={region_name("us-east-1"): key_of(ACME)}, rules=[when(SHARED)])
    with pytest.raises(ValueError, match="one id"):
        TenantRules(tenants=[tenant(ACME, when(SHARED)), tenant(ACME, when(OTHER))])
    with pytest.raises(ValueError, match="default tenant blue"):
        TenantRules(tenants=[tenant(ACME, when(SHARED))], default=BLUE)


# -- where rules of two tenants match


FIRST_MATCH = TenantRules(
    tenants=[
        tenant(ACME, when(SHARED, names=("/acme/*",)), when(SHARED, tags={"tenant": ("acme",)})),
        tenant(BLUE, when(SHARED, names=("/acme/blue/*", "/blue/*")), when(OTHER)),
    ],
    match=Match.FIRST_MATCH,
)


def test_the_first_match_decides_in_the_order_of_tenants_and_their_rules() -> None:
    assert FIRST_MATCH.decide(group("/acme/blue/x"), None) == Owned(ACME, key_of(ACME), "rule 1 of acme")
    assert FIRST_MATCH.decide(group("/blue/x"), None) == Owned(BLUE, key_of(BLUE), "rule 1 of blue")
    assert FIRST_MATCH.decide(group("/blue/x"), {"tenant": "acme"}) == Owned(ACME, key_of(ACME), "rule 2 of acme")


def test_tags_matter_only_to_rules_that_come_first() -> None:
    assert FIRST_MATCH.depends_on_tags(group("/blue/x"))
    assert not FIRST_MATCH.depends_on_tags(group("/acme/x"))
    assert not FIRST_MATCH.depends_on_tags(group("/x", account=OTHER))


@pytest.mark.parametrize(("match", "is_needed"), [(Match.FIRST_MATCH, False), (Match.ALL_AGREE, True)])
def test_tags_that_a_later_rule_asks_for_matter_where_all_have_to_agree(match: Match, is_needed: bool) -> None:
    by_tag = Exclusion(when(tags={"env": ("dev",)}))
    rules = TenantRules(
        tenants=[
            tenant(ACME, when(SHARED, names=("/acme/*",))),
            tenant(BLUE, when(SHARED, tags={"tenant": ("blue",)}), exclude=(by_tag,)),
        ],
        match=match,
    )
    assert rules.depends_on_tags(group("/acme/x")) == is_needed
    shown = [finding.subject for finding in rules.explain(group("/acme/x"), {"tenant": "blue"})]
    assert ("exclusion 1 of blue" in shown) == is_needed


def test_a_rule_that_can_never_be_the_first_is_told() -> None:
    def rules(match: Match) -> TenantRules:
        return TenantRules(
            tenants=[
                tenant(ACME, when(SHARED, names=("/a", "/b"), tags={"env": ("x", "y")})),
                tenant(
                    BLUE, when(SHARED, names=("/b", "/a"), tags={"env": ("y", "x")}), when(SHARED, names=("/a", "/b"))
                ),
            ],
            match=match,
        )

    assert [tuple(map(str, pair)) for pair in rules(Match.FIRST_MATCH).never_first()] == [
        ("rule 1 of blue", "rule 1 of acme")
    ]
    assert not list(rules(Match.ALL_AGREE).never_first())


def test_a_rule_that_names_regions_without_a_key_is_told() -> None:
    rules = TenantRules(
        tenants=[
            tenant(ACME, when(SHARED, regions=("eu-west-1", "us-west-2", "ap-south-1")), when(OTHER)),
            tenant(BLUE, when(OTHER, regions=("eu-west-1",))),
        ],
        shared=[
            replace(shared(SHARED, pattern="^/(?P<tenant>[a-z]+)/"), regions=frozenset({region_name("us-west-2")}))
        ],
    )
    assert [(str(rule), list(regions)) for rule, regions in rules.without_key()] == [
        ("rule 1 of acme", ["ap-south-1", "us-west-2"])
    ]


# -- shared rules


BY_NAME = [
    tenant(ACME, when(OTHER), when(SHARED, names=("/legacy/*",))),
    tenant(BLUE, when(OTHER, names=("/nothing",)), exclude=(Exclusion(when(names=("*/tmp",))),)),
]
BY_PATTERN = shared(SHARED, pattern=r"^/(?:apps|legacy)/(?P<tenant>[a-z]+)/")


def test_a_shared_rule_reads_the_tenant_out_of_the_name() -> None:
    rules = TenantRules(tenants=BY_NAME, shared=[BY_PATTERN])
    assert rules.decide(group("/apps/blue/x"), None) == Owned(BLUE, key_of(BLUE), "shared rule 1")
    assert rules.decide(group("/apps/acme/x"), None) == Owned(ACME, key_of(ACME), "shared rule 1")
    assert rules.decide(group("/apps/blue/tmp"), None) == Excluded("exclusion 1 of blue")
    assert rules.decide(group("/legacy/acme/x"), None) == Owned(ACME, key_of(ACME), "rule 2 of acme")


@pytest.mark.parametrize("default", [None, ACME])
def test_a_tenant_in_the_name_that_there_is_not_gets_no_key(default: TenantId | None) -> None:
    decision = TenantRules(tenants=BY_NAME, shared=[BY_PATTERN], default=default).decide(group("/apps/green/x"), None)
    detail = "shared rule 1 reads the tenant green out of the name, and there is no such tenant"
    assert decision == Undecided(FailureClass.UNKNOWN_TENANT, detail)


@pytest.mark.parametrize("name", ["/legacy/blue/x", "/legacy/green/x"])
def test_a_shared_rule_has_to_agree_with_the_others(name: str) -> None:
    decision = TenantRules(tenants=BY_NAME, shared=[BY_PATTERN]).decide(group(name), None)
    assert decision == Undecided(FailureClass.AMBIGUOUS_TENANT, "rule 2 of acme matches, and so does shared rule 1")


def test_a_shared_rule_comes_after_those_of_the_tenants() -> None:
    rules = TenantRules(tenants=BY_NAME, shared=[BY_PATTERN], match=Match.FIRST_MATCH)
    assert rules.decide(group("/legacy/blue/x"), None) == Owned(ACME, key_of(ACME), "rule 2 of acme")


def test_a_shared_rule_lists_its_accounts() -> None:
    with pytest.raises(ValueError, match="no accounts"):
        TenantRules(tenants=BY_NAME, shared=[shared(pattern="^(?P<tenant>a)$")])
    rules = TenantRules(tenants=BY_NAME, shared=[shared(UNLISTED, pattern="^/(?P<tenant>[a-z]+)/")])
    assert isinstance(rules.decide(group("/acme/x", account=UNLISTED), None), Owned)
    assert rules.lists(account_id(UNLISTED))
    assert not TWO_TENANTS.lists(account_id(UNLISTED))


def test_a_rule_has_an_owner_or_a_pattern_that_names_one() -> None:
    with pytest.raises(ValueError, match="shared rule 1 needs either an owner or a name pattern"):
        TenantRules(tenants=BY_NAME, shared=[when(SHARED, names=("/*",))])


# -- the tag that has a group left alone


@pytest.mark.parametrize(
    ("value", "is_ignored"), [("true", True), ("", True), ("no", True), ("false", False), ("False", False)]
)
def test_a_group_with_the_ignore_tag_is_left_alone(value: str, is_ignored: bool) -> None:
    decision = TWO_TENANTS.decide(group("/acme/x"), {"logwarden:ignore": value})
    assert isinstance(decision, Excluded) == is_ignored
    assert not is_ignored or decision == Excluded("it has the tag logwarden:ignore")


@pytest.mark.parametrize(("ignore_tag", "is_looked_up"), [("never", False), ("listed", False), ("always", True)])
def test_the_ignore_tag_is_looked_up_only_where_that_is_asked_for(ignore_tag: str, is_looked_up: bool) -> None:
    rules = TenantRules(
        tenants=[tenant(ACME, when(SHARED))],
        exclusions=[Exclusion(when(names=("/tmp/*",)))],
        ignore_tag=IgnoreTag(ignore_tag),
    )
    assert rules.depends_on_tags(group()) == is_looked_up
    assert isinstance(rules.decide(group(), {"logwarden:ignore": "true"}), Owned) == (ignore_tag == "never")
    assert not rules.depends_on_tags(group("/tmp/x"))
    assert not rules.depends_on_tags(group("AWS/x"))
    assert not rules.depends_on_tags(group(account=UNLISTED))


# -- explanations


NO_TAG = Finding("tag logwarden:ignore", "there is no such tag")
UNKNOWN_TAGS = Finding("tag logwarden:ignore", "the tags are not known")


def test_an_explanation_names_every_rule_of_the_account_and_what_it_misses() -> None:
    rules = TenantRules(
        tenants=[
            tenant(
                ACME, when(SHARED, names=("/acme/*",)), when(OTHER), exclude=(Exclusion(when(regions=("us-east-1",))),)
            ),
            tenant(
                BLUE, when(SHARED, tags={"tenant": ("blue",), "env": ("prod",)}), exclude=(Exclusion(when(SHARED)),)
            ),
        ],
        exclusions=[Exclusion(when(OTHER), "not ours")],
    )
    assert rules.explain(group(), {"tenant": "green"}) == [
        NO_TAG,
        Finding("exclusion 1: not ours", f"account {SHARED} is not one of {OTHER}"),
        Finding("rule 1 of acme", "", "decides"),
        Finding("rule 1 of blue", "tag tenant is 'green', which matches none of blue; there is no tag env"),
        Finding("exclusion 1 of acme", "Region eu-west-1 is not one of us-east-1"),
    ]


def test_an_explanation_covers_the_default_tenant() -> None:
    rules = TenantRules(
        tenants=[tenant(ACME, when(SHARED, names=("/acme/*",)), exclude=(Exclusion(when(names=("/x",)), "why"),))],
        default=ACME,
    )
    assert rules.explain(group("/x"), None)[-1] == Finding("exclusion 1 of acme: why", "")
    assert rules.explain(group("/x", account=UNLISTED), None) == [UNKNOWN_TAGS]


def test_an_account_in_no_rule_has_little_to_explain() -> None:
    assert TWO_TENANTS.explain(group(account=UNLISTED), None) == [UNKNOWN_TAGS]


def test_an_explanation_says_what_comes_of_each_match() -> None:
    def notes(rules: TenantRules, name: str, tags: dict[str, str]) -> dict[str, str]:
        return {each.subject: each.note for each in rules.explain(group(name), tags) if each.note}

    assert notes(TWO_TENANTS, "/acme/x", {"tenant": "blue"}) == {
        "rule 1 of acme": "disagrees with rule 2 of blue",
        "rule 2 of blue": "disagrees with rule 1 of acme",
    }
    assert notes(TWO_TENANTS, "/blue/x", {"tenant": "blue"}) == {
        "rule 1 of blue": "decides",
        "rule 2 of blue": "agrees with rule 1 of blue",
    }
    assert notes(FIRST_MATCH, "/acme/blue/x", {}) == {
        "rule 1 of acme": "decides",
        "rule 1 of blue": "comes after rule 1 of acme",
    }
    by_name = TenantRules(tenants=BY_NAME, shared=[BY_PATTERN])
    assert notes(by_name, "/apps/blue/x", {}) == {"shared rule 1": "decides: reads the tenant blue out of the name"}
    assert notes(by_name, "/apps/green/x", {}) == {
        "shared rule 1": "reads the tenant green out of the name, and there is no such tenant"
    }


def test_an_explanation_says_why_the_ignore_tag_does_not_decide() -> None:
    assert TWO_TENANTS.explain(group(), {"logwarden:ignore": "False"})[0].why_not == "it is False"
    assert TWO_TENANTS.explain(group(), {"logwarden:ignore": "1"})[0].is_match
    switched_off = TenantRules(tenants=[tenant(ACME, when(SHARED))], ignore_tag=IgnoreTag.NEVER)
    assert [finding.subject for finding in switched_off.explain(group(), {})] == ["rule 1 of acme"]


# -- whether tags matter


def test_tags_matter_only_where_they_may_change_the_decision() -> None:
    assert TWO_TENANTS.depends_on_tags(group("/x"))
    assert not TWO_TENANTS.depends_on_tags(group("/x", account=OTHER))
    assert not TWO_TENANTS.depends_on_tags(group("/x", account=UNLISTED))


@pytest.mark.parametrize("place", ["general", "tenant", "default"])
def test_tags_of_an_exclusion_matter_too(place: str) -> None:
    by_tag = Exclusion(when(tags={"encryption": ("none",)}))
    rules = TenantRules(
        tenants=[
            tenant(ACME, when(SHARED, names=("/acme/*",)), exclude=(by_tag,) if place == "tenant" else ()),
            tenant(BLUE, when(OTHER), exclude=(by_tag,) if place == "default" else ()),
        ],
        exclusions=[by_tag] if place == "general" else [],
        default=BLUE,
    )
    assert rules.depends_on_tags(group("/x")) == (place != "tenant")
    assert rules.depends_on_tags(group("/acme/x")) == (place != "default")


def test_tags_do_not_matter_where_they_could_only_agree() -> None:
    rules = TenantRules(tenants=[tenant(ACME, when(SHARED, names=("/acme/*",)), when(SHARED, tags={"tenant": ("a",)}))])
    assert not rules.depends_on_tags(group("/acme/x"))
    assert rules.depends_on_tags(group("/x"))


# -- many rules


@pytest.mark.parametrize("told_by", ["name", "end of the name", "tag", "account"])
def test_thousands_of_tenants_are_told_apart(told_by: str) -> None:
    def rule(number: int) -> Conditions:
        match told_by:
            case "name":
                return when(SHARED, names=(f"/t{number}/*", f"/aws/lambda/t{number}-*"))
            case "end of the name":
                return when(SHARED, names=(f"/aws/lambda/*-t{number}",))
            case "tag":
                return when(SHARED, tags={"tenant": (f"t{number}",), "managed": ("*",)})
            case _:
                return when(f"{number:012d}")

    def asked(number: int) -> tuple[LogGroup, dict[str, str]]:
        name = {"name": f"/aws/lambda/t{number}-x", "end of the name": f"/aws/lambda/x-t{number}"}.get(told_by, "/x")
        account = f"{number:012d}" if told_by == "account" else SHARED
        return group(name, account), {"tenant": f"t{number}", "managed": "yes"}

    rules = TenantRules(tenants=[tenant(TenantId(f"t{number}"), rule(number)) for number in range(1000)])
    assert not list(rules.overlaps())
    for number in range(1000):
        decision = rules.decide(*asked(number))
        assert isinstance(decision, Owned)
        assert decision.tenant == f"t{number}"
        without_tags = rules.decide(asked(number)[0], None)
        assert isinstance(without_tags, Owned) == (told_by != "tag")
        assert rules.depends_on_tags(asked(number)[0]) == (told_by == "tag")


# -- globs


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        ("/acme", "/acme", True),
        ("/acme", "/acme/x", False),
        ("/acme/*", "/acme/", True),
        ("/acme/*", "/acme/a/b", True),
        ("/acme/*", "/acm", False),
        ("/ACME/*", "/acme/x", False),
        ("*", "", True),
        ("*/debug", "/a/b/debug", True),
        ("*/debug", "/a/debug/b", False),
        ("/a?", "/ab", True),
        ("/a?", "/a", False),
        ("/[ab]/*", "/b/x", True),
        ("/[!ab]/*", "/b/x", False),
        ("/a.b", "/axb", False),
        ("/a.b*", "/axb", False),
        ("/a*", "x/a", False),
        ("/a\n", "/a", False),
        ("/a", "/a\n", False),
    ],
)
def test_a_glob_matches_the_whole_text(pattern: str, text: str, is_match: bool) -> None:
    assert Globs([pattern]).matches(text) is is_match
    assert Globs(["/other", pattern, "/else/*", "/*/q?"]).matches(text) is is_match


def test_no_patterns_match_nothing() -> None:
    assert not Globs([]).matches("")


# -- where a sweep goes


def lanes_of(rules: TenantRules, tenant: TenantId) -> set[str]:
    return {str(lane) for lane in reach_of(rules).lanes_of(rules.tenants[tenant])}


def test_a_sweep_goes_where_rules_and_keys_are() -> None:
    two = ("eu-west-1", "us-east-1")
    some = when(SHARED, regions=("us-east-1", "ap-south-1"))
    rules = TenantRules(tenants=[tenant(ACME, when(SHARED), regions=two), tenant(BLUE, some, when(OTHER), regions=two)])
    in_shared = {f"{SHARED}:{region}" for region in two}
    in_other = {f"{OTHER}:{region}" for region in two}
    assert {str(lane) for lane in reach_of(rules).lanes} == in_shared | in_other
    assert lanes_of(rules, ACME) == in_shared
    assert lanes_of(rules, BLUE) == {f"{SHARED}:us-east-1", *in_other}
    blues = reach_of(rules).lanes_of(rules.tenants[BLUE])
    assert blues[group(region="us-east-1").lane] == key_of(BLUE, "us-east-1")


def test_a_sweep_of_a_tenant_goes_where_shared_rules_may_name_it_and_of_the_default_tenant_everywhere() -> None:
    rules = TenantRules(
        tenants=[tenant(ACME), tenant(BLUE, when(OTHER))],
        shared=[shared(SHARED, pattern="^/(?P<tenant>[a-z]+)/")],
        default=BLUE,
    )
    assert lanes_of(rules, ACME) == {f"{SHARED}:eu-west-1"}
    assert lanes_of(rules, BLUE) == {f"{SHARED}:eu-west-1", f"{OTHER}:eu-west-1"}
    assert {str(lane) for lane in reach_of(rules).lanes} == {f"{SHARED}:eu-west-1", f"{OTHER}:eu-west-1"}
