"""Source records to ensure commands: every event shape that Logwarden accepts, and nothing that can raise.

`parser` takes the envelopes off (`envelopes`, `unpacking`), and reads what is in them (`cloudtrail`, `own_event`, `custom_format`);
`first_look` drops most of a CloudTrail stream before any of that. `result` has what comes of it.
"""

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
]
