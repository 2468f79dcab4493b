"""What is said of patterns without trying names agrees with trying every short name."""

import itertools
import re
from contextlib import suppress
from fnmatch import fnmatchcase

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.conditions import Globs
from service.domain.name_language import (
    ALPHABET,
    NameLanguage,
    common_name,
    common_name_of_another,
    common_name_read_elsewhere,
)
from service.domain.name_pattern import NamePattern, NamePatternError

NAMES = ["".join(letters) for n in range(1, 6) for letters in itertools.product("ab/", repeat=n)]

GLOBS = st.lists(
    st.sampled_from(
        ["a", "b", "/", "*", "**", "?", "[ab]", "[!a]", "[!]", "[]", "[]a]", "[a-b]", "[b-a]", "[", "]", "!"]
    ),
    max_size=5,
).map("".join)

SOUND = [
    r"^/(?P<tenant>[ab]+)/",
    r"^(?P<tenant>[^/]+)$",
    r"^.*/(?P<tenant>[ab]+)$",
    r"^a*(?P<tenant>b)",
    r"^(?P<tenant>[ab]{1,2})(?:/.*)?$",
]


def expressions(depth: int) -> st.SearchStrategy[str]:
    """Regular expressions, most of them odd."""
    atoms = st.sampled_from(["a", "b", "/", ".", "[ab]", "[^/]", r"\w", "[^a]"])
    if depth == 0:
        return atoms
    inner = expressions(depth - 1)
    return st.one_of(
        atoms,
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "+?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    )


@st.composite
def patterns(draw: st.DrawFn) -> NamePattern:
    for _ in range(3):  # most are refused
        before, within, after = (draw(st.just("") | expressions(2)) for _ in range(3))
        end = draw(st.sampled_from(["", "$", "/", "/.*", "(?:/.*)?$"]))
        with suppress(NamePatternError):
            return NamePattern(f"^{before}(?P<tenant>{within or '[ab]+'}){after}{end}")
    return NamePattern(draw(st.sampled_from(SOUND)))


def has(language: NameLanguage, name: str) -> bool:
    at = {0}
    for character in name:
        bit = 1 << ALPHABET.index(character)
        at = {after for before in at for after in language.follow[before] if language.reads[after] & bit}
    return not at.isdisjoint(language.ends)


@settings(deadline=None)
@given(st.lists(GLOBS, min_size=1, max_size=2))
def test_the_names_of_globs_are_those_that_they_match(globs: list[str]) -> None:
    language = Globs(globs).language()
    for name in NAMES:
        assert has(language, name) == any(fnmatchcase(name, glob) for glob in globs)


@settings(deadline=None, max_examples=300)
@given(GLOBS, GLOBS)
def test_globs_have_a_name_in_common_exactly_where_one_is_found(one: str, other: str) -> None:
    name = common_name(Globs([one]).language(), Globs([other]).language())
    if name is not None:
        assert fnmatchcase(name, one)
        assert fnmatchcase(name, other)
        shorter = [n for n in NAMES if len(n) < len(name)]
    else:
        shorter = NAMES
    assert not any(fnmatchcase(n, one) and fnmatchcase(n, other) for n in shorter)


@settings(deadline=None)
@given(GLOBS)
def test_every_match_has_one_of_the_heads_and_one_of_the_tails(glob: str) -> None:
    globs = Globs([glob])
    for name in NAMES:
        if fnmatchcase(name, glob):
            assert any(f"{name}\0".startswith(head) for head in globs.heads)
            assert any(f"{name[::-1]}\0".startswith(tail) for tail in globs.tails)


@settings(deadline=None)
@given(patterns())
def test_the_names_of_a_pattern_are_those_that_it_matches(pattern: NamePattern) -> None:
    language = pattern.language()
    regex = re.compile(pattern.patterns[0])
    for name in NAMES:
        assert has(language, name) == (regex.match(name) is not None)
        if has(language, name):
            assert any(name.startswith(head) for head in pattern.heads)


@settings(deadline=None)
@given(patterns(), GLOBS, st.sampled_from(["a", "ab", "b/"]))
def test_a_name_that_goes_to_another_tenant_is_found_exactly_where_there_is_one(
    pattern: NamePattern, glob: str, tenant: str
) -> None:
    name = common_name_of_another(pattern.language(), Globs([glob]).language(), tenant)
    if name is not None:
        assert fnmatchcase(name, glob)
        assert pattern.tenant_in(name) not in {None, tenant}
    else:
        assert not any(fnmatchcase(n, glob) and pattern.tenant_in(n) not in {None, tenant} for n in NAMES)


@settings(deadline=None)
@given(patterns(), patterns())
def test_where_two_patterns_never_read_at_two_places_they_read_the_same(one: NamePattern, other: NamePattern) -> None:
    name = common_name_read_elsewhere(one.language(), other.language())
    if name is not None:
        assert one.matches(name)
        assert other.matches(name)
    else:
        assert all(one.tenant_in(n) == other.tenant_in(n) for n in NAMES if one.matches(n) and other.matches(n))
