"""What becomes of a command: its log group is ensured, and what follows from that is written where it cannot be lost.

A command is done when its outcome is acknowledged by Kafka; until then its offset stays open.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from service.core.dead_letters import DeadLetters
from service.core.ensure import Ensure
from service.core.turn import Held, Turn
from service.domain.command import MAX_REQUEST_IDS, EnsureCommand
from service.domain.history import MAX_FLIPS
from service.domain.outcome import Defer, End, FailureClass, Outcome, Recourse, State, deferred, next_step
from service.domain.request import RequestOutcome
from service.ports import Clock, Observer, OutgoingRecord, Publisher

DUE_HEADER: Final = "logwarden-due-ms"  # when a record on a retry topic is to be worked again: ms since 1970, decimal
# What shows that tenant file, keys, rights and release are in order. A deferred one may yet need a dead letter.
_WORKED: Final = (State.SEALED, State.ALREADY_SEALED, State.WOULD_SEAL)
_LAST_WORD: Final = f"more than {MAX_REQUEST_IDS} requests wait for this group: ask again later what became of it"


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Where the worker writes; `retries` in the order of their delays."""

    outcomes: str
    requests: str
    retries: Sequence[str]


class Worker:
    """Works single commands for the dispatcher, any number concurrently."""

    def __init__(
        self,
        *,
        ensure: Ensure,
        publisher: Publisher,
        dead_letters: DeadLetters,
        clock: Clock,
        observer: Observer,
        topics: Topics,
        retry_delays_s: Sequence[float],
        on_outcome: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        """`retry_delays_s` are the delays of the retry topics, in seconds. `on_outcome` is told of each outcome once it is durable."""
        self._ensure = ensure
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._clock = clock
        self._observer = observer
        self._topics = topics
        self._retry_delays_s = retry_delays_s
        self._on_outcome = on_outcome

    async def work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        """Ensure one log group. Returns once the outcome is durable, or Held when the fault is not the command's own.

        Idempotent: a repeated or cancelled run may associate again, with the key that is the tenant's by then.
        """
        outcome = await self._ensure(command, turn)
        written = self._conclude(command, outcome)
        if isinstance(written, Held):
            return written
        await turn.record(written)
        return None

    def _conclude(self, command: EnsureCommand, outcome: Outcome) -> Held | Awaitable[None]:
        """What is to be written of an outcome; nothing while it is not the command's own fault."""
        failure, deferrals = outcome.failure, command.deferrals
        if failure is None:
            return self.report(command, outcome)
        if failure is FailureClass.CONTESTED:
            deferrals = outcome.flips - MAX_FLIPS  # longer each time
        match next_step(failure, deferrals=deferrals, strikes=command.strikes, delays_s=self._retry_delays_s):
            case End.HOLD:
                return Held(failure, outcome.detail)
            case End.EXCLUDE:
                return self.report(command, replace(outcome, state=State.EXCLUDED))
            case End.VANISHED:
                return self.report(command, replace(outcome, state=State.VANISHED))
            case End.DEAD_LETTER:
                return self._give_up(command, outcome, failure)
            case Defer() as later:
                return self._defer(command, outcome, later, is_strike=failure.recourse is Recourse.DEFER)

    async def postpone(self, command: EnsureCommand, held: Held) -> None:
        """Let a command wait on the retry topics instead of in its lane, however often: what holds the lane is not its own fault.

        Returns once that is durable. There must be a retry topic.
        """
        later = deferred(held.failure, trips=command.deferrals, delays_s=self._retry_delays_s)
        outcome = Outcome(log_group=command.log_group, state=State.DEFERRED, failure=held.failure, detail=held.detail)
        await self._defer(command, outcome, later, is_strike=False)

    async def _defer(self, command: EnsureCommand, outcome: Outcome, later: Defer, *, is_strike: bool) -> None:
        due_ms = self._clock.epoch_ms() + round(later.delay_s * 1000)
        headers = [(DUE_HEADER, str(due_ms).encode())]
        again = command.deferred(is_strike=is_strike)
        topic = self._topics.retries[later.step]
        await self._publisher.publish(OutgoingRecord(topic, command.partition_key, again.to_bytes(), headers))
        await self.report(command, replace(outcome, state=State.DEFERRED, retry_in_s=later.delay_s))

    async def _give_up(self, command: EnsureCommand, outcome: Outcome, failure: FailureClass) -> None:
        await self._dead_letters.send_command(command, failure, outcome.detail)
        await self.report(command, outcome)

    async def report(self, command: EnsureCommand, outcome: Outcome) -> None:
        """Write an outcome where everybody can read it, and where the manual requests that asked for it are answered.

        Returns once that is durable; a repeat writes it again.
        """
        at_ms = self._clock.epoch_ms()
        body = outcome.as_dict() | {
            "trigger": command.trigger.value,
            "accepted_at_ms": command.accepted_at_ms,
            "at_ms": at_ms,
            "deferrals": command.deferrals,
            "origin": str(command.origin) if command.origin else None,
            "requests": list(command.request_ids[:MAX_REQUEST_IDS]),
            "is_dry_run": self._ensure.is_dry_run,
        }
        value = _ENCODER.encode(body).encode()
        records = [OutgoingRecord(self._topics.outcomes, str(outcome.log_group).encode(), value)]
        for place, request_id in enumerate(command.request_ids):
            is_told_more = place < MAX_REQUEST_IDS or outcome.state is not State.DEFERRED
            told = outcome if is_told_more else replace(outcome, detail=f"{outcome.detail}; {_LAST_WORD}")
            answer = RequestOutcome(id=request_id, at_ms=at_ms, outcome=told.as_dict())
            records.append(OutgoingRecord(self._topics.requests, request_id.encode(), answer.to_bytes()))
        if len(records) == 1:
            await self._publisher.publish(records[0])
        else:
            await asyncio.gather(*map(self._publisher.publish, records))
        if outcome.state in _WORKED:
            self._dead_letters.not_needed()
        self._on_outcome(outcome)
        self._observer.command_done(command, outcome, seconds=max(0, at_ms - command.accepted_at_ms) / 1000)
