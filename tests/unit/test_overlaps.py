"""Which rules could give one log group to two tenants, and the log group that shows it."""

import time
from collections.abc import Sequence
from itertools import islice

import pytest

from service.domain.claims import Claim
from service.domain.conditions import Conditions, Globs
from service.domain.log_group import TenantId, account_id, region_name
from service.domain.name_pattern import NamePattern
from service.domain.overlaps import Overlap, overlaps

HERE, THERE = "111122223333", "444455556666"


def rule(
    *names: str,
    regex: str | None = None,
    accounts: Sequence[str] = (HERE,),
    regions: Sequence[str] = (),
    **tags: Sequence[str],
) -> Conditions:
    return Conditions(
        accounts=frozenset(map(account_id, accounts)),
        regions=frozenset(map(region_name, regions)),
        names=NamePattern(regex) if regex else Globs(names) if names else None,
        tags={key: Globs(globs) for key, globs in tags.items()},
    )


def found(*rules: tuple[str | None, Conditions]) -> list[Overlap]:
    return list(
        overlaps(Claim(order, TenantId(owner) if owner else None, 1, each) for order, (owner, each) in enumerate(rules))
    )


def example(one: Conditions, other: Conditions) -> str | None:
    """The log group that rules of two tenants, `acme` and `blue`, or shared ones, both match."""
    owners = [
        None if isinstance(each.names, NamePattern) else owner for each, owner in ((one, "acme"), (other, "blue"))
    ]
    shown = [overlap.example for overlap in found((owners[0], one), (owners[1], other))]
    assert len(shown) <= 1
    return shown[0] if shown else None


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (rule(), rule(), "a"),
        (rule("/a"), rule("/a"), "/a"),
        (rule("/a"), rule("/b"), None),
        (rule("/a"), rule("/a/*"), None),
        (rule("/a/*"), rule("/a/b"), "/a/b"),
        (rule("/a/*"), rule("/a/b/*"), "/a/b/"),
        (rule("/ab*"), rule("/a?"), "/ab"),
        (rule("/a/*"), rule("/ab/*"), None),
        (rule("/a*"), rule("*z"), "/az"),
        (rule("*-dev"), rule("*-prod"), None),
        (rule("/a/*/x"), rule("/a/b*"), "/a/b/x"),
        (rule("/a[bc]"), rule("/a[!b]"), "/ac"),
        (rule("/a[bc]"), rule("/a[de]"), None),
        (rule("*a*b*"), rule("*b*a*"), "bab"),
        (rule("/x", "/y"), rule("/y", "/z"), "/y"),
        (rule("?" * 300 + "*a"), rule("b" + "?" * 300 + "*"), "b" + "a" * 300),
        (rule("*" + "a" * 300), rule("b" * 300 + "*"), None),  # 600 characters, which no name has
    ],
)
def test_names_are_compared_exactly(one: Conditions, other: Conditions, name: str | None) -> None:
    assert example(one, other) == (name and f"{name} of account {HERE}")
    assert (example(other, one) is None) == (name is None)


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        (rule("/a"), rule("/a", accounts=[THERE]), None),
        (rule("/a", accounts=[HERE, THERE]), rule("/a", accounts=[THERE]), f"account {THERE}"),
        (rule("/a", regions=["eu-west-1"]), rule("/a", regions=["us-east-1"]), None),
        (rule("/a", regions=["eu-west-1"]), rule("/a"), f"account {HERE} in eu-west-1"),
        (rule("/a", regions=["eu-west-1", "us-east-1"]), rule("/a", regions=["us-east-1"]), f"account {HERE} in us-east-1"),
        (rule("/a", team=["a"]), rule("/a", team=["b"]), None),
        (rule("/a", team=["a", "b"]), rule("/a", team=["b"]), f"account {HERE}, with tag team = b"),
        (rule("/a", team=["a"]), rule("/a", env=["b"]), f"account {HERE}, with tag env = b, tag team = a"),
        (rule("/a", team=["a"]), rule("/a"), f"account {HERE}, with tag team = a"),
        (rule("/a", team=["a*"]), rule("/a", team=["ab"]), f"account {HERE}, with tag team = ab"),
        (rule("/a", team=["a*"]), rule("/a", team=["b"]), None),
        (rule("/a", team=["a*"]), rule("/a", team=["b*"]), None),
        (rule("/a", team=["*a"]), rule("/a", team=["*b"]), None),
        (rule("/a", team=["a*"]), rule("/a", team=["*b"]), f"account {HERE}, with tag team = a* and *b"),
    ],
)  # fmt: skip
def test_rules_are_told_apart_by_any_condition(one: Conditions, other: Conditions, where: str | None) -> None:
    assert example(one, other) == (where and f"/a of {where}")
    assert (example(other, one) is None) == (where is None)


