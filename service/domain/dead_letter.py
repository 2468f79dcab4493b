"""What a dead letter says of itself, in headers beside its unchanged bytes, and how many there may be before that is the news."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from service.domain.outcome import FailureClass

PREFIX: Final = "logwarden-"
# Bytes of a value too large for the broker; read it at the original offset.
VALUE_OMITTED: Final = f"{PREFIX}value-omitted"
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


# What a bad release makes of good records, or a bad sender sends: where these are many, there is no telling what else is wrong.
_OF_A_RELEASE: Final = frozenset(
    {
        FailureClass.MALFORMED_EVENT,
        FailureClass.MALFORMED_COMMAND,
        FailureClass.INVALID_REQUEST,
        FailureClass.UNRECOGNISED,
    }
)


class DeadLetterLimit:
    """When to stop: so many dead letters in a row, or such a share of the last records, are not bad records but a bad deploy.

    Every class counts in a row, since a bad deploy shows as any of them: a wrong tenant file as unknown tenants and unlisted accounts,
    wrong keys or Regions as keys that cannot be used, a role with fewer rights as `not-authorized`, a wrong parser as malformed events.
    What tells them from the mistakes of single tenants is that nothing succeeds any more, in any account. So only a success ends a row,
    which a record that is rightly left alone is not; and of one account a third of a row counts at the most. (Where there are one or two
    accounts, their mistakes and a bad tenant file cannot be told apart, and nothing is stopped for either.) What only a release or a
    sender brings about is no account's mistake, and counts without that limit.

    The share is of the classes that only a release or a sender brings about. The others may well be most of the dead letters for months,
    where a tenant file lists a tenth of the accounts whose events come in; to stop then would be an outage of our own making.

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
        self._most_of_one = math.ceil(max_consecutive / 3)
        self._of_accounts: Counter[str | None] = Counter()  # in the row
        self.reason: str | None = None

    def passed(self) -> None:
        """A record was worked: the whole road is in order."""
        self._consecutive = 0
        self._of_accounts.clear()
        self.left_alone()

    def left_alone(self, count: int = 1) -> None:
        """So many records asked for nothing, which says little about those that do."""
        if self._failed:
            for _ in range(count):
                self._note(is_failed=False)
        else:
            self._recent.extend([False] * count)

    def failed(self, failure: FailureClass, *, account: str | None = None) -> None:
        """A record, of this account where that is known, is about to become a dead letter; see `reason` for whether it still may."""
        is_of_a_release = failure in _OF_A_RELEASE
        if is_of_a_release or self._of_accounts[account] < self._most_of_one:
            self._consecutive += 1
            self._of_accounts[account] += 1
        if is_of_a_release:
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
