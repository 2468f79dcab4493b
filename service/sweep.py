"""Sweeps lanes: walks all log groups of a lane by pages, and has those ensured that are not under their tenant's key.

A page is a command in its lane like any other, the least urgent, so it waits for the lane's tokens and its holds. What it finds wrong
is ensured by commands of the same lane, of which only a few hundred wait at once; the right ones, nearly all, cost a fiftieth of a
call each. The record that asked for the sweep stays open until all of them have ended. What is remembered here is in no topic: the
next owner of the lane begins again, and passes over what has been done.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, assert_never

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from service.dispatcher import Held, Turn
from service.domain.command import EnsureCommand, Trigger
from service.domain.key import UnusableKey
from service.domain.log_group import KeyArn, Lane, LogGroup, key_arn_in
from service.domain.offsets import Delivery, untracked
from service.domain.outcome import CallFailedError, FailureClass, Outcome, Recourse, State
from service.domain.pacing import Quota
from service.domain.sweep import MAX_OLD_KEYS, Command, LaneReport, SweepCommand
from service.domain.tenancy import Decision, Excluded, Owned, Undecided
from service.forwarding import Forwarding
from service.ports import Clock, Keys, LogGroups, OutgoingRecord, Publisher, TenantDirectory

OTHER_TENANT: Final = "other-tenant"  # counted so, where one tenant is swept
_PAGE_SIZE: Final = 50  # log groups, of one DescribeLogGroups call
_ATTEMPTS: Final = 6  # at a page, before a fault of the lane's holds the lane: a lost connection should delay nobody
_LONGEST_WAIT_S: Final = 60.0  # between two attempts
_GIVE_UP_S: Final = (
    3600.0  # without a page the lane is given up: a Region that the account has not enabled never answers
)
# AWS honours a page's token for a day; an hour of tries at the page has to fit as well. A lane that was paused for longer begins anew.
_TOKEN_S: Final = 22 * 3600.0
# A tenant's key is not the one that whoever asked has read: copies of a registry differ for a minute or two after a change.
_AGREE_S: Final = 300.0
_REPORT_INTERVAL_S: Final = 30.0


class Sweeper(Forwarding):
    """Does the sweeps of the lanes that this replica owns: one sweep of a lane at a time, the others after it.

    `submit` queues a command in its lane. At most `max_waiting` commands of one lane wait for their end, a page at least.
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
        self._requests_topic = requests_topic
        self._max_waiting = max(max_waiting, _PAGE_SIZE)
        self._walks: dict[Lane, deque[_Walk]] = {}

    def begin(self, command: SweepCommand, delivery: Delivery) -> None:
        """Sweep a lane; the delivery is finished when it is done and that is told. A repeat joins the first."""
        walks = self._walks.setdefault(command.lane, deque())
        for walk in walks:
            if walk.command.sweep_id == command.sweep_id:
                walk.deliveries.append(delivery)
                return
        now = self._clock.now()
        walks.append(_Walk(command, [delivery], began_at=now, reported_at=now, token_at=now))
        if len(walks) == 1:
            self._go_on(walks[0])

    def ended(self, outcome: Outcome) -> None:
        """Be told of an outcome, of any command: those that a sweep waits for are counted."""
        walk = self._current(outcome.log_group.lane)
        if walk is not None and outcome.log_group in walk.results:
            is_failed = outcome.state is State.FAILED and outcome.failure is not None
            walk.results[outcome.log_group] = outcome.failure.label if is_failed and outcome.failure else outcome.state

    def forget(self) -> None:
        """The lanes may have another owner from here on, who begins again."""
        self._walks.clear()

    async def work(self, command: SweepCommand, turn: Turn) -> Held | None:
        """Look at the next page of a lane. Held where the lane cannot be called now. Raises GivenUpError."""
        walk = self._current(command.lane)
        if walk is None or walk.command.sweep_id != command.sweep_id:
            return None  # forgotten
        if self._clock.now() - walk.token_at >= _TOKEN_S:
            walk.begin_anew()
        try:
            page: _Page = await self._retrying(walk, turn)(self._look, walk, turn)
        except CallFailedError as e:
            if e.failure.recourse is Recourse.HOLD and not self._is_overdue(walk):
                return Held(e.failure, e.detail)
            walk.failure = e.failure.label, e.detail
            walk.is_walked = True
        else:
            if self._current(command.lane) is walk:  # not forgotten meanwhile
                await self._take(walk, page)
        walk.is_asked = False
        self._go_on(walk)
        return None

    # -- a page

    async def _look(self, walk: "_Walk", turn: Turn) -> "_Page":
        lane = walk.command.lane
        if (
            walk.token is None
        ):  # also at each new try: whoever asked for the sweep may know of a change that is not known here
            await self._directory.renew(lane.account)
        if not await self._directory.lists(lane.account):
            raise CallFailedError(FailureClass.ACCOUNT_NOT_LISTED, f"no rule lists account {lane.account}")
        await self._log_groups.ready(lane.account)
        async with turn.call(Quota.DESCRIBE):
            page = await self._log_groups.page(lane, walk.token)
        findings = []
        for name, key in page.keys.items():
            group = LogGroup(lane.account, lane.region, name)
            depends_on_tags = await self._directory.depends_on_tags(group)
            decision = None if depends_on_tags else await self._directory.decide(group, None)
            if self._is_ahead(walk, decision):
                raise _OtherKeyError
            right_key = await self._right_key(group, decision)
            findings.append(_Finding(group, key, decision, right_key))
        return _Page(findings, page.next_token)

    async def _right_key(self, log_group: LogGroup, decision: Decision | None) -> KeyArn | None:
        """The key's own ARN, which is what AWS shows; None where there is none or an alias stands for none: that is told when it is used."""
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

    def _retrying(self, walk: "_Walk", turn: Turn) -> AsyncRetrying:
        """Tries for as long as it takes, unless the fault is the lane's: then only as often as a command would. See `Ensure`."""

        def is_enough(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if not isinstance(error, CallFailedError):
                return False
            if walk.failing_since is None:
                walk.failing_since = self._clock.now()
            if error.failure is FailureClass.ACCOUNT_NOT_LISTED:
                return True
            if error.failure.recourse is Recourse.HOLD:
                is_vain = turn.is_probing or not error.failure.is_retried_in_place
                return is_vain or state.attempt_number >= _ATTEMPTS
            return self._is_overdue(walk)

        return AsyncRetrying(
            retry=retry_if_exception_type((CallFailedError, _OtherKeyError)),
            stop=is_enough,
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            sleep=turn.pause,
            reraise=True,
        )

    def _is_overdue(self, walk: "_Walk") -> bool:
        return walk.failing_since is not None and self._clock.now() - walk.failing_since >= _GIVE_UP_S

    # -- what comes of it

    async def _take(self, walk: "_Walk", page: "_Page") -> None:
        walk.failing_since = None
        for finding in page.findings:
            self._act(walk, finding)
        walk.token, walk.is_walked = page.next_token, page.next_token is None
        walk.token_at = self._clock.now()
        if self._clock.now() - walk.reported_at >= _REPORT_INTERVAL_S:
            walk.reported_at = self._clock.now()
            await self._report(walk, is_done=False)

    def _act(self, walk: "_Walk", finding: "_Finding") -> None:
        """Count a group, or have it ensured. What only tags decide is ensured whosever it is: AWS shows none here."""
        tenant = walk.command.tenant
        match finding.decision:
            case None:
                self._ensure(walk, finding)
            case Excluded():
                walk.counts[State.EXCLUDED] += 1
            case Undecided(failure, _, owner):
                walk.counts[failure.label if tenant in {None, owner} else OTHER_TENANT] += 1
            case Owned(owner) if tenant not in {None, owner}:
                walk.counts[OTHER_TENANT] += 1
            case Owned() if finding.key is not None and finding.key == finding.right_key:
                walk.counts[State.ALREADY_SEALED] += 1
            case Owned():
                if finding.key is not None:
                    walk.old_keys[finding.key] += 1
                self._ensure(walk, finding)
            case _:
                assert_never(finding.decision)

    def _ensure(self, walk: "_Walk", finding: "_Finding") -> None:
        if finding.log_group in walk.results:
            return  # AWS showed it twice
        command = EnsureCommand(
            log_group=finding.log_group,
            trigger=Trigger.SWEEP,
            accepted_at_ms=self._clock.epoch_ms(),
            shown_key=finding.key or "",
        )
        walk.open += 1
        walk.results[finding.log_group] = State.FAILED
        self._submit(
            command, _Awaited(untracked().ledger, 0, on_finish=partial(self._finished, walk, finding.log_group))
        )

    def _finished(self, walk: "_Walk", log_group: LogGroup) -> None:
        walk.open -= 1
        walk.counts[walk.results.pop(log_group)] += 1
        self._go_on(walk)

    # -- the walk

    def _current(self, lane: Lane) -> "_Walk | None":
        walks = self._walks.get(lane)
        return walks[0] if walks else None

    def _go_on(self, walk: "_Walk") -> None:
        """Ask for the next page if there is room for what it may find; end the walk where there is none left, and nothing open."""
        if walk.is_asked or self._current(walk.command.lane) is not walk:
            return
        if walk.is_walked:
            if not walk.open:
                self._end(walk)
        elif walk.open + _PAGE_SIZE <= self._max_waiting:
            walk.is_asked = True
            self._submit(walk.command, untracked())

    def _end(self, walk: "_Walk") -> None:
        self.start(self._tell_the_end(walk), untracked())
        walks = self._walks[walk.command.lane]
        walks.popleft()
        if walks:
            self._go_on(walks[0])
        else:
            del self._walks[walk.command.lane]

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
    """What one call shows, decided; `next_token` is None on the last one."""

    findings: Sequence[_Finding]
    next_token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Awaited(Delivery):
    """The end of a command that is in no record."""

    on_finish: Callable[[], None]

    def finish(self) -> None:
        self.on_finish()


@dataclass(slots=True, eq=False)
class _Walk:
    """One sweep of one lane: `open` commands of it have not ended; `results` are what is known of their groups. Times are monotonic."""

    command: SweepCommand
    deliveries: list[Delivery]
    began_at: float
    reported_at: float
    token_at: float
    token: str | None = None
    is_walked: bool = False
    is_asked: bool = False  # its next page waits in the lane
    open: int = 0
    results: dict[LogGroup, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    old_keys: Counter[str] = field(default_factory=Counter)
    failing_since: float | None = None
    failure: tuple[str, str] | None = None

    def begin_anew(self) -> None:
        """Walk the lane from its start; groups that are being ensured are counted when they end."""
        self.token = None
        self.counts.clear()
        self.old_keys.clear()
