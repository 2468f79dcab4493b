"""Source records to ensure commands: every event shape that Logwarden accepts, and nothing that can raise.

`parser` takes the envelopes off (`envelopes`, `unpacking`), and reads what is in them (`cloudtrail`, `own_event`, `custom_format`);
`first_look` drops most of a CloudTrail stream before any of that. `result` has what comes of it.
"""

from typing import Final

from service.domain.command import Origin
from service.domain.events.custom_format import Condition, Constant, EventFormat, EventFormatError, Pointer
from service.domain.events.parser import EventParser
from service.domain.events.result import MAX_REASON_LENGTH, Arrival, Finding, Headers, Parsed, Problem, Step

__all__ = [
    "MAX_REASON_LENGTH",
    "Arrival",
    "Condition",
    "Constant",
    "EventFormat",
    "EventFormatError",
    "EventParser",
    "Finding",
    "Headers",
    "Parsed",
    "Pointer",
    "Problem",
    "Step",
    "explain_event",
    "is_surely_irrelevant",
    "parse_event",
]

_BUILT_IN: Final = EventParser()

is_surely_irrelevant: Final = _BUILT_IN.is_surely_irrelevant


def parse_event(value: bytes | None, headers: Headers = (), *, accepted_at_ms: int, origin: Origin | None) -> Parsed:
    """Read one source record without custom formats; never raises. `accepted_at_ms` is when it entered Kafka (ms since the epoch)."""
    return _BUILT_IN.parse(value, headers, arrival=Arrival(accepted_at_ms, origin))


def explain_event(value: bytes | None, headers: Headers = ()) -> list[Step]:
    """What a source record is without custom formats, step by step; never raises."""
    return _BUILT_IN.explain(value, headers)
