"""What a dead letter says of itself: why, whose fault, what to do, and which record it was, in headers beside its unchanged bytes."""

from collections.abc import Sequence
from typing import Final

from service.domain.outcome import FailureClass

PREFIX: Final = "logwarden-"
VALUE_OMITTED: Final = (
    f"{PREFIX}value-omitted"  # bytes of a value too large for the broker; read it at the original offset
)
_MAX_REASON: Final = 1000  # characters: headers count towards the broker's record limit


def dead_letter_headers(
    failure: FailureClass, reason: str, *, field: str | None = None, **where: object
) -> Sequence[tuple[str, bytes]]:
    """Headers for a dead letter, all plain text: `field` is what was wrong in it, `where` names the record (`original_topic=...`)."""
    texts: dict[str, object] = {
        "class": failure.label,
        "fault": failure.fault.value,
        "reason": reason[:_MAX_REASON],
        "hint": failure.hint,
        "field": field,
        **{name.replace("_", "-"): value for name, value in where.items()},
    }
    return [
        (PREFIX + name, str(text).encode(errors="backslashreplace")) for name, text in texts.items() if text is not None
    ]
