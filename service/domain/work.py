"""What a lane queues and runs: a command, with the records that asked for it."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.domain.command import EnsureCommand, Priority
from service.domain.log_group import Lane
from service.domain.offsets import Delivery
from service.domain.sweep import Command


@dataclass(slots=True, eq=False)
class Work:
    """One log group's pending work: the merged command, the record that asked for it first, and those that `joined`.

    `since` is when it came in, in monotonic seconds. `priority` is that of the queue it lies in, or of the most urgent who waits for its
    end. `rank` is its place among those that wait for tokens, lower is sooner; it is settled at the start.
    """

    command: Command
    delivery: Delivery
    since: float
    priority: Priority
    rank: float = 0.0
    held_since: float | None = None  # when its own failure first held its lane
    joined: list[Delivery] | None = None  # few have any, and a list for each of a hundred thousand is 8 MB

    @property
    def lane(self) -> Lane:
        return self.command.lane

    @property
    def key(self) -> str:
        """What no two commands of a lane have in common: for those about one log group its name."""
        return self.command.queue_key

    @property
    def deliveries(self) -> list[Delivery]:
        """Every record that asks for it, the first one first."""
        return [self.delivery, *(self.joined or ())]

    def absorb(self, command: Command, deliveries: Iterable[Delivery]) -> None:
        """Take another command for the same group, or of the same sweep, aboard: they end together."""
        if isinstance(self.command, EnsureCommand) and isinstance(command, EnsureCommand):
            self.command = self.command.merged(command)
        self.joined = self.joined or []
        self.joined.extend(deliveries)
