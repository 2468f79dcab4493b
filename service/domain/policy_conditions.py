"""The parts of IAM's policy language that a key policy is read with: wildcards and conditions, in a logic of yes, no and unknown.

None is unknown: an operator, a key or a value whose meaning depends on what is not in the document.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_MAX_TOLD: Final = 3  # conditions in one text for people
_MAX_SHOWN: Final = 160  # characters of a policy in one; an ARN has some 80

_Matcher = Callable[[object, str], bool | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """Whether something holds, None where that cannot be told; `why` is in words, and empty where it holds."""

    holds: bool | None
    why: str = ""


def shown(value: object) -> str:
    """A piece of somebody's policy in a text of ours: one line of ASCII, and short."""
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def negated(holds: bool | None) -> bool | None:  # noqa: FBT001  the operand of a logic operator
    """Not, in three values."""
    return None if holds is None else not holds


def all_of(readings: Iterable[bool | None]) -> bool | None:
    """And, in three values: one that does not hold decides, whatever is unknown."""
    found = set(readings)
    return False if False in found else None if None in found else True


def any_of(readings: Iterable[bool | None]) -> bool | None:
    """Or, in three values."""
    return negated(all_of(negated(each) for each in readings))


def like(pattern: object, text: str) -> bool | None:
    """Whether a pattern with `*` and `?` matches a whole text; unknown for a policy variable. Takes time in proportion to both."""
    if not isinstance(pattern, str) or "${" in pattern:
        return None
    if "*" not in pattern and "?" not in pattern:
        return pattern == text
    if len(pattern) - pattern.count("*") > len(text):
        return False
    return _wildcard(pattern).match(text) is not None


@lru_cache(maxsize=256)
def _wildcard(pattern: str) -> re.Pattern[str]:
    """Each part is taken where it first fits and never again (an atomic group): many stars must not take exponential time."""
    head, *parts = [re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", pattern)]
    if not parts:
        return re.compile(rf"{head}\Z", re.DOTALL)
    middle = "".join(f"(?>.*?{part})" for part in parts[:-1])
    return re.compile(rf"{head}{middle}.*{parts[-1]}\Z", re.DOTALL)


def _arn_like(pattern: object, text: str) -> bool | None:
    """ARNs match part by part, so that a `*` for the account cannot swallow the Region; the sixth part is all the rest."""
    if not isinstance(pattern, str) or "${" in pattern:
        return None
    patterns, parts = pattern.split(":", 5), text.split(":", 5)
    if len(patterns) < len(parts):  # what IAM makes of `arn:aws:logs:*` is not documented
        return None if "*" in pattern or "?" in pattern else False
    return all_of(map(like, patterns, parts))


def _equals(wanted: object, text: str) -> bool | None:
    return wanted == text if isinstance(wanted, str) and "${" not in wanted else None


def _equals_ignoring_case(wanted: object, text: str) -> bool | None:
    return wanted.lower() == text.lower() if isinstance(wanted, str) and "${" not in wanted else None


_MATCHERS: Final[Mapping[str, _Matcher]] = {
    "StringEquals": _equals,
    "StringEqualsIgnoreCase": _equals_ignoring_case,
    "StringLike": like,
    "ArnEquals": _arn_like,  # IAM gives both ARN operators the same meaning
    "ArnLike": _arn_like,
    "Bool": _equals_ignoring_case,
}
_NEGATED: Final[Mapping[str, _Matcher]] = {
    "StringNotEquals": _equals,
    "StringNotEqualsIgnoreCase": _equals_ignoring_case,
    "StringNotLike": like,
    "ArnNotEquals": _arn_like,
    "ArnNotLike": _arn_like,
}
_OPERATOR: Final = re.compile(r"(?P<set>ForAnyValue:|ForAllValues:)?(?P<name>[A-Za-z]+?)(?P<if_exists>IfExists)?\Z")


def conditions_hold(conditions: object, certain: Mapping[str, str], possible: Mapping[str, Sequence[str]]) -> Reading:
    """Whether all conditions of a statement hold for a request that surely carries `certain` keys with these values.

    Of the `possible` keys it is not known whether the request carries them; if so, with one of these values. Of any other key
    nothing is known. The names of keys ignore case, as IAM has it.
    """
    if not isinstance(conditions, Mapping) or not all(isinstance(keys, Mapping) for keys in conditions.values()):
        return Reading(None, "its Condition cannot be read")
    values: dict[str, Sequence[str | None]] = {name.lower(): (value,) for name, value in certain.items()}
    values |= {name.lower(): (*candidates, None) for name, candidates in possible.items()}
    holds: list[bool | None] = []
    whys: list[str] = []  # as they are written in the policy
    for operator, keys in conditions.items():
        for key, wanted in keys.items():
            each = _holds(operator, wanted if isinstance(wanted, list) else [wanted], values.get(key.lower()))
            holds.append(each)
            if each is not True:
                whys.append(shown({operator: {key: wanted}}))
    result = all_of(holds)
    doubt = "may or may not hold" if result is None else "does not hold"
    return Reading(result, "" if result else f"its condition {' and '.join(whys[:_MAX_TOLD])} {doubt}")


def _holds(operator: str, wanted: Sequence[object], values: Sequence[str | None] | None) -> bool | None:
    """One operator on one key; `values` are what the key may have (None: it is absent), None where nothing is known of it."""
    if values is None:
        return None
    results = {_holds_for(operator, [_as_text(each) for each in wanted], value) for value in values}
    return results.pop() if len(results) == 1 else None


def _holds_for(operator: str, wanted: Sequence[object], value: str | None) -> bool | None:
    if operator == "Null":
        is_readable = len(wanted) == 1 and wanted[0] in ("true", "false")
        return (wanted[0] == "true") == (value is None) if is_readable else None
    parts = _OPERATOR.match(operator)
    if parts is None:
        return None
    matches, excludes = _MATCHERS.get(parts["name"]), _NEGATED.get(parts["name"])
    if value is None and (matches or excludes):
        if parts["set"] is not None and parts["if_exists"] is None:
            return parts["set"] == "ForAllValues:"
        return excludes is not None or parts["if_exists"] is not None
    if matches and value is not None:
        return any_of(matches(each, value) for each in wanted)
    if excludes and value is not None:
        return negated(any_of(excludes(each, value) for each in wanted))
    return None


def _as_text(value: object) -> object:
    """Numbers and booleans as IAM compares them, as text."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case _:
            return value