@pytest.mark.parametrize(
    ("regex", "other", "name"),
    [
        (r"^/apps/(?P<tenant>[a-z]+)/", rule("/apps/blue/*"), None),
        (r"^/apps/(?P<tenant>[a-z]+)/", rule("/apps/blue*"), "/apps/bluea/"),
        (r"^/apps/(?P<tenant>[a-z]+)/", rule("/apps/blu[ea]/*"), "/apps/blua/"),
        (r"^/apps/(?P<tenant>[a-z]+)/", rule("/apps/*/blue"), "/apps/b/blue"),
        (r"^/apps/(?P<tenant>[a-z]+)/", rule("/other/*"), None),
        (r"^/apps/(?P<tenant>[a-z]+)$", rule("/apps/b*"), "/apps/b"),
        (r"^/apps/(?P<tenant>[a-z]+)$", rule("/apps/blue"), None),
        (r"^.*-(?P<tenant>[a-z]+)$", rule("*-blue"), None),
        (r"^.*-(?P<tenant>[a-z]+)$", rule("*blue"), "-bblue"),
    ],
)
def test_a_shared_rule_overlaps_where_it_reads_another_tenant(regex: str, other: Conditions, name: str | None) -> None:
    assert example(rule(regex=regex), other) == (name and f"{name} of account {HERE}")


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (r"^/a/(?P<tenant>[a-z]+)/", r"^/b/(?P<tenant>[a-z]+)/", None),
        (r"^/[ab]/(?P<tenant>[a-z]+)/", r"^/b/(?P<tenant>[a-z]+)/", None),
        (r"^/(?P<tenant>[a-z]+)/", r"^/b/(?P<tenant>[a-z]+)/", "/b/a/"),
    ],
)
def test_shared_rules_overlap_where_they_read_at_two_places(one: str, other: str, name: str | None) -> None:
    assert example(rule(regex=one), rule(regex=other)) == (name and f"{name} of account {HERE}")


def test_rules_of_one_tenant_do_not_overlap() -> None:
    assert not found(("acme", rule("/a/*")), ("acme", rule("/a/b")))


def test_each_pair_is_told_once_the_later_rule_second() -> None:
    shown = found(
        ("acme", rule("/a", "/b", accounts=[HERE, THERE])),
        ("blue", rule("/a", "/b", accounts=[HERE, THERE])),
        ("cyan", rule("/c*", "/b*", accounts=[THERE])),
    )
    assert {(str(each.first), str(each.second)) for each in shown} == {
        ("rule 1 of acme", "rule 1 of blue"),
        ("rule 1 of acme", "rule 1 of cyan"),
        ("rule 1 of blue", "rule 1 of cyan"),
    }
    assert len(shown) == 3


@pytest.mark.parametrize("at", [0, 1, 500, 998, 999])
def test_one_overlap_is_found_among_a_thousand_tenants(at: int) -> None:
    rules = [(f"t{number}", rule(f"/t{number}/*", f"*-t{number}", team=[f"t{number}"])) for number in range(1000)]
    assert not found(*rules)
    [overlap] = found(*rules[:at], ("other", rule(f"/t{at}/x", team=[f"t{at}", "x"])), *rules[at:])
    assert {overlap.first.owner, overlap.second.owner} == {"other", f"t{at}"}
    assert overlap.example == f"/t{at}/x of account {HERE}, with tag team = t{at}"


@pytest.mark.parametrize("other", ["/t7/x", "/t7/*/x", "/t*7/x", "*/x/t7"])
def test_an_overlap_is_found_whichever_pattern_is_the_longer(other: str) -> None:
    rules = [(f"t{number}", rule(f"/t{number}/*")) for number in range(100)]
    shown = found(*rules, ("other", rule(other)))
    assert "t7" in {overlap.first.owner for overlap in shown}
    assert {overlap.second.owner for overlap in shown} == {"other"}


def test_the_first_of_many_overlaps_are_found_quickly() -> None:
    claims = [Claim(number, TenantId(f"t{number}"), 1, rule(f"/a/*{number}*")) for number in range(5000)]
    started = time.process_time()
    assert len(list(islice(overlaps(claims), 20))) == 20
    assert time.process_time() - started < 5  # seconds; all twelve million would take an hour
