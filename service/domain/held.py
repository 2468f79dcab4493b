"""Which lanes are held, in the whole fleet: what the owner of a lane says of it on the control topic, under a key for each lane.

The topic is compacted and every replica follows it, so any of them can say why a log group waits. An owner that is gone takes nothing
back: what it said is void some minutes later, unless the next one says it again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.domain.log_group import InvalidIdentityError, Lane, account_id, region_name
from service.domain.timestamp import END_OF_TIME_MS

_KEY: Final = b"held:"
_WIRE_VERSION: Final = 1
_MAX_BYTES: Final = 16_384
_MAX_DETAIL: Final = 1000  # characters
VALID_MS: Final = 180_000  # a lane that is held tries each minute, which may take as long again, and says so


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLane:
    """A lane waits since `since_ms`, for the failure class of this label, and still did at `at_ms` (ms since 1970)."""

    lane: Lane
    failure: str
    detail: str
    since_ms: int
    at_ms: int

    def to_bytes(self) -> bytes:
        body: Mapping[str, Any] = {
            "v": _WIRE_VERSION,
            "account": self.lane.account,
            "region": self.lane.region,
            "failure": self.failure,
            "detail": self.detail[:_MAX_DETAIL],
            "since": self.since_ms,
            "at": self.at_ms,
        }
        return json.dumps(body, separators=(",", ":")).encode()


def key_of(lane: Lane) -> bytes:
    """Where on the topic the last word on a lane is."""
    return _KEY + str(lane).encode()


def is_of_a_lane(key: bytes | None) -> bool:
    """Whether a record of the control topic is about a lane, and not about the service."""
    return key is not None and key.startswith(_KEY)


class HeldLanes:
    """The last word on each lane, as far as it is not void."""

    def __init__(self) -> None:
        self._lanes: dict[bytes, HeldLane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def apply(self, key: bytes, value: bytes | None, *, now_ms: int) -> None:
        """Take in a record about a lane; none, one that is void, and one that cannot be read say that the lane is not held."""
        held = None if value is None else _from_bytes(value)
        if held is None or key != key_of(held.lane) or _is_void(held, now_ms):
            self._lanes.pop(key, None)
        else:
            self._lanes[key] = held

    def find(self, lane: Lane, *, now_ms: int) -> HeldLane | None:
        held = self._lanes.get(key_of(lane))
        if held is None or not _is_void(held, now_ms):
            return held
        del self._lanes[key_of(lane)]
        return None


def _is_void(held: HeldLane, now_ms: int) -> bool:
    return now_ms - held.at_ms > VALID_MS


def _from_bytes(value: bytes) -> HeldLane | None:
    """A newer release may write something else: it is then not known here why the lane waits."""
    try:
        match json.loads(value) if len(value) <= _MAX_BYTES else None:
            case {
                "v": 1,
                "account": account,
                "region": region,
                "failure": str(failure),
                "detail": str(detail),
                "since": int(since_ms),
                "at": int(at_ms),
            } if 0 <= since_ms <= at_ms < END_OF_TIME_MS:
                lane = Lane(account_id(account), region_name(region))
                return HeldLane(lane=lane, failure=failure, detail=detail, since_ms=since_ms, at_ms=at_ms)
    except (ValueError, RecursionError, InvalidIdentityError):
        return None
    return None
