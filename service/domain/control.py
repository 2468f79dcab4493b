"""Whether the service is to work or to wait: the word of an operator, as it lies on the control topic.

The topic is compacted and holds the last word under one key, so that it outlives every process and every retention. Where there is
none, or somebody deleted it, the service works.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

from service.domain.timestamp import END_OF_TIME_MS

KEY: Final = b"pause"  # records under other keys are not of this release
MAX_REASON: Final = 500  # characters: a sentence and a link, on a status page and in a log line
MAX_NAME: Final = 64  # characters; as long as the name of a token may be

_MAX_BYTES: Final = 16_384  # our longest record, with every character escaped, is half of that
_WIRE_VERSION: Final = 1
# Nothing that ends a line, reverses the direction of the text or is half a character: it is shown in logs and terminals. Ranges, not
# str.isprintable(), which depends on Python's release, while all replicas have to agree.
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+\Z")


class MalformedControlRecordError(ValueError):
    """Bytes on the control topic that are no word of ours."""


class InvalidReasonError(ValueError):
    """What is given as a reason cannot be one; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """From `at_ms` (ms since 1970) on nothing is started, by the will of `by`."""

    by: str
    at_ms: int
    reason: str

    @classmethod
    def of(cls, *, by: str, at_ms: int, reason: str) -> "Paused":
        """With the reason as one line, whatever white space it came with. Raises InvalidReasonError."""
        words = " ".join(reason.split())
        if not words:
            raise InvalidReasonError("a reason is required")
        if len(words) > MAX_REASON:
            raise InvalidReasonError(f"a reason has at most {MAX_REASON} characters")
        if not _LINE.match(words):
            raise InvalidReasonError("a reason has no control characters")
        return cls(by=by, at_ms=at_ms, reason=words)

    def to_bytes(self) -> bytes:
        return _encoded({"state": "paused", "by": self.by, "at": self.at_ms, "reason": self.reason})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """From `at_ms` (ms since 1970) on work goes on, by the will of `by`."""

    by: str
    at_ms: int

    def to_bytes(self) -> bytes:
        return _encoded({"state": "resumed", "by": self.by, "at": self.at_ms})


Word = Paused | Resumed


def word_from_record(key: bytes | None, value: bytes | None) -> Word | None:
    """Read a control record; None is a tombstone, the word taken back. Raises MalformedControlRecordError for anything else."""
    if key != KEY:
        raise MalformedControlRecordError("not under our key")
    if value is None:
        return None
    if len(value) > _MAX_BYTES:
        raise MalformedControlRecordError(f"{len(value)} bytes are too many")
    try:
        body = json.loads(value)
    except (ValueError, RecursionError) as e:
        raise MalformedControlRecordError(f"not JSON: {e}") from e
    if not isinstance(body, dict) or body.get("v") != _WIRE_VERSION:
        raise MalformedControlRecordError("not a version that this release reads")
    match body:
        case {"state": "paused", "by": str(by), "at": int(at_ms), "reason": str(reason)}:
            word: Word = Paused(by=by, at_ms=at_ms, reason=reason)
            is_bounded = len(reason) <= MAX_REASON and _LINE.match(reason) is not None
        case {"state": "resumed", "by": str(by), "at": int(at_ms)}:
            word, is_bounded = Resumed(by=by, at_ms=at_ms), True
        case _:
            raise MalformedControlRecordError("neither a pause nor its end")
    if not is_bounded or len(by) > MAX_NAME or not _LINE.match(by):
        raise MalformedControlRecordError("the reason or the name is not one line of words")
    if isinstance(body["at"], bool) or not 0 <= at_ms < END_OF_TIME_MS:
        raise MalformedControlRecordError("the time is not one of ours")
    return word


def _encoded(body: dict[str, str | int]) -> bytes:
    return json.dumps({"v": _WIRE_VERSION} | body, separators=(",", ":"), ensure_ascii=False).encode()
