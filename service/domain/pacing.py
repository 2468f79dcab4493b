"""The pace of one quota of a lane: its calls a second, exactly on average, and less for a while after AWS has said no.

AWS allows 5 AssociateKmsKey calls a second for an account and Region. Calls are spaced evenly (one per 1/rate s) rather than let
through in bursts: a bucket of 5 lets 9 calls into one second when it starts full. A pacer that is behind its schedule, since its timers
are late or its lane has just changed hands, makes up for it by a little more than the rate: one call a second more.
"""

from enum import Enum
from typing import Final

# How far behind its schedule a pacer may be and still make up for it, in seconds. AWS counts with a bucket: what was not called for a while
# can be called later, as long as the bucket is not full, which it is after a second. One token of it is for the call that is due, the
# others for calls that take longer than those after them to get there, as the first one does for which there is no connection.
_BEHIND_S: Final = 0.4
# Calls above the rate until it is made up, so that no second ever holds more than one above it
_CATCH_UP_PER_S: Final = 1.0
_CUT: Final = 0.5  # a throttle halves the rate
_CUT_GRACE_S: Final = 1.0  # one cut a second: the answers to calls already under way say nothing new
_LONG_AGO: Final = float("-inf")
_RECOVERY_PER_S: Final = 0.1  # of the ceiling: from half back to full in five seconds, and never below a tenth of it


class Quota(Enum):
    """What AWS counts by itself for an account and Region."""

    ASSOCIATE = "AssociateKmsKey"
    TAGS = "ListTagsForResource"
    DESCRIBE = "DescribeLogGroups"


class Pacer:
    """A token bucket (GCRA), with multiplicative decrease and additive recovery. Times are monotonic seconds."""

    __slots__ = ("_cut_at", "_not_before", "_rate", "_rate_at", "_scheduled", "ceiling_per_s", "throttled_at")

    def __init__(self, *, ceiling_per_s: float, owned_since: float) -> None:
        self.ceiling_per_s = ceiling_per_s
        self.throttled_at: float | None = None
        self._cut_at = _LONG_AGO
        self._rate = ceiling_per_s
        self._rate_at = owned_since
        self._scheduled = 0.0  # when the next call is due at an even pace
        self._not_before = 0.0  # and when it may start at the earliest, at the pace that makes up for a delay
        self.taken_over(owned_since)

    def rate(self, now: float) -> float:
        """The calls a second allowed at this moment."""
        return min(self.ceiling_per_s, self._rate + (now - self._rate_at) * _RECOVERY_PER_S * self.ceiling_per_s)

    @property
    def due(self) -> float:
        """When the next call may start."""
        return max(self._scheduled, self._not_before)

    def take(self, now: float) -> None:
        """Spend a token for a call that starts now, at or after `due`."""
        rate = self.rate(now)
        self._scheduled = max(self._scheduled, now - _BEHIND_S) + 1 / rate
        self._not_before = now + 1 / (rate + _CATCH_UP_PER_S)

    def sent(self, now: float) -> None:
        """A call that had its token goes out only now: until then AWS's bucket may have been full, and what ran over is not made up for."""
        self._scheduled = max(self._scheduled, now - _BEHIND_S + 1 / self.rate(now))

    def taken_over(self, owned_since: float) -> None:
        """Begin without a token at that moment: a former owner may have called right before."""
        self._scheduled = max(self._scheduled, owned_since + 1 / self.rate(owned_since))

    def throttled(self, now: float) -> None:
        """AWS refused a call for its rate: halve ours, at most once a second."""
        self.throttled_at = now
        if now - self._cut_at < _CUT_GRACE_S:
            return
        self._cut_at = now
        self._rate = self.rate(now) * _CUT
        self._rate_at = now
        self._scheduled = max(self._scheduled, now + 1 / self._rate)

    def settles_at(self, now: float) -> float:
        """When this pacer will be as a new one would: nothing is lost by forgetting it then."""
        missing = self.ceiling_per_s - self.rate(now)
        return max(self.due, now + missing / (_RECOVERY_PER_S * self.ceiling_per_s))
