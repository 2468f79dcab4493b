"""Regular expressions that read a tenant out of a log group's name.

They come from operators, and one of them that takes exponential time would stop a whole replica. Python's matcher tries one way to
read a text after the other; so a pattern is only taken if no name can be read in two ways. Then it is at most in as many
positions at once as the pattern has, whatever the name, and a match takes linear time; and which tenant is read is certain.
"""

import re
from collections.abc import Iterator, Sequence
from re import _constants as op  # type: ignore[attr-defined]  # the tree that `re` itself compiles: no second reading of the syntax
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

from service.domain.log_group import TenantId
from service.domain.name_language import (
    ALPHABET,
    ANY,
    LanguageBuilder,
    NameLanguage,
    Part,
    characters,
    common_name_read_elsewhere,
    name_read_twice,
)

_GROUP: Final = "tenant"
_MAX_LENGTH: Final = 256  # characters of a pattern
_MAX_POSITIONS: Final = 300  # the check looks at pairs of them: a second at the worst
# Within [...] Python warns of these, since they may come to mean something else.
_SET_IN_SET: Final = re.compile(r"\[\^?\]?[^\]]*(\[|--|&&|~~|\|\|)")
_CATEGORIES: Final = {
    op.CATEGORY_DIGIT: str.isdigit,
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_WORD: lambda character: character.isalnum() or character == "_",
    op.CATEGORY_NOT_DIGIT: lambda character: not character.isdigit(),
    op.CATEGORY_NOT_SPACE: lambda character: not character.isspace(),
    op.CATEGORY_NOT_WORD: lambda character: not (character.isalnum() or character == "_"),
}


class NamePatternError(ValueError):
    """The pattern cannot be used; the text says why, and what to write instead."""


class NamePattern:
    """A regular expression with a group `tenant`, from the start of the name on. Raises NamePatternError.

    `heads` and `tails` are as those of Globs.
    """

    __slots__ = ("_language", "_regex", "heads", "patterns", "tails")

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_LENGTH:
            raise NamePatternError(f"has {len(text)} characters; {_MAX_LENGTH} are allowed")
        if _SET_IN_SET.search(text):
            raise NamePatternError("has [, --, &&, ~~ or || within [...]")
        try:
            tree = _parser.parse(text)
            self._regex = re.compile(text)
        except (re.error, OverflowError) as e:
            raise NamePatternError(f"is no regular expression: {e}") from e
        self.patterns = (text,)
        self._language = _checked(tree)
        self.heads = frozenset({self._language.head})
        self.tails = frozenset({""})

    def matches(self, name: str) -> bool:
        return self._regex.match(name) is not None

    def language(self) -> NameLanguage:
        """The names that it matches."""
        return self._language

    def tenant_in(self, name: str) -> TenantId | None:
        """What the group reads, whether or not there is such a tenant; None where the name does not match."""
        match = self._regex.match(name)
        return TenantId(match[_GROUP]) if match else None


def _checked(tree: Any) -> NameLanguage:
    """The names that a pattern matches, if its matches are certain and quick."""
    group = tree.state.groupdict.get(_GROUP)
    if group is None:
        raise NamePatternError("has no group (?P<tenant>...)")
    if tree.state.flags != re.UNICODE:
        raise NamePatternError("has flags, such as (?i)")
    nodes = list(tree)
    if nodes[0] != (op.AT, op.AT_BEGINNING):
        raise NamePatternError("does not begin with ^; write ^.* to pass over the start of the name")
    is_closed = nodes[-1] in ((op.AT, op.AT_END), (op.AT, op.AT_END_STRING))
    nodes = nodes[1:-1] if is_closed else nodes[1:]

    walk = _Walk(group)
    body = walk.sequence(nodes, is_certain=True)
    if (name := name_read_twice(walk.builder.finish(body))) is not None:
        raise NamePatternError(
            f"can read {name} in two ways, which may take very long with other names; make its parts exclude each other"
        )
    walk = _Walk(group)
    body = walk.sequence(nodes, is_certain=True)
    language = walk.builder.finish(body if is_closed else walk.builder.sequence([body, walk.builder.rest()]))
    if (name := common_name_read_elsewhere(language, language)) is not None:
        raise NamePatternError(
            f"could read several tenants out of {name}; let a character follow that no tenant has, such as /, or (/.*)?$"
        )
    return language


