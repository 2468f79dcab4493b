"""What is wrong with a lane as a whole, and with no one command: an endpoint that is silent, a role that may not call. Pure.

First calls fail and are made again in place: the lane is in *trouble*. If that does not help it is *held*: nothing is started for a while,
then one command is tried (it *probes*), and if that fails the next wait is twice as long. Times are monotonic seconds.
"""

from typing import Final

from service.domain.status import Hold, Trouble

_LONG_AGO: Final = float("-inf")
_TOLD_AGAIN_S: Final = 60.0  # where every other call fails, that is news each time


class LaneFault:
    """A lane's hold and its trouble; a new lane has neither."""

    __slots__ = ("_hold_s", "_since", "_told_at", "began_at", "detail", "held_until", "reason", "trouble")

    def __init__(self) -> None:
        self.reason: str | None = None  # why it is held, the label of a failure class; None while it is not
        self.detail = ""
        self.held_until = 0.0
        self.began_at = _LONG_AGO  # when the last hold began
        self.trouble: Trouble | None = None
        self._since = 0.0  # when the first hold of this fault began
        self._hold_s = 0.0
        self._told_at = _LONG_AGO

    @property
    def is_probing(self) -> bool:
        """Whether the lane is held, or tries after a hold whether the fault is still there."""
        return self._hold_s > 0

    def lasts_s(self, now: float) -> float:
        """For how long the lane has been held, tries in between included; 0 where it is not."""
        return now - self._since if self.is_probing else 0.0

    def hold(self, now: float, reason: str, detail: str = "", *, first_s: float, longest_s: float) -> bool:
        """Start nothing for `first_s` seconds, the next time twice as long, and so on up to `longest_s`.

        The commands that were under way when the fault appeared come back one by one: they make one hold, not many. Returns
        whether this one made it.
        """
        if now < self.held_until:
            return False
        self.reason, self.detail = reason, detail
        if now - self.held_until > 2 * longest_s:  # whether that was over nothing has shown; it is long ago
            self._hold_s = 0.0
        if not self.is_probing:
            self._since = now
        self.began_at = now
        self._hold_s = min(2 * self._hold_s or first_s, longest_s)
        self.held_until = now + self._hold_s
        return True

    def release(self) -> None:
        """Go on: a call has succeeded, or the reason is gone."""
        self.held_until = 0.0
        self._hold_s = 0.0
        self.reason = None
        self.detail = ""

    def retries(self, now: float, reason: str, detail: str) -> bool:
        """Calls fail in a way that may pass by itself, and are made again in place; say whether that is news: once a minute at the most."""
        is_news = self.trouble is None and now - self._told_at >= _TOLD_AGAIN_S
        if is_news:
            self._told_at = now
        self.trouble = Trouble(reason, detail, now if self.trouble is None else self.trouble.since)
        return is_news

    def answered(self) -> None:
        """A call came to something."""
        self.trouble = None

    def status(self, now: float) -> Hold | None:
        return None if self.reason is None else Hold(self.reason, max(0.0, self.held_until - now), self.detail)
