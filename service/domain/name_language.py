"""Sets of log group names as automata, so that it can be said whether two patterns have a name in common, and which.

An automaton has a state for each place in its pattern that reads a character (Glushkov's construction): a way to read a name is
a sequence of such positions. A transition that the pattern allows in two ways is there twice, so that the ways can be counted.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple, TypeVar

# What a name is made of, in the order in which an example takes them: /a reads better than #A.
ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789-_/.#ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANY: Final = (1 << len(ALPHABET)) - 1  # a set of characters is a number, with a bit for each
_MAX_LENGTH: Final = 512  # characters; AWS's limit for a name
_BITS: Final = {character: 1 << index for index, character in enumerate(ALPHABET)}

_State = TypeVar("_State", bound=Hashable)


def characters(text: Iterable[str]) -> int:
    """The set of these characters, less those that no name has."""
    bits = 0
    for character in text:
        bits |= _BITS.get(character, 0)
    return bits


@dataclass(frozen=True, slots=True, eq=False)
class NameLanguage:
    """The names that a pattern matches.

    `reads` are the characters that each position takes, `follow` the positions that may come next, `ends` those at which a name
    may end, `tenant` those within the group `tenant`. Position 0 is before the name.
    """

    reads: tuple[int, ...]
    follow: tuple[tuple[int, ...], ...]
    ends: frozenset[int]
    tenant: frozenset[int]

    @property
    def head(self) -> str:
        """The plain text that every name starts with."""
        at, text = 0, ""
        while at not in self.ends and len(self.follow[at]) == 1:
            [at] = self.follow[at]
            if self.reads[at].bit_count() != 1 or len(text) == _MAX_LENGTH:
                break
            text += ALPHABET[self.reads[at].bit_length() - 1]
        return text


class Part(NamedTuple):
    """A part of a pattern: the positions at which it starts and ends, and whether it may be empty."""

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    is_optional: bool = True


class LanguageBuilder:
    """Builds an automaton from the parts of a pattern, in any order that puts parts together before the whole."""

    def __init__(self) -> None:
        self._reads = [0]
        self._follow: list[list[int]] = [[]]
        self._tenant: set[int] = set()

    def __len__(self) -> int:
        """The number of positions."""
        return len(self._reads) - 1

    def character(self, bits: int, *, is_tenant: bool = False) -> Part:
        """One character of a set."""
        position = len(self._reads)
        self._reads.append(bits)
        self._follow.append([])
        if is_tenant:
            self._tenant.add(position)
        return Part((position,), (position,), is_optional=False)

    def sequence(self, parts: Iterable[Part]) -> Part:
        """One part after the other."""
        whole = Part()
        for part in parts:
            self._join(whole.last, part.first)
            whole = Part(
                whole.first + part.first if whole.is_optional else whole.first,
                whole.last + part.last if part.is_optional else part.last,
                whole.is_optional and part.is_optional,
            )
        return whole

    def choice(self, parts: Sequence[Part]) -> Part:
        """Any one of the parts."""
        return Part(
            tuple(position for part in parts for position in part.first),
            tuple(position for part in parts for position in part.last),
            any(part.is_optional for part in parts),
        )

    def repeated(self, part: Part) -> Part:
        """The part once or more."""
        self._join(part.last, part.first)
        return part

    def optional(self, part: Part) -> Part:
        """The part or nothing."""
        return part._replace(is_optional=True)

    def rest(self) -> Part:
        """Anything, or nothing."""
        return self.optional(self.repeated(self.character(ANY)))

    def finish(self, whole: Part) -> NameLanguage:
        """The automaton; the builder is used up. The empty text is no name, and left out."""
        self._follow[0] = list(whole.first)
        return NameLanguage(
            tuple(self._reads), tuple(map(tuple, self._follow)), frozenset(whole.last), frozenset(self._tenant)
        )

    def _join(self, before: Iterable[int], after: Sequence[int]) -> None:
        for position in before:
            self._follow[position] += after


def common_name(one: NameLanguage, other: NameLanguage) -> str | None:
    """The shortest name in both, None where there is none. Exact."""

    def steps(at: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
        for p, q in product(one.follow[at[0]], other.follow[at[1]]):
            yield one.reads[p] & other.reads[q], (p, q)

    return _shortest((0, 0), steps, lambda at: at[0] in one.ends and at[1] in other.ends)


def common_name_of_another(pattern: NameLanguage, other: NameLanguage, tenant: str) -> str | None:
    """The shortest name in both out of which `pattern`, with its group, reads another tenant than this one. Exact.

    Beside the positions runs how much of the tenant's id has been read, or that it is not that id.
    """
    other_id = -1

    def steps(at: tuple[int, int, int]) -> Iterator[tuple[int, tuple[int, int, int]]]:
        before, other_before, read = at
        for p, q in product(pattern.follow[before], other.follow[other_before]):
            bits = pattern.reads[p] & other.reads[q]
            if p in pattern.tenant:
                expected = _BITS.get(tenant[read], 0) if 0 <= read < len(tenant) else 0
                yield bits & expected, (p, q, read + 1)
                yield bits & ~expected, (p, q, other_id)
            elif before in pattern.tenant:
                if read != len(tenant):
                    yield bits, (p, q, other_id)
            else:
                yield bits, (p, q, read)

    def is_end(at: tuple[int, int, int]) -> bool:
        return at[0] in pattern.ends and at[1] in other.ends and at[2] != len(tenant)

    return _shortest((0, 0, 0), steps, is_end)


def common_name_read_elsewhere(one: NameLanguage, other: NameLanguage) -> str | None:
    """The shortest name in both whose tenant stands at another place for the one than for the other."""

    def steps(at: tuple[int, int, bool]) -> Iterator[tuple[int, tuple[int, int, bool]]]:
        for p, q in product(one.follow[at[0]], other.follow[at[1]]):
            yield one.reads[p] & other.reads[q], (p, q, at[2] or (p in one.tenant) != (q in other.tenant))

    return _shortest((0, 0, False), steps, lambda at: at[2] and at[0] in one.ends and at[1] in other.ends)


def name_read_twice(language: NameLanguage) -> str | None:
    """The shortest name that the pattern can read in two ways, None where each name has one way at most."""

    def steps(at: tuple[int, int, bool]) -> Iterator[tuple[int, tuple[int, int, bool]]]:
        p, q, is_apart = at
        for (i, after), (j, other) in product(enumerate(language.follow[p]), enumerate(language.follow[q])):
            yield language.reads[after] & language.reads[other], (after, other, is_apart or i != j)

    return _shortest((0, 0, False), steps, lambda at: at[2] and at[0] in language.ends and at[1] in language.ends)


def _shortest(
    start: _State, steps: Callable[[_State], Iterable[tuple[int, _State]]], is_end: Callable[[_State], bool]
) -> str | None:
    """The shortest name on a way from the start to an end, breadth first; None where the shortest is longer than a name can be."""
    came_from: dict[_State, tuple[_State, int]] = {start: (start, 0)}
    waiting = deque([start])
    while waiting:
        at = waiting.popleft()
        for bits, after in steps(at):
            if not bits or after in came_from:
                continue
            came_from[after] = at, bits
            if is_end(after):
                name = _read(after, start, came_from)
                return name if len(name) <= _MAX_LENGTH else None
            waiting.append(after)
    return None


def _read(end: _State, start: _State, came_from: dict[_State, tuple[_State, int]]) -> str:
    text: list[str] = []
    while end != start:
        end, bits = came_from[end]
        text.append(ALPHABET[(bits & -bits).bit_length() - 1])
    return "".join(reversed(text))
