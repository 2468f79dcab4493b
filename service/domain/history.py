"""What a replica remembers of the groups it sealed lately: which they are, and how often each had to be brought back.

A group that was sealed is looked at before it is sealed again, since trails and buses tell everything twice. And a group whose key
somebody keeps changing (Terraform does, at every apply, where its code names no key) is *contested*: both sides would go on for ever,
so it waits, longer each time, and people are told who changes it. In memory only: a restart forgets, which costs a few calls.
"""

from collections import OrderedDict
from typing import Final

from service.domain.log_group import LogGroup

WINDOW_S: Final = 3600.0  # as long as the longest damping: what is calmer than that needs none
# Times within the window that a group is brought back at once: a deploy, its repetition, a rollback.
MAX_FLIPS: Final = 3
_MAX_GROUPS: Final = 10_000  # some megabytes; the one that was sealed longest ago is forgotten first


class History:
    """The groups that were sealed lately. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._flips: OrderedDict[LogGroup, tuple[float, ...]] = OrderedDict()

    def sealed(self, log_group: LogGroup, now: float, *, is_flip: bool) -> None:
        """Remember that a group was sealed; `is_flip` if somebody had taken it from under its key before."""
        flips = self._within(log_group, now)
        self._flips[log_group] = (*flips, now) if is_flip else flips
        self._flips.move_to_end(log_group)
        if len(self._flips) > _MAX_GROUPS:
            self._flips.popitem(last=False)

    def has(self, log_group: LogGroup) -> bool:
        """Whether the group is remembered as sealed."""
        return log_group in self._flips

    def flips(self, log_group: LogGroup, now: float) -> int:
        """How often the group was brought back within the window."""
        return len(self._within(log_group, now))

    def _within(self, log_group: LogGroup, now: float) -> tuple[float, ...]:
        return tuple(at for at in self._flips.get(log_group, ()) if at > now - WINDOW_S)
