"""Custom formats: a user's own event, described by where in it the log group is.

Places are JSON pointers (RFC 6901). A format may ask that fields have certain values (`when`); without that it takes every object
that has the field of its log group. Formats are tried before every built-in shape, at every level of a message, in their order.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.domain.command import EnsureCommand, Trigger
from service.domain.events.fields import Fields, Stated, agreed, checked, said_key, tags
from service.domain.events.result import Arrival, Asked
from service.domain.log_group import InvalidIdentityError, LogGroup, account_id, region_name

_MAX_POINTER_LENGTH: Final = 512  # characters: it is part of an error text's path
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_BAD_ESCAPE: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")
_PLAIN: Final = re.compile(
    r"[ !#-.0-\[\]-~]+"
)  # ASCII that JSON spells as itself or \uXXXX: no quote, backslash or slash

Condition = str | int | bool


class EventFormatError(ValueError):
    """A custom format that cannot be used. `field` says which part of it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is not in the event, but the same for each of them."""

    value: str


class Pointer:
    """A JSON pointer such as `/subject/name`. Raises ValueError for what is none, or points at the whole event."""

    __slots__ = ("_tokens", "path", "text")

    def __init__(self, text: str) -> None:
        if not text.startswith("/"):
            raise ValueError(f"{text[:80]!r} is not a JSON pointer such as /subject/name")
        if len(text) > _MAX_POINTER_LENGTH:
            raise ValueError(f"is longer than {_MAX_POINTER_LENGTH} characters")
        if _BAD_ESCAPE.search(text):
            raise ValueError(f"{text[:80]!r} has a ~ that is neither ~0 (for ~) nor ~1 (for /)")
        self.text = text
        self._tokens = tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))
        parts = (f"[{token}]" if _INDEX.match(token) else f".{token}" for token in self._tokens)
        self.path = "".join(parts).removeprefix(".")

    def value_in(self, body: Any) -> Any:
        """The value there, None where there is none."""
        value = body
        for token in self._tokens:
            if isinstance(value, dict):
                value = value.get(token)
            elif isinstance(value, list) and _INDEX.match(token) and int(token) < len(value):
                value = value[int(token)]
            else:
                return None
        return value

    def stated(self, event: Fields) -> Stated:
        return event.place.to(self.path), self.value_in(event.body)

    @property
    def words(self) -> list[str]:
        """The keys on the way; what may be the index of a list is none."""
        return [token for token in self._tokens if not _INDEX.match(token)]


class EventFormat:
    """One custom format, checked and ready; raises EventFormatError, which names the field.

    `account`, `region`, `log_group`, `log_group_arn`, `tags` and `key` are JSON pointers; account and Region may be a Constant instead, and
    may be left out where there is an ARN. `when` has the values that fields must have, by pointer.
    """

    __slots__ = ("_account", "_is_arn", "_key", "_log_group", "_region", "_tags", "_when", "mark", "name")

    def __init__(
        self,
        *,
        name: str,
        account: str | Constant | None = None,
        region: str | Constant | None = None,
        log_group: str | None = None,
        log_group_arn: str | None = None,
        tags: str | None = None,
        key: str | None = None,
        when: Mapping[str, Condition] | None = None,
    ) -> None:
        if not _NAME.match(name):
            raise EventFormatError("name", "is not up to 63 letters, digits, dots, hyphens and underscores")
        if (log_group is None) == (log_group_arn is None):
            raise EventFormatError("log_group", "is to be given, or log_group_arn, and not both")
        for field, source in (("account", account), ("region", region)):
            if source is None and log_group_arn is None:
                raise EventFormatError(field, "is missing: only an ARN says it as well")
        self.name = name
        self._account = _source("account", account)
        self._region = _source("region", region)
        _check_constant("account", self._account)
        _check_constant("region", self._region)
        self._is_arn = log_group_arn is not None
        self._log_group = _checked_pointer(
            "log_group_arn" if self._is_arn else "log_group", log_group_arn or log_group or ""
        )
        self._tags = _pointer("tags", tags)
        self._key = _pointer("key", key)
        self._when = [(_checked_pointer(f"when.{text}", text), value) for text, value in (when or {}).items()]
        for pointer, value in self._when:
            if not isinstance(value, str | int):
                raise EventFormatError(f"when.{pointer.text}", "is to be text, a whole number, true or false")
        self.mark = self._longest_mark()

    def takes(self, body: Mapping[str, Any]) -> bool:
        """Whether an object is an event of this format."""
        if self._when:
            return all(_is_same(pointer.value_in(body), value) for pointer, value in self._when)
        return self._log_group.value_in(body) is not None

    def is_of_another_kind(self, body: Mapping[str, Any]) -> bool:
        """Whether an object has every field that `when` looks at, with other values: an event of the same sender, not for us."""
        return bool(self._when) and all(pointer.value_in(body) is not None for pointer, _ in self._when)

    def read(self, event: Fields, arrival: Arrival) -> Asked:
        """Read an event that this format takes. Raises UnusableError."""
        accounts = [_stated(self._account, "account", event), event.place.account]
        regions = [_stated(self._region, "region", event), event.place.region]
        path, name = self._log_group.stated(event)
        if self._is_arn:
            named = checked(path, name, LogGroup.from_arn)
            accounts.append((path, named.account))
            regions.append((path, named.region))
            name = named.name
        account, region = agreed(accounts, account_id), agreed(regions, region_name)
        command = EnsureCommand(
            log_group=checked(path, name, lambda value: LogGroup.of(account, region, value)),
            trigger=Trigger.CREATED,
            accepted_at_ms=arrival.accepted_at_ms,
            origin=arrival.origin,
            tags=tags(*self._tags.stated(event)) if self._tags else None,
        )
        return Asked(command, said_key(*self._key.stated(event)) if self._key else None)

    def _longest_mark(self) -> bytes | None:
        """Bytes that are in every message with such an event unless they are in disguise (see `first_look`), None if there are none."""
        values = [value for _, value in self._when if isinstance(value, str)]
        required = [*(pointer for pointer, _ in self._when), self._log_group]
        keys = [word for pointer in required for word in pointer.words]
        # A value tells events apart better than a key, which the sender's other events may have too.
        for words in (values, keys):
            runs: list[str] = [run for word in words for run in _PLAIN.findall(word)]
            if runs:
                return max(runs, key=len).encode()
        return None


def _pointer(field: str, text: str | None) -> Pointer | None:
    return None if text is None else _checked_pointer(field, text)


def _checked_pointer(field: str, text: str) -> Pointer:
    try:
        return Pointer(text)
    except ValueError as e:
        raise EventFormatError(field, str(e)) from e


def _source(field: str, source: str | Constant | None) -> Pointer | Constant | None:
    return source if isinstance(source, Constant) else _pointer(field, source)


def _check_constant(field: str, source: Pointer | Constant | None) -> None:
    if isinstance(source, Constant):
        try:
            account_id(source.value) if field == "account" else region_name(source.value)
        except InvalidIdentityError as e:
            raise EventFormatError(field, str(e)) from e


def _stated(source: Pointer | Constant | None, field: str, event: Fields) -> Stated:
    match source:
        case Pointer():
            return source.stated(event)
        case Constant(value):
            return f"the format's {field}", value
        case None:
            return field, None


def _is_same(value: Any, expected: Condition) -> bool:
    """Equal as JSON values are: true is not 1."""
    return isinstance(value, bool) == isinstance(expected, bool) and bool(value == expected)
