"""Fields of an untrusted JSON object: where they are, for the error text, and what they must be."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from service.domain.events.result import UnusableError
from service.domain.events.unpacking import json_value
from service.domain.log_group import InvalidIdentityError

_T = TypeVar("_T")

# Envelopes and string encodings in each other: about twice what the longest real chain of services makes.
MAX_DEPTH: Final = 16

# What AWS itself allows; the bound keeps 100,000 waiting commands small whatever a sender writes.
_MAX_TAGS: Final = 50
_MAX_TAG_KEY_LENGTH: Final = 128  # characters
_MAX_TAG_VALUE_LENGTH: Final = 256
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

Stated = tuple[str, Any]  # a field's path and its value, None where it is absent


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the message we are, how deep, and the fields that the envelopes around stated.

    `is_cloudevent` says that the message's content type names what is here a CloudEvent.
    """

    path: str = ""
    depth: int = 0
    account: Stated = ("account", None)
    region: Stated = ("region", None)
    is_cloudevent: bool = False

    @property
    def name(self) -> str:
        """The path for people."""
        return self.path or "value"

    def to(self, field: str) -> str:
        """The path of a field here."""
        return f"{self.path}.{field}" if self.path and not field.startswith("[") else f"{self.path}{field}"

    def inside(self, field: str) -> "Place":
        """The place that a field of an envelope is. Raises UnusableError beyond MAX_DEPTH."""
        return replace(self.deeper(), path=self.to(field), is_cloudevent=False)

    def entry(self, index: int) -> "Place":
        """The place of an entry of a list here."""
        return replace(self.deeper(), path=self.to(f"[{index}]"))

    def deeper(self) -> "Place":
        """The same place with an encoding taken off. Raises UnusableError beyond MAX_DEPTH."""
        if self.depth >= MAX_DEPTH:
            raise UnusableError(self.path, f"more than {MAX_DEPTH} envelopes in each other")
        return Place(self.path, self.depth + 1, self.account, self.region, self.is_cloudevent)  # replace takes 2 us


@dataclass(frozen=True, slots=True)
class Fields:
    """An object and where it is."""

    body: Mapping[str, Any]
    place: Place

    def field(self, name: str) -> Stated:
        return self.place.to(name), self.body.get(name)

    def object(self, name: str) -> "Fields":
        """An object inside this one, given as such or as a JSON string. Raises UnusableError."""
        path, value = self.field(name)
        if isinstance(value, str):
            value = json_value(value, path)
        if not isinstance(value, dict):
            raise UnusableError(path, f"is not an object but {kind(value)}")
        return Fields(value, replace(self.place, path=path))


def agreed(statements: Sequence[Stated], check: Callable[[Any], _T]) -> _T:
    """The checked value of several statements that must say the same; None says nothing. Raises UnusableError."""
    given = [(path, checked(path, value, check)) for path, value in statements if value is not None]
    if not given:
        raise UnusableError(statements[0][0], "is missing")
    first_path, first = given[0]
    for path, value in given[1:]:
        if value != first:
            raise UnusableError(path, f"{value} contradicts {first_path}, {first}")
    return first


def checked(path: str, value: Any, check: Callable[[Any], _T]) -> _T:
    """A string that a check accepts. Raises UnusableError."""
    if not isinstance(value, str):
        raise UnusableError(path, "is missing" if value is None else f"is not a string but {kind(value)}")
    try:
        return check(value)
    except InvalidIdentityError as e:
        raise UnusableError(path, str(e)) from e


def tags(path: str, value: Any) -> Mapping[str, str] | None:
    """Tags that AWS would accept; None where there are none stated. Raises UnusableError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UnusableError(path, f"is not a map of strings but {kind(value)}")
    if len(value) > _MAX_TAGS:
        raise UnusableError(path, f"has {len(value)} tags; AWS allows {_MAX_TAGS}")
    for key, text in value.items():
        if not (_is_text(key, _MAX_TAG_KEY_LENGTH) and _is_text(text, _MAX_TAG_VALUE_LENGTH)):
            raise UnusableError(path, f"has a tag that AWS would not accept: {key[:40]!r}")
    return value


def said_key(path: str, value: Any) -> str | None:
    """The key that a sender says its group has, None where it says none. Raises UnusableError for what is no string.

    It proves nothing: it may be what the sender asked for, or never got. Only what AWS reports of a call is believed.
    """
    if value is not None and not isinstance(value, str):
        raise UnusableError(path, f"is not a string but {kind(value)}")
    return value


def _is_text(value: Any, max_length: int) -> bool:
    """Whether this is a string that can be written as UTF-8: JSON can spell half a surrogate pair, and UTF-8 cannot."""
    return isinstance(value, str) and len(value) <= max_length and not _SURROGATE.search(value)


def kind(value: Any) -> str:
    """What a value is, for an error text: never the value itself, which may be large, deep or secret."""
    match value:
        case None:
            return "null"
        case dict():
            keys = ", ".join(repr(key[:30]) for key in list(value)[:6])
            return f"an object with {keys}{', ...' if len(value) > 6 else ''}" if value else "an empty object"
        case list():
            return "a list" if value else "an empty list"
        case str():
            return "a string"
        case _:
            return f"a {type(value).__name__}"
