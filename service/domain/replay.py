"""Dead letters as they are read back: what each says of itself, which of them are meant, and what goes back to its topic."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from service.domain.command import EnsureCommand, MalformedCommandError, Origin
from service.domain.dead_letter import PREFIX, VALUE_OMITTED
from service.domain.log_group import LogGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record of the dead-letter topic. `headers` are those of the original; `says` is the explanation, by names without their prefix.

    Anybody may write to the topic, so nothing of it is believed to be there. `at_ms` is when it became one (ms since 1970). `log_group` is
    that of a command, None for anything else; `size` is of the value in bytes, also where that was left out.
    """

    place: Origin
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    says: Mapping[str, str]
    log_group: LogGroup | None
    size: int

    @classmethod
    def of(
        cls, place: Origin, at_ms: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> "DeadLetter":
        says = {  # Kafka has headers whose value is null
            name.removeprefix(PREFIX): (text or b"").decode(errors="replace")
            for name, text in headers
            if name.startswith(PREFIX)
        }
        omitted = says.get(VALUE_OMITTED.removeprefix(PREFIX), "")
        return cls(
            place=place,
            at_ms=at_ms,
            key=key,
            value=value,
            headers=[(name, text) for name, text in headers if not name.startswith(PREFIX)],
            says=says,
            log_group=_log_group_of(value),
            size=int(omitted) if re.fullmatch("[0-9]{1,9}", omitted) else len(value or b""),
        )

    @property
    def failure(self) -> str:
        """The label of its failure class; empty where it is no letter of ours."""
        return self.says.get("class", "")

    @property
    def topic(self) -> str:
        """Where it goes back to; empty where it does not say."""
        return self.says.get("original-topic", "")

    @property
    def came_from(self) -> str | None:
        """The record, as topic/partition/offset, that it was, or that first asked for the command; None where that was none."""
        names = ("original-topic", "original-partition", "original-offset")
        if all(name in self.says for name in names):
            return "/".join(self.says[name] for name in names)
        return self.says.get("source")

    def is_about(self, account: str) -> bool:
        """Whether a command is for a log group of this account; whether anything else has its id in its bytes."""
        if self.log_group is not None:
            return self.log_group.account == account
        return account.encode() in (self.value or b"") or account.encode() in (self.key or b"")

    def why_not(self, topics: Collection[str]) -> str | None:
        """Why it cannot be written to its topic, which is to be one of these; None where it can."""
        if not self.failure:
            return "it is not of this service"
        if self.topic not in topics:
            return f"its topic {self.topic!r} is none that the service reads"
        if self.value is None:
            return f"its bytes are not there; they may still be at {self.came_from}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters are meant: those that fulfil every condition. An empty one is none; `since_ms` is in ms since 1970."""

    failures: Collection[str] = ()
    accounts: Collection[str] = ()
    places: Collection[str] = ()  # partition/offset on the dead-letter topic
    since_ms: int = 0

    def takes(self, letter: DeadLetter) -> bool:
        return (
            letter.at_ms >= self.since_ms
            and (not self.failures or letter.failure in self.failures)
            and (not self.places or f"{letter.place.partition}/{letter.place.offset}" in self.places)
            and (not self.accounts or any(map(letter.is_about, self.accounts)))
        )


def _log_group_of(value: bytes | None) -> LogGroup | None:
    try:
        return EnsureCommand.from_bytes(value).log_group
    except MalformedCommandError:
        return None
