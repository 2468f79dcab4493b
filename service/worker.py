"""One ensure: resolve the tenant and the key, associate with retries, and say durably what became of it.

Everything here is over the ports. A command is done when its outcome is acknowledged by Kafka; until then its offset stays open.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from service.dead_letters import DeadLetters
from service.dispatcher import Held, Turn
from service.domain.command import EnsureCommand
from service.domain.log_group import KeyArn, LogGroup
from service.domain.outcome import CallFailedError, Defer, End, FailureClass, Outcome, State, next_step
from service.domain.request import RequestOutcome
from service.domain.tenancy import Decision, Excluded, Owned, Undecided
from service.ports import Clock, LogGroups, Observer, OutgoingRecord, Publisher, TenantDirectory

DUE_HEADER: Final = "logwarden-due-ms"  # when a record on a retry topic is to be worked again: ms since 1970, decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Where the worker writes; `retries` in the order of their delays."""

    outcomes: str
    requests: str
    retries: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a command is tried in place (calls, longest wait in seconds), and the delays of the retry topics (seconds)."""

    attempts: int
    max_wait_s: float
    delays_s: Sequence[float]


class Worker:
    """Works single commands for the dispatcher, any number concurrently."""

    def __init__(
        self,
        *,
        directory: TenantDirectory,
        log_groups: LogGroups,
        publisher: Publisher,
        dead_letters: DeadLetters,
        clock: Clock,
        observer: Observer,
        topics: Topics,
        retry: RetryPolicy,
        is_dry_run: bool,
    ) -> None:
        self._directory = directory
        self._log_groups = log_groups
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._clock = clock
        self._observer = observer
        self._topics = topics
        self._retry = retry
        self._is_dry_run = is_dry_run

    async def work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        """Ensure one log group. Returns once the outcome is durable, or Held when the fault is not the command's own.

        Idempotent: a repeated or cancelled run may associate again, with the key that is the tenant's by then.
        """
        outcome = await self._ensure(command, turn)
        turn.give_back()  # if it made no call
        if outcome.failure is None:
            await self._report(command, outcome)
            return None
        match next_step(outcome.failure, deferrals=command.deferrals, delays_s=self._retry.delays_s):
            case End.HOLD:
                return Held(outcome.failure, outcome.detail)
            case End.EXCLUDE:
                await self._report(command, replace(outcome, state=State.EXCLUDED))
            case End.VANISHED:
                await self._report(command, replace(outcome, state=State.VANISHED))
            case Defer(step, delay_s):
                await self._defer(command, step, delay_s)
                await self._report(command, replace(outcome, state=State.DEFERRED, retry_in_s=delay_s))
            case End.DEAD_LETTER:
                await self._dead_letters.send_command(command, outcome.failure, outcome.detail)
                await self._report(command, outcome)
        return None

    async def _ensure(self, command: EnsureCommand, turn: Turn) -> Outcome:
        """What can be said before deciding what a failure leads to: state FAILED stands for any failure here."""
        outcome = Outcome(log_group=command.log_group, state=State.FAILED)
        try:
            decision = await self._decide(command, turn)
        except CallFailedError as e:
            return replace(outcome, failure=e.failure, detail=e.detail)
        match decision:
            case Excluded(reason):
                return replace(outcome, state=State.EXCLUDED, detail=reason)
            case Undecided(failure, detail, tenant):
                return replace(outcome, tenant=tenant, failure=failure, detail=detail)
            case Owned(tenant, key, rule):
                owned = replace(outcome, tenant=tenant, key=key)
                if command.shown_key == key:
                    return replace(owned, state=State.ALREADY_SEALED, detail="the event shows the right key")
                if self._is_dry_run:
                    return replace(owned, state=State.WOULD_SEAL, detail=rule)
                return await self._associate(owned, key, turn)
            case _:
                assert_never(decision)

    async def _decide(self, command: EnsureCommand, turn: Turn) -> Decision:
        """Whose group is it? Where its tags matter they are looked up: those that a trigger shows are its sender's word, and old."""
        tags = command.tags
        if await self._directory.depends_on_tags(command.log_group):
            tags = await self._retrying(turn)(self._tags_of, command.log_group, turn)
        return await self._directory.decide(command.log_group, tags)

    async def _tags_of(self, log_group: LogGroup, turn: Turn) -> Mapping[str, str]:
        """One look-up, which takes a token as a call does: its quota is 5 a second too."""
        await turn.ready()
        turn.spend()
        try:
            return await self._log_groups.tags_of(log_group)
        except CallFailedError as e:
            if e.failure is FailureClass.THROTTLED:
                turn.throttled()
            raise

    async def _associate(self, owned: Outcome, key: KeyArn, turn: Turn) -> Outcome:
        attempts = 0

        async def call() -> None:
            nonlocal attempts
            attempts += 1
            await turn.ready()
            turn.spend()
            started = self._clock.now()
            lane = owned.log_group.lane
            try:
                await self._log_groups.associate(owned.log_group, key)
            except CallFailedError as e:
                self._observer.call_made(lane, failure=e.failure, seconds=self._clock.now() - started)
                if e.failure is FailureClass.THROTTLED:
                    turn.throttled()
                raise
            self._observer.call_made(lane, failure=None, seconds=self._clock.now() - started)

        try:
            await self._retrying(turn)(call)
        except CallFailedError as e:
            return replace(owned, attempts=attempts, failure=e.failure, detail=e.detail)
        return replace(owned, state=State.SEALED, attempts=attempts)

    def _retrying(self, turn: Turn) -> AsyncRetrying:
        """Tries in place, with full jitter, each time with a token of the lane's: also a look-up, which has a quota like it.

        One instance a use: a shared one keeps its attempts between tasks.
        """
        return AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, CallFailedError) and e.failure.is_retried_in_place),
            stop=stop_after_attempt(self._retry.attempts),
            wait=wait_random_exponential(multiplier=0.5, max=self._retry.max_wait_s),
            sleep=turn.again,
            reraise=True,
        )

    async def _defer(self, command: EnsureCommand, step: int, delay_s: float) -> None:
        due_ms = self._clock.epoch_ms() + round(delay_s * 1000)
        headers = [(DUE_HEADER, str(due_ms).encode())]
        record = OutgoingRecord(
            self._topics.retries[step], command.partition_key, command.deferred().to_bytes(), headers
        )
        await self._publisher.publish(record)

    async def _report(self, command: EnsureCommand, outcome: Outcome) -> None:
        """Write the outcome where everybody can read it, and where the manual requests that asked for it are answered."""
        at_ms = self._clock.epoch_ms()
        body = outcome.as_dict() | {
            "trigger": command.trigger.value,
            "accepted_at_ms": command.accepted_at_ms,
            "at_ms": at_ms,
            "deferrals": command.deferrals,
            "origin": str(command.origin) if command.origin else None,
            "requests": list(command.request_ids),
            "is_dry_run": self._is_dry_run,
        }
        value = json.dumps(body, separators=(",", ":")).encode()
        records = [OutgoingRecord(self._topics.outcomes, str(outcome.log_group).encode(), value)]
        for request_id in command.request_ids:
            answer = RequestOutcome(id=request_id, at_ms=at_ms, outcome=outcome.as_dict())
            records.append(OutgoingRecord(self._topics.requests, request_id.encode(), answer.to_bytes()))
        await asyncio.gather(*map(self._publisher.publish, records))
        if outcome.state is not State.FAILED:
            self._dead_letters.not_needed()
        self._observer.command_done(command, outcome, seconds=max(0, at_ms - command.accepted_at_ms) / 1000)
