"""A look, some seconds after groups of a lane were sealed, whether AWS shows them so: up to 50 at once, for one call."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.domain.command import Priority
from service.domain.log_group import KeyArn, Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCommand:
    """Look whether groups of a lane are under the keys that they were put under. `number` tells one such command from another.

    It is in no topic: it stands in its lane beside the log groups that wait.
    """

    lane: Lane
    number: int
    keys: Mapping[str, KeyArn]

    @property
    def queue_key(self) -> str:
        """What tells it from all else in its lane: no log group's name has a space."""
        return f"verify {self.number}"

    @property
    def priority(self) -> Priority:
        return Priority.SWEEP
