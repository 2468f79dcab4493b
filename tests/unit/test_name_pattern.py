"""Regular expressions that read a tenant out of a name: what they read, and which are refused because they could stop a replica."""

import re
import time

import pytest

from service.domain.name_pattern import NamePattern, NamePatternError


@pytest.mark.parametrize(
    ("pattern", "name", "tenant"),
    [
        (r"^/apps/(?P<tenant>[a-z0-9-]+)/", "/apps/acme/orders", "acme"),
        (r"^/apps/(?P<tenant>[a-z0-9-]+)/", "/apps/acme/a/b", "acme"),
        (r"^/apps/(?P<tenant>[a-z0-9-]+)/", "/apps/acme", None),
        (r"^/apps/(?P<tenant>[a-z0-9-]+)/", "/x/apps/acme/", None),
        (r"^/apps/(?P<tenant>[a-z0-9-]+)/.*", "/apps/acme/", "acme"),
        (r"^/apps/(?P<tenant>[a-z0-9-]+)(/.*)?$", "/apps/acme", "acme"),
        (r"^/apps/(?P<tenant>[a-z0-9-]+)(/.*)?$", "/apps/acme/x", "acme"),
        (r"^/apps/(?P<tenant>[a-z0-9-]+)(/.*)?\Z", "/apps/Acme/x", None),
        (r"^/aws/lambda/(?P<tenant>[^-]+)-", "/aws/lambda/acme-orders-dev", "acme"),
        (r"^.*-(?P<tenant>[a-z]+)$", "/aws/x-y-acme", "acme"),
        (r"^/(?:prod|test)/(?P<tenant>\w{2,4})/", "/test/acme/x", "acme"),
        (r"^/(?:prod|test)/(?P<tenant>\w{2,4})/", "/test/acmes/x", None),
        (r"^/(?P<tenant>t-(?:[a-f0-9]{4}-)*x)/", "/t-0a1b-x/", "t-0a1b-x"),
        (r"^(?P<tenant>[a-z]+?)(?:\.[a-z]+){1,}?#", "acme.eu.west#", "acme"),
    ],
)
def test_a_pattern_reads_the_tenant(pattern: str, name: str, tenant: str | None) -> None:
    read = NamePattern(pattern)
    assert read.tenant_in(name) == tenant
    assert read.matches(name) == (tenant is not None)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "is no regular expression: missing ), unterminated subpattern at position 0"),
        (r"^/apps/[a-z]+/", "has no group"),
        (r"/apps/(?P<tenant>[a-z]+)/", "does not begin with ^"),
        (r"^/a|(?P<tenant>b)", "does not begin with ^"),
        (r"^/apps/(?P<tenant>[a-z]+)", "could read several tenants out of /apps/aa"),
        (r"^/apps/(?P<tenant>.+)/", "could read several tenants out of /apps/a//"),
        (r"^.*/(?P<tenant>[a-z]+)/", "could read several tenants out of /a/a/"),
        (r"^(?P<tenant>[a-z-]+)-x$", None),
        (r"^(?P<tenant>(a+)+)/", "can read aa/ in two ways"),
        (r"^(?P<tenant>([a-z]+-?)+)/", "can read aa/ in two ways"),
        (r"^(?P<tenant>(?:ab|[a-c]b)+)/", "can read ab/ in two ways"),
        (r"^/(?P<tenant>a)/.*x.*x.*$", "can read /a/xxx in two ways"),
        (r"^(?P<tenant>(a*)*)/", "repeats something that may be empty"),
        (r"^(?P<tenant>a)((b|c?)d?){2,9}/", "repeats something that may be empty"),
        (r"^(?P<tenant>a)(?:b?|c?)/", "has a choice of which two alternatives may be empty"),
        (r"^(?P<tenant>a*)/", "has a group tenant that may be empty"),
        (r"^(?:/(?P<tenant>a)|/b)$", "has its group tenant in a choice or a repetition"),
        (r"^(?:/(?P<tenant>a))+$", "has its group tenant in a choice or a repetition"),
        (r"^(?P<tenant>a)\b/", "elsewhere than ^ at its start"),
        (r"^(?P<tenant>a)(?:/|$)", "elsewhere than ^ at its start"),
        (r"^(?P<tenant>a+)(?=/)", "has a look-around"),
        (r"^(?P<tenant>a+)/(?P=tenant)", "a back reference"),
        (r"^(?P<tenant>(?>a+)/)", "an atomic part"),
        (r"^(?P<tenant>a++/)", "an atomic part"),
        (r"(?i)^(?P<tenant>a)/", "has flags"),
        (r"^(?P<tenant>(?i:a))/", "has flags"),
        (r"^(?P<tenant>a)\s", "asks for a character that no name has"),
        (r"^(?P<tenant>[é])/", "asks for a character that no name has"),
        (r"^(?P<tenant>[[a])/", "within [...]"),
        (r"^(?P<tenant>[]a&&b])/", "within [...]"),
        (r"^(?P<tenant>[a-z]{500})/", "has more than 300 characters"),
        (r"^(?P<tenant>([a-z]{99}){99})/", "has more than 300 characters"),
        (r"^(?P<tenant>a{9999999999999999999})/", "is no regular expression"),
        (f"^(?P<tenant>{'a' * 256})/", "has 270 characters; 256 are allowed"),
        ("^" + "(" * 120 + "(?P<tenant>a)" + ")" * 120, None),
    ],
)
def test_a_pattern_that_is_uncertain_slow_or_not_understood_is_refused(pattern: str, reason: str | None) -> None:
    if reason is None:
        NamePattern(pattern)
        return
    with pytest.raises(NamePatternError, match=re.escape(reason)):
        NamePattern(pattern)


def test_a_match_takes_no_longer_than_the_name_is_long() -> None:
    patterns = [
        r"^(?P<tenant>(?:[a-z]{1,18}-){0,12}x)/",
        r"^.*-(?P<tenant>[a-z]+)$",
        r"^(?P<tenant>(?:a|b[ab]?c)*d)/",
        r"^(?P<tenant>a)/(?:[a-z]{1,9}/)*(?:[0-9]{1,9}/)*#$",
    ]
    names = ["a" * 512, "ab" * 256, "a-" * 256, "bac" * 170, "a/" * 256, "a/" + "bcd/" * 127, "aaaaaaaaa/" * 51]
    started = time.process_time()
    for pattern in map(NamePattern, patterns):
        for name in names:
            pattern.matches(name)
    assert time.process_time() - started < 1  # seconds; the few milliseconds that it takes, on the slowest machine


def test_the_plain_start_of_every_match_is_known() -> None:
    assert NamePattern(r"^/apps/(?P<tenant>[a-z]+)/").heads == {"/apps/"}
    assert NamePattern(r"^/a(?:b|c)/(?P<tenant>[a-z]+)/").heads == {"/a"}
    assert NamePattern(r"^.*-(?P<tenant>[a-z]+)$").heads == {""}
    assert NamePattern(r"^/(?P<tenant>acme)$").heads == {"/acme"}
