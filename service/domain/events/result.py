"""What comes of one source record: the commands it asks for, what in it is malformed, and the way there, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from service.domain.command import EnsureCommand, Origin

MAX_REASON_LENGTH: Final = 200  # characters; a reason goes into a record header and a log line
_MAX_LISTED_PROBLEMS: Final = 5  # with the above, what a dead letter's header has room for

Headers = Sequence[tuple[str, bytes | None]]  # of a Kafka record: names may repeat, and a value may be null


@dataclass(frozen=True, slots=True)
class Problem:
    """What makes a record malformed: a JSON path such as `detail.requestParameters.logGroupName`, and a sentence."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one source record asks for, and what in it cannot be read. Neither: the record is irrelevant.

    One bad entry among good ones gives both: the commands are to be worked, and the record is to be dead-lettered.
    """

    commands: tuple[EnsureCommand, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def reason(self) -> str:
        """Every problem in one text: of many, how many there are and the first few with their fields. Empty where there is none."""
        if len(self.problems) < 2:
            return "".join(problem.reason for problem in self.problems)
        listed = [f"{problem.field}: {problem.reason}" for problem in self.problems[:_MAX_LISTED_PROBLEMS]]
        more = len(self.problems) - len(listed)
        return f"{len(self.problems)} problems: {'; '.join(listed)}{f'; and {more} more' if more else ''}"


class Finding(StrEnum):
    """What a step found."""

    LOOKED = "looked"  # at the raw bytes
    OPENED = "opened"  # an envelope; its content follows
    IRRELEVANT = "irrelevant"
    COMMAND = "command"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was found on the way, where (a JSON path, `value` for the whole), and a text for people.

    The text of an opened envelope is its name. `command` is there where the finding is one.
    """

    finding: Finding
    path: str
    text: str
    command: EnsureCommand | None = None


@dataclass(frozen=True, slots=True)
class Irrelevant:
    """An object that was understood and asks for nothing, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What an event of the users' own asks for. `said_key` is the key that it says the group has, which proves nothing and is only told."""

    command: EnsureCommand
    said_key: str | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a source record entered Kafka (ms since the epoch), and which record it is."""

    accepted_at_ms: int
    origin: Origin | None


class UnusableError(Exception):
    """The object at hand cannot be read; ends this one and no other."""

    def __init__(self, field: str, reason: str) -> None:
        cut = reason if len(reason) <= MAX_REASON_LENGTH else f"{reason[: MAX_REASON_LENGTH - 3]}..."
        super().__init__(cut)
        self.problem = Problem(field or "value", cut)


class LimitError(Exception):
    """The message is more than one message may be; ends the whole of it. What was read before stands."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(field or "value", reason)
