"""What a dead letter says of itself, in headers beside its unchanged bytes, and how many there may be before that is the news."""

from collections import deque
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


class DeadLetterLimit:
    """When to stop: so many dead letters in a row, or such a share of the last records, are not bad records but a bad release.

    Stopping leaves the records where they are, to be worked by a better release; a dead-letter topic full of good records would have to
    be replayed. Once reached, a limit stays so for the life of the process.
    """

    def __init__(self, *, max_consecutive: int, max_share: float, window: int) -> None:
        """`max_share` (0 to 1) is of the last `window` records, and looked at once there have been as many."""
        self._max_consecutive = max_consecutive
        self._max_share = max_share
        self._recent: deque[bool] = deque(maxlen=window)
        self._failed = 0
        self._consecutive = 0
        self.reason: str | None = None

    def passed(self, count: int = 1) -> None:
        """So many records were worked, or were rightly left alone."""
        self._consecutive = 0
        if self._failed:
            for _ in range(count):
                self._note(is_failed=False)
        else:
            self._recent.extend([False] * count)

    def failed(self) -> None:
        """A record is about to become a dead letter; see `reason` for whether it still may."""
        self._consecutive += 1
        self._note(is_failed=True)
        if self.reason is not None:
            return
        if self._consecutive > self._max_consecutive:
            self.reason = f"more than {self._max_consecutive} dead letters in a row"
        elif len(self._recent) == self._recent.maxlen and self._failed > self._max_share * len(self._recent):
            self.reason = f"more than {self._max_share:.0%} of the last {len(self._recent)} records are dead letters"

    def _note(self, *, is_failed: bool) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._failed -= self._recent[0]
        self._recent.append(is_failed)
        self._failed += is_failed
