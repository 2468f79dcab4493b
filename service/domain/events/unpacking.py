"""Bytes and strings to JSON values: gzip, base64, JSON. What a message may grow to is bounded here, whatever its sender wrote."""

import base64
import json
import re
import zlib
from typing import Any, Final

from service.domain.events.result import LimitError, UnusableError

GZIP_MAGIC: Final = b"\x1f\x8b"

# A CloudTrail file of about 10,000 records. A broker takes messages of 1 MB by default, and gzip makes 1000 times as much of one.
MAX_UNPACKED_BYTES: Final = 16 * 2**20
# Of 16 MB that are all brackets, Python makes half a gigabyte of lists. Records of CloudTrail have about 50 values in 1.3 kB.
MAX_JSON_VALUES: Final = 1_000_000
# Records and other batch entries. Larger than any CloudTrail file of the size above.
MAX_ENTRIES: Final = 20_000
_MAX_GZIP_MEMBERS: Final = 1000  # Firehose puts some dozens one after another; an empty one is 20 bytes
_GZIP_CHUNK: Final = 64 * 2**10  # bytes: what follows a member is copied once for each member, within a chunk
_GZIP_WINDOW: Final = 31  # zlib's number for a gzip header and the largest window

_DECODER: Final = json.JSONDecoder()
_NO_SPACE: Final = re.compile(r"[^ \t\r\n]|\Z")  # JSON's white space, which is not Unicode's


class Allowance:
    """What is left of the limits of one message, all envelopes and entries of it together."""

    def __init__(self) -> None:
        self._bytes = MAX_UNPACKED_BYTES
        self._entries = MAX_ENTRIES

    def enter(self, path: str) -> None:
        """Count a batch entry. Raises LimitError."""
        if not self._entries:
            raise LimitError(path, f"more than {MAX_ENTRIES} entries in one message; none from here on was read")
        self._entries -= 1

    def gunzipped(self, value: bytes, path: str) -> bytes:
        """What gzip holds, in one member or several. Raises UnusableError, and LimitError before more than is allowed is unpacked."""
        parts: list[bytes] = []
        members, position, tail = 0, 0, b""
        member: Any = None
        try:
            while tail or position < len(value):
                if not tail:
                    tail, position = value[position : position + _GZIP_CHUNK], position + _GZIP_CHUNK
                if member is None:
                    tail = tail.lstrip(b"\0") if members else tail  # padding, as tapes and some writers leave it
                    if not tail:
                        continue
                    members += 1
                    if members > _MAX_GZIP_MEMBERS:
                        raise LimitError(path, f"more than {_MAX_GZIP_MEMBERS} gzip members in one value")
                    member = zlib.decompressobj(_GZIP_WINDOW)
                part = member.decompress(tail, self._bytes + 1)
                self._bytes -= len(part)
                if self._bytes < 0:
                    raise LimitError(path, f"more than {MAX_UNPACKED_BYTES} bytes when unpacked")
                parts.append(part)
                tail = member.unused_data if member.eof else member.unconsumed_tail
                member = None if member.eof else member
        except zlib.error as e:
            raise UnusableError(path, f"is not gzip: {e}") from e
        if member is not None:
            raise UnusableError(path, "is gzip that is cut off")
        return b"".join(parts)


def from_base64(text: str, path: str) -> bytes:
    """The bytes that base64 spells. Raises UnusableError."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as e:
        raise UnusableError(path, f"is not base64: {e}") from e


def json_value(text: str | bytes, path: str) -> Any:
    """The one JSON value in a text. Of equal keys the last counts, as with most readers. Raises UnusableError."""
    try:
        return json.loads(_checked(text, path))
    except (ValueError, RecursionError) as e:
        raise UnusableError(path, f"is not JSON: {e}") from e


def json_values(content: str | bytes, path: str, *, are_lines: bool) -> list[Any]:
    """The JSON values in a text, one after another: newline-delimited where `are_lines`, else with anything or nothing in between, as
    Firehose delivers them. Of more than a message may have, the first one too many ends the list. Raises UnusableError.
    """
    values: list[Any] = []
    try:
        text = _checked(content, path)
        position = _after_space(text, 0)
        while (position < len(text) and len(values) <= MAX_ENTRIES) or not values:
            value, end = _DECODER.raw_decode(text, position)
            values.append(value)
            position = _after_space(text, end)
            if are_lines and position < len(text) and "\n" not in text[end:position]:
                raise UnusableError(path, f"is not JSON: something follows its end on the same line: char {position}")
        return values
    except (ValueError, RecursionError) as e:
        raise UnusableError(path, f"is not JSON: {e}") from e


def _checked(text: str | bytes, path: str) -> str:
    """The text, known not to grow beyond reason. Raises UnusableError, and UnicodeDecodeError, which is a ValueError."""
    decoded = text.decode().removeprefix("\ufeff") if isinstance(text, bytes) else text
    if len(decoded) > MAX_JSON_VALUES:  # each value takes a character at least
        values = decoded.count(",") + decoded.count("{") + decoded.count("[")
        if values > MAX_JSON_VALUES:
            raise UnusableError(path, f"holds more than {MAX_JSON_VALUES} JSON values")
    return decoded


def _after_space(text: str, position: int) -> int:
    found = _NO_SPACE.search(text, position)
    return found.start() if found else len(text)