class _Walk:
    """From the tree that `re` parses to an automaton. What is not known here is refused."""

    def __init__(self, group: int) -> None:
        self.builder = LanguageBuilder()
        self._group = group

    def sequence(self, nodes: Sequence[Any], *, is_certain: bool, is_tenant: bool = False) -> Part:
        """`is_certain` while outside of every choice and repetition, `is_tenant` while within the group."""
        return self.builder.sequence(
            [self._node(code, value, is_certain=is_certain, is_tenant=is_tenant) for code, value in nodes]
        )

    def _node(self, code: Any, value: Any, *, is_certain: bool, is_tenant: bool) -> Part:
        if code in {op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN}:
            return self._character(_bits(code, value), is_tenant=is_tenant)
        if code is op.SUBPATTERN:
            number, added, removed, nodes = value
            if added or removed:
                raise NamePatternError("has flags, such as (?i:...)")
            if number == self._group:
                return self._tenant(nodes, is_certain=is_certain)
            return self.sequence(nodes, is_certain=is_certain, is_tenant=is_tenant)
        if code is op.BRANCH:
            parts = [self.sequence(nodes, is_certain=False, is_tenant=is_tenant) for nodes in value[1]]
            if sum(part.is_optional for part in parts) > 1:
                raise NamePatternError("has a choice of which two alternatives may be empty")
            return self.builder.choice(parts)
        if code in {op.MAX_REPEAT, op.MIN_REPEAT}:
            least, most, nodes = value
            return self._repetition(least, None if most is op.MAXREPEAT else most, nodes, is_tenant=is_tenant)
        if code is op.AT:
            raise NamePatternError("has ^, $ or \\b elsewhere than ^ at its start and $ at its end")
        raise NamePatternError("has a look-around, a back reference or an atomic part, which cannot be checked")

    def _character(self, bits: int, *, is_tenant: bool) -> Part:
        if not bits:  # it would leave positions that lead nowhere, and they would not be counted
            raise NamePatternError("asks for a character that no name has: names hold letters, digits and . - _ / #")
        if len(self.builder) == _MAX_POSITIONS:
            raise NamePatternError(f"has more than {_MAX_POSITIONS} characters once its repetitions are written out")
        return self.builder.character(bits, is_tenant=is_tenant)

    def _tenant(self, nodes: Sequence[Any], *, is_certain: bool) -> Part:
        if not is_certain:
            raise NamePatternError("has its group tenant in a choice or a repetition: each name has to have one tenant")
        part = self.sequence(nodes, is_certain=False, is_tenant=True)
        if part.is_optional:
            raise NamePatternError("has a group tenant that may be empty")
        return part

    def _repetition(self, least: int, most: int | None, nodes: Sequence[Any], *, is_tenant: bool) -> Part:
        def copies(count: int) -> Iterator[Part]:
            for _ in range(count):
                part = self.sequence(nodes, is_certain=False, is_tenant=is_tenant)
                if part.is_optional:
                    raise NamePatternError("repeats something that may be empty")
                yield part

        build = self.builder
        if most is None:
            *single, last = copies(max(least, 1))
            whole = build.sequence([*single, build.repeated(last)])
            return build.optional(whole) if least == 0 else whole
        rest = Part()
        for part in copies(most - least):  # x{2,4} is xx(x(x)?)?
            rest = build.optional(build.sequence([part, rest]))
        return build.sequence([*copies(least), rest])


def _bits(code: Any, value: Any) -> int:
    if code is op.ANY:
        return ANY
    if code is op.LITERAL:
        return characters(chr(value))
    if code is op.NOT_LITERAL:
        return ANY & ~characters(chr(value))
    bits, is_negated = 0, False
    for kind, item in value:
        if kind is op.NEGATE:
            is_negated = True
        elif kind is op.LITERAL:
            bits |= characters(chr(item))
        elif kind is op.RANGE:
            bits |= characters(c for c in ALPHABET if item[0] <= ord(c) <= item[1])
        else:
            bits |= characters(filter(_CATEGORIES[item], ALPHABET))
    return ANY & ~bits if is_negated else bits
