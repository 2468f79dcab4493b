"""Conditions on a log group: accounts, Regions, names and tags. All that are given must hold; of a condition's values, any one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase, translate
from typing import Final

from service.domain.log_group import AccountId, LogGroup, Region
from service.domain.name_language import ALPHABET, ANY, LanguageBuilder, NameLanguage, Part, characters
from service.domain.name_pattern import NamePattern

# Ends a whole text where texts are told apart by how they start; in no name and no tag.
END: Final = "\0"
MAX_LISTED: Final = 5  # values, patterns or rules in one text for people
_SPECIAL: Final = re.compile(r"[*?\[]")
# As fnmatch reads a glob: a bracket that never closes is a plain character.
_PIECE: Final = re.compile(r"\*+|\[!?+\]?+[^\]]*+\]|.", re.DOTALL)
_LAST_PLAIN: Final = re.compile(r"[^*?\[\]]*\Z")


class Globs:
    """Alternative patterns for a whole text: `*` is any run of characters, `/` too; `?` is any one; `[ab]`, `[!ab]` a choice.

    Case counts. A plain text or a plain prefix, which is what most patterns are, never becomes a regular expression: that makes
    ten thousand tenants quick to load; the regular expressions of the others do not backtrack. Every text that matches starts, with END
    after it, with one of the `heads`, and reversed, with END after that, with one of the `tails`.
    """

    __slots__ = ("_others", "_prefixes", "heads", "patterns", "plain", "tails")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        heads = {pattern: _SPECIAL.split(pattern, maxsplit=1)[0] for pattern in self.patterns}
        self.plain = frozenset(pattern for pattern, head in heads.items() if pattern == head)
        self.heads = frozenset(f"{head}{END}" if pattern == head else head for pattern, head in heads.items())
        self.tails = frozenset(
            f"{head[::-1]}{END}" if pattern == head else _last_plain(pattern)[::-1] for pattern, head in heads.items()
        )
        self._prefixes = tuple(head for pattern, head in heads.items() if pattern == f"{head}*")
        others = [translate(pattern) for pattern, head in heads.items() if pattern not in {head, f"{head}*"}]
        self._others = re.compile("|".join(others)) if others else None

    def matches(self, text: str) -> bool:
        return (
            text in self.plain
            or text.startswith(self._prefixes)
            or (self._others is not None and self._others.match(text) is not None)
        )

    def language(self) -> NameLanguage:
        """The log group names that they match."""
        build = LanguageBuilder()
        return build.finish(build.choice([build.sequence(_parts(build, pattern)) for pattern in self.patterns]))


def _parts(build: LanguageBuilder, pattern: str) -> Iterator[Part]:
    for piece in _PIECE.findall(pattern):
        if piece.startswith("*"):
            yield build.rest()
        elif piece == "?":
            yield build.character(ANY)
        elif len(piece) > 1:
            yield build.character(characters(c for c in ALPHABET if fnmatchcase(c, piece)))
        else:
            yield build.character(characters(piece))


def _last_plain(pattern: str) -> str:
    """The plain text at the end of a pattern that is not all plain; less than there is where it holds a bracket."""
    match = _LAST_PLAIN.search(pattern)
    return match[0] if match else ""


class Unmet(Enum):
    """The condition that does not hold, as people read it."""

    ACCOUNT = "account"
    REGION = "Region"
    NAME = "name"
    TAGS = "tags"
    TAGS_UNKNOWN = "tags, which are not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What must hold for a rule or an exclusion to match. One that is empty or None is no condition."""

    accounts: frozenset[AccountId] = frozenset()
    regions: frozenset[Region] = frozenset()
    names: Globs | NamePattern | None = None
    tags: Mapping[str, Globs] = field(default_factory=dict)

    def unmet(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Unmet | None:
        """The first condition that does not hold; None where all do. Unknown tags (None) meet no condition on tags."""
        if self.accounts and log_group.account not in self.accounts:
            return Unmet.ACCOUNT
        if self.regions and log_group.region not in self.regions:
            return Unmet.REGION
        if self.names is not None and not self.names.matches(log_group.name):
            return Unmet.NAME
        if not self.tags:
            return None
        if tags is None:
            return Unmet.TAGS_UNKNOWN
        has_all = all(key in tags and globs.matches(tags[key]) for key, globs in self.tags.items())
        return None if has_all else Unmet.TAGS

    def signature(self) -> object:
        """Equal for conditions that are written alike, whatever the order of their values."""
        names = None if self.names is None else (type(self.names), frozenset(self.names.patterns))
        return self.accounts, self.regions, names, frozenset((k, frozenset(g.patterns)) for k, g in self.tags.items())

    def why_not(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> str:
        """The same in words, empty where every condition holds."""
        match self.unmet(log_group, tags):
            case None:
                return ""
            case Unmet.ACCOUNT:
                return f"account {log_group.account} is not one of {listed(self.accounts)}"
            case Unmet.REGION:
                return f"Region {log_group.region} is not one of {listed(self.regions)}"
            case Unmet.NAME:
                return f"the name matches none of {listed(self.names.patterns if self.names else ())}"
            case Unmet.TAGS_UNKNOWN:
                return f"the tags are not known, and {listed(self.tags)} would have to match"
            case Unmet.TAGS:
                return "; ".join(self._unmatched_tags(tags or {}))

    def _unmatched_tags(self, tags: Mapping[str, str]) -> Iterator[str]:
        for key, globs in self.tags.items():
            if key not in tags:
                yield f"there is no tag {key}"
            elif not globs.matches(tags[key]):
                yield f"tag {key} is {tags[key]!r}, which matches none of {listed(globs.patterns)}"


def listed(values: Iterable[str]) -> str:
    """The first few values in order, and how many more there are."""
    ordered = sorted(values)
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return ", ".join(ordered[:MAX_LISTED]) + more
