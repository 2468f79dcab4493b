"""Sweeps lanes: walks all log groups of a lane by pages, and has those ensured that are not under their tenant's key.

A page is a command in its lane like any other, the least urgent, so it waits for the lane's tokens and its holds. What it finds wrong
is ensured by commands of the same lane, of which only a few dozen wait at once; the right ones, nearly all, cost a fiftieth of a
call each. A group that no key may be put on is not ensured, since no retry mends it: an outcome says whose fault that is. The record
that asked for the sweep stays open until all of them have ended. What is remembered here is in no topic: the next owner of the lane
begins again, and passes over what has been done.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from service.core.forwarding import Forwarding
from service.core.turn import Held, Turn
from service.domain.command import EnsureCommand, Trigger
from service.domain.key import UnusableKey
from service.domain.log_group import KeyArn, Lane, LogGroup, TenantId, key_arn_in
from service.domain.offsets import Delivery, untracked
from service.domain.outcome import CallFailedError, FailureClass, Outcome, Recourse, State
from service.domain.pacing import Quota
from service.domain.sweep import MAX_OLD_KEYS, Command, LaneReport, SweepCommand
from service.domain.tenancy import Decision, Excluded, Owned, Undecided
from service.ports import MAX_DESCRIBED, Clock, Keys, LogGroups, OutgoingRecord, Publisher, TenantDirectory

OTHER_TENANT: Final = "other-tenant"  # counted so, where one tenant is swept
_ATTEMPTS: Final = 6  # at a page, before a fault of the lane's holds the lane: a lost connection should delay nobody
_LONGEST_WAIT_S: Final = 60.0  # between two attempts
# Without a page the lane is given up: a Region that the account has not enabled never answers.
_GIVE_UP_S: Final = 3600.0
# AWS honours a page's token for a day; an hour of tries at the page has to fit as well. A lane that was paused for longer begins anew.
_TOKEN_S: Final = 22 * 3600.0
# A tenant's key is not the one that whoever asked has read: copies of a registry differ for a minute or two after a change.
_AGREE_S: Final = 300.0
_REPORT_INTERVAL_S: Final = 30.0


class Sweeper(Forwarding):
    """Does the sweeps of the lanes that this replica owns: one sweep of a lane at a time, the others after it.

    `submit` queues a command in its lane; `report` makes durable what became of one that needs no lane. At most `max_waiting` commands
    wait for their end, in all lanes; where there is no place for more, lanes take what becomes free in turn. Two pages' worth at most are
    one lane's.
    """

    def __init__(
        self,
        *,
        directory: TenantDirectory,
        log_groups: LogGroups,
        keys: Keys,
        publisher: Publisher,
        clock: Clock,
        submit: Callable[[Command, Delivery], None],
        report: Callable[[EnsureCommand, Outcome], Awaitable[None]],
        requests_topic: str,
        max_waiting: int,
    ) -> None:
        super().__init__()
        self._directory = directory
        self._log_groups = log_groups
        self._keys = keys
        self._publisher = publisher
        self._clock = clock
        self._submit = submit
        self._report_outcome = report
        self._requests_topic = requests_topic
        self._max_waiting = max_waiting
        self._places = asyncio.Semaphore(max_waiting)
        self._lanes: dict[Lane, _Sweeps] = {}

    def begin(self, command: SweepCommand, delivery: Delivery) -> None:
        """Sweep a lane; the delivery is finished when it is done and that is told. A repeat joins the first."""
        sweeps = self._lanes.get(command.lane)
        for walk in sweeps.walks if sweeps else ():
            if walk.command.sweep_id == command.sweep_id:
                walk.deliveries.append(delivery)
                return
        now = self._clock.now()
        walk = _Walk(command, [delivery], self._places, began_at=now, reported_at=now, token_at=now)
        if sweeps is None:
            task = self.start(self._sweep(command.lane), untracked())
            self._lanes[command.lane] = _Sweeps(deque([walk]), task)
        else:
            sweeps.walks.append(walk)

    def ended(self, outcome: Outcome) -> None:
        """Be told of an outcome, of any command: those that a sweep waits for are counted."""
        sweeps = self._lanes.get(outcome.log_group.lane)
        if sweeps is not None and outcome.log_group in (is_open := sweeps.walks[0].open):
            is_open[outcome.log_group] = _result(outcome, sweeps.walks[0].command.tenant)

    def forget(self) -> None:
        """The lanes may have another owner from here on, who begins again."""
        for sweeps in self._lanes.values():
            sweeps.task.cancel()
        self._lanes.clear()
        self._places = asyncio.Semaphore(self._max_waiting)  # commands that were dropped never give theirs back

    async def work(self, command: SweepCommand, turn: Turn) -> Held | None:
        """Look at the next page of a lane. Held where the lane cannot be called now. Raises GivenUpError."""
        sweeps = self._lanes.get(command.lane)
        if sweeps is None or (walk := sweeps.walks[0]).command.sweep_id != command.sweep_id:
            return None  # forgotten
        if self._clock.now() - walk.token_at >= _TOKEN_S:
            walk.begin_anew()
        try:
            page: _Page | None = await self._retrying(sweeps, turn)(self._look, walk, turn)
        except CallFailedError as e:
            if e.failure.recourse is Recourse.HOLD and not self._is_overdue(sweeps):
                return Held(e.failure, e.detail)
            walk.failure = e.failure.label, e.detail
            page = None
        else:
            sweeps.failing_since = None
        if walk.asked is not None and not walk.asked.done():  # done: it was forgotten meanwhile
            walk.asked.set_result(page)
        return None

    # -- the walk

    async def _sweep(self, lane: Lane) -> None:
        walks = self._lanes[lane].walks
        while walks:
            await self._walk(walks[0])
            self.start(self._tell_the_end(walks.popleft()), untracked())
        del self._lanes[lane]

    async def _walk(self, walk: "_Walk") -> None:
        """Page by page; the next one is asked for while what the last one found still waits, and takes its place behind that."""
        is_walked = False
        while not is_walked:
            await walk.until_open(MAX_DESCRIBED)
            walk.asked = asyncio.get_running_loop().create_future()
            self._submit(walk.command, walk.untracked)
            page = await walk.asked
            is_walked = page is None or page.next_token is None
            if page is not None:
                await self._take(walk, page)
        await walk.until_open(0)

    # -- a page

    async def _look(self, walk: "_Walk", turn: Turn) -> "_Page":
        lane = walk.command.lane
        # At each new try too: whoever asked for the sweep may know of a change that is not known here.
        if walk.token is None:
            await turn.prepare(self._directory.renew(lane.account))
        if not await turn.prepare(self._directory.lists(lane.account)):
            raise CallFailedError(FailureClass.ACCOUNT_NOT_LISTED, f"no rule lists account {lane.account}")
        await turn.session(self._log_groups.ready(lane))
        async with turn.call(Quota.DESCRIBE):
            page = await self._log_groups.page(lane, walk.token)
        turn.decided()  # before its keys are looked at, which may take minutes
        at_ms = self._clock.epoch_ms()
        findings = []
        for name, key in page.keys.items():
            group = LogGroup(lane.account, lane.region, name)
            depends_on_tags = await turn.prepare(self._directory.depends_on_tags(group))
            decision = None if depends_on_tags else await turn.prepare(self._directory.decide(group, None))
            if self._is_ahead(walk, decision):
                raise _OtherKeyError
            right_key = await turn.prepare(self._right_key(group, decision))
            findings.append(_Finding(group, key, decision, right_key))
        return _Page(findings, page.next_token, at_ms)

    async def _right_key(self, log_group: LogGroup, decision: Decision | None) -> KeyArn | None:
        """The key's own ARN, which AWS shows; None where there is none or an alias stands for none: that is told when it is used."""
        if not isinstance(decision, Owned):
            return None
        if (arn := key_arn_in(decision.key)) is not None:
            return arn
        finding = await self._keys.inspect(decision.key, log_group)
        return None if isinstance(finding, UnusableKey) else finding.key

    def _is_ahead(self, walk: "_Walk", decision: Decision | None) -> bool:
        """Whether whoever asked knows of another key of the tenant's than our registry does, which is given time to follow."""
        key, tenant = walk.command.key, walk.command.tenant
        is_theirs = isinstance(decision, Owned) and decision.tenant == tenant and decision.key != key
        return key is not None and is_theirs and self._clock.now() - walk.began_at < _AGREE_S

    def _retrying(self, sweeps: "_Sweeps", turn: Turn) -> AsyncRetrying:
        """Tries for as long as it takes, unless the fault is the lane's: then only as often as a command would. See `Ensure`."""

        def is_enough(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if not isinstance(error, CallFailedError):
                return False
            if sweeps.failing_since is None:
                sweeps.failing_since = self._clock.now()
            if error.failure is FailureClass.ACCOUNT_NOT_LISTED:
                return True
            if error.failure.recourse is Recourse.HOLD:
                is_vain = turn.is_probing or not error.failure.is_retried_in_place
                return is_vain or state.attempt_number >= _ATTEMPTS
            return self._is_overdue(sweeps)

        return AsyncRetrying(
            retry=retry_if_exception_type((CallFailedError, _OtherKeyError)),
            stop=is_enough,
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            sleep=turn.pause,
            reraise=True,
        )

    def _is_overdue(self, sweeps: "_Sweeps") -> bool:
        return sweeps.failing_since is not None and self._clock.now() - sweeps.failing_since >= _GIVE_UP_S

    # -- what comes of it

    async def _take(self, walk: "_Walk", page: "_Page") -> None:
        walk.token, walk.token_at = page.next_token, self._clock.now()
        await asyncio.gather(*(self._tell_why_not(walk, finding, page.at_ms) for finding in page.findings))
        for finding in page.findings:
            if self._is_to_be_ensured(walk, finding):
                await self._ensure(walk, finding, page.at_ms)
        if self._clock.now() - walk.reported_at >= _REPORT_INTERVAL_S:
            walk.reported_at = self._clock.now()
            await self._report(walk, is_done=False)

    def _is_to_be_ensured(self, walk: "_Walk", finding: "_Finding") -> bool:
        """Count a group, unless it is to be ensured. What only tags decide is, if it turns out to be the tenant's: AWS shows none here."""
        tenant = walk.command.tenant
        match finding.decision:
            case None:
                return True
            case Excluded():
                result: str = State.EXCLUDED
            case Undecided(failure, _, owner):
                result = failure.label if tenant in {None, owner} else OTHER_TENANT
            case Owned(owner) if tenant not in {None, owner}:
                result = OTHER_TENANT
            case Owned() if finding.key is not None and finding.key == finding.right_key:
                result = State.ALREADY_SEALED
            case Owned():
                if finding.key is not None:
                    walk.old_keys[finding.key] += 1
                return True
            case _:
                assert_never(finding.decision)
        walk.counts[result] += 1
        return False

    async def _tell_why_not(self, walk: "_Walk", finding: "_Finding", seen_at_ms: int) -> None:
        """Have an outcome name a group that no key may be put on, unless it is another tenant's than the one that is swept."""
        decision = finding.decision
        if isinstance(decision, Undecided) and walk.command.tenant in {None, decision.tenant}:
            outcome = Outcome(
                log_group=finding.log_group,
                state=State.FAILED,
                tenant=decision.tenant,
                old_key=finding.key,
                failure=decision.failure,
                detail=decision.detail,
            )
            await self._report_outcome(_command(walk, finding, seen_at_ms), outcome)

    async def _ensure(self, walk: "_Walk", finding: "_Finding", seen_at_ms: int) -> None:
        if finding.log_group in walk.open:
            return  # AWS showed it twice
        await walk.places.acquire()
        walk.open[finding.log_group] = State.FAILED
        command = _command(walk, finding, seen_at_ms)
        self._submit(command, _Awaited(walk.untracked.ledger, 0, walk=walk, log_group=finding.log_group))

    async def _tell_the_end(self, walk: "_Walk") -> None:
        await self._report(walk, is_done=True)
        for delivery in walk.deliveries:
            delivery.finish()

    async def _report(self, walk: "_Walk", *, is_done: bool) -> None:
        report = LaneReport(
            id=walk.command.sweep_id,
            lane=walk.command.lane,
            at_ms=self._clock.epoch_ms(),
            is_done=is_done,
            counts=dict(walk.counts),
            old_keys=dict(walk.old_keys.most_common(MAX_OLD_KEYS)),
            failure=walk.failure,
        )
        await self._publisher.publish(OutgoingRecord(self._requests_topic, report.id.encode(), report.to_bytes()))


def _command(walk: "_Walk", finding: "_Finding", seen_at_ms: int) -> EnsureCommand:
    return EnsureCommand(
        log_group=finding.log_group,
        trigger=Trigger.SWEEP,
        accepted_at_ms=seen_at_ms,
        shown_key=finding.key or "",
        only_tenant=walk.command.tenant,
    )


def _result(outcome: Outcome, tenant: TenantId | None) -> str:
    """What an outcome is counted as; only its tags may have told that a group is another tenant's."""
    if outcome.state is State.EXCLUDED and outcome.tenant is not None and tenant not in {None, outcome.tenant}:
        return OTHER_TENANT
    is_failed = outcome.state is State.FAILED and outcome.failure is not None
    return outcome.failure.label if is_failed and outcome.failure is not None else outcome.state


class _OtherKeyError(Exception):
    """The registry has another key of the tenant's than whoever asked for the sweep has read."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """A log group on a page, its key, whose it is (None where only its tags can tell), and the key that it should have."""

    log_group: LogGroup
    key: KeyArn | None
    decision: Decision | None
    right_key: KeyArn | None


@dataclass(frozen=True, slots=True)
class _Page:
    """What one call shows at `at_ms` (since 1970), decided; `next_token` is None on the last one."""

    findings: Sequence[_Finding]
    next_token: str | None
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Awaited(Delivery):
    """The end of a command that is in no record, but in a walk."""

    walk: "_Walk"
    log_group: LogGroup

    def finish(self) -> None:
        self.walk.ended(self.log_group)


@dataclass(slots=True, eq=False)
class _Sweeps:
    """The sweeps of one lane: the first is walked. `failing_since` (monotonic) is theirs in common, so that the others are not given
    an hour each of a lane that does not answer.
    """

    walks: "deque[_Walk]"
    task: asyncio.Task[None]
    failing_since: float | None = None


@dataclass(slots=True, eq=False)
class _Walk:
    """One sweep of one lane. `open` has the groups whose commands have not ended, and what is known of them. Times are monotonic."""

    command: SweepCommand
    deliveries: list[Delivery]
    places: asyncio.Semaphore  # one for each open command
    began_at: float
    reported_at: float
    token_at: float
    token: str | None = None
    asked: "asyncio.Future[_Page | None] | None" = None
    open: dict[LogGroup, str] = field(default_factory=dict)
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counter[str] = field(default_factory=Counter)
    old_keys: Counter[str] = field(default_factory=Counter)
    failure: tuple[str, str] | None = None

    @property
    def untracked(self) -> Delivery:
        """For what is done in its lane, and is in no record of its own."""
        return untracked(owned_since=self.deliveries[0].owned_since)

    def begin_anew(self) -> None:
        """Walk the lane from its start; groups that are being ensured are counted when they end."""
        self.token = None
        self.counts.clear()
        self.old_keys.clear()

    def ended(self, log_group: LogGroup) -> None:
        """Count a group whose command has ended."""
        self.counts[self.open.pop(log_group)] += 1
        self.places.release()
        self.has_ended.set()

    async def until_open(self, at_most: int) -> None:
        """Wait while more commands than that have not ended."""
        while len(self.open) > at_most:
            self.has_ended.clear()
            await self.has_ended.wait()
