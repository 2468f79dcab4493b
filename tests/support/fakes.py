"""What stands at the core's ports in its own tests, and short ways to write commands and deliveries."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from service.domain import lane as lanes
from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.dead_letter import DeadLetterLimit
from service.domain.log_group import AccountId, KeyArn, KeyRef, Lane, LogGroup, Region, TenantId
from service.domain.offsets import Delivery, OffsetLedger
from service.domain.outcome import CallFailedError, FailureClass, Outcome
from service.domain.pacing import Quota
from service.domain.tenancy import Decision, Excluded, Owned
from service.ports import LogGroupPage
from tests.support.virtual_time import START_S

LANE = Lane(AccountId("111122223333"), Region("eu-west-1"))
OTHER_LANE = Lane(AccountId("444455556666"), Region("us-east-1"))
TENANT = TenantId("tenant-a")


def lane_number(number: int) -> Lane:
    """Any of a trillion lanes."""
    return Lane(AccountId(f"{number:012}"), LANE.region)


def group(name: str = "g", lane: Lane = LANE) -> LogGroup:
    return LogGroup(lane.account, lane.region, name)


def key_of(lane: Lane = LANE) -> KeyArn:
    return KeyArn(f"arn:aws:kms:{lane.region}:{lane.account}:key/0d9ac4b8")


def new_lane(
    lane: Lane = LANE, owned_since: float = START_S, *, rate_per_s: float = 5.0, max_under_way: int = 16
) -> lanes.Lane:
    """A lane of the domain, with AWS's quotas unless another rate of AssociateKmsKey is given."""
    rates_per_s = {Quota.ASSOCIATE: rate_per_s, Quota.TAGS: 5.0, Quota.DESCRIBE: 10.0}
    return lanes.Lane(
        lane,
        rates_per_s=rates_per_s,
        max_under_way=max_under_way,
        owned_since=owned_since,
        crowd=lanes.Crowd(1000),
    )


def ensure(
    name: str = "g",
    trigger: Trigger = Trigger.CREATED,
    *,
    lane: Lane = LANE,
    at_ms: int = 0,
    shown_key: str | None = None,
    tags: Mapping[str, str] | None = None,
    requests: tuple[str, ...] = (),
    deferrals: int = 0,
    strikes: int = 0,
    caller: str | None = None,
) -> EnsureCommand:
    return EnsureCommand(
        log_group=group(name, lane),
        trigger=trigger,
        accepted_at_ms=at_ms,
        tags=tags,
        shown_key=shown_key,
        request_ids=requests,
        deferrals=deferrals,
        strikes=strikes,
        caller=caller,
    )


class Deliveries:
    """Deliveries of one ledger, numbered from 0, that remembers how often each was finished. Its partition is ours since `owned_since`."""

    def __init__(self, *, owned_since: float = START_S) -> None:
        self.finished: Counter[int] = Counter()
        self._ledger = _CountingLedger(self.finished, owned_since)
        self._next = 0

    def next(self) -> Delivery:
        self._next += 1
        return self._ledger.see(self._next - 1)

    @property
    def open(self) -> set[int]:
        return set(range(self._next)) - self.finished.keys()

    @property
    def finished_twice(self) -> set[int]:
        return {offset for offset, times in self.finished.items() if times > 1}


class _CountingLedger(OffsetLedger):
    def __init__(self, finished: Counter[int], owned_since: float) -> None:
        super().__init__(owned_since=owned_since)
        self._counts = finished

    def finish(self, offset: int) -> None:
        self._counts[offset] += 1
        super().finish(offset)


@dataclass(slots=True)
class FakeDirectory:
    """Every group is TENANT's, under the key of its lane, unless `decisions` says otherwise; `failure` is raised while it is set.

    Once `is_outdated`, nothing is at hand until somebody has waited for a decision.
    """

    decisions: dict[LogGroup, Decision] = field(default_factory=dict)
    failure: FailureClass | None = None
    latency_s: float = 0.0
    asked: list[tuple[LogGroup, Mapping[str, str] | None]] = field(default_factory=list)
    by_tags: bool = False
    unlisted: set[AccountId] = field(default_factory=set)
    ignored_are_listed: bool = False
    renewed: list[AccountId] = field(default_factory=list)
    is_outdated: bool = False

    async def depends_on_tags(self, log_group: LogGroup) -> bool:
        return self.by_tags

    async def lists_ignored(self, account: AccountId) -> bool:
        return self.ignored_are_listed

    async def lists(self, account: AccountId) -> bool:
        if self.failure is not None:
            raise CallFailedError(self.failure, "the registry is away")
        return account not in self.unlisted

    async def renew(self, account: AccountId) -> None:
        self.renewed.append(account)

    async def lanes(self) -> Collection[Lane]:
        return {LANE, OTHER_LANE}

    async def lanes_of(self, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]]:
        return {tenant: {lane: key_of(lane) for lane in (LANE, OTHER_LANE)} for tenant in tenants}

    async def keys(self) -> Mapping[TenantId, Mapping[Region, KeyRef]]:
        return {TENANT: {lane.region: key_of(lane) for lane in (LANE, OTHER_LANE)}}

    async def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        self.asked.append((log_group, tags))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if self.failure is not None:
            raise CallFailedError(self.failure, "the registry is away")
        self.is_outdated = False
        return self._decision(log_group, tags)

    def at_hand(self, account: AccountId) -> "_RulesAtHand | None":
        return None if self.is_outdated or self.failure is not None else _RulesAtHand(self)

    def _decision(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        if self.ignored_are_listed and (tags or {}).get("logwarden:ignore", "false") != "false":
            return Excluded("it has the tag logwarden:ignore")
        return self.decisions.get(log_group) or Owned(TENANT, key_of(log_group.lane), "everything is tenant-a's")


@dataclass(frozen=True, slots=True)
class _RulesAtHand:
    directory: FakeDirectory

    def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        self.directory.asked.append((log_group, tags))
        return self.directory._decision(log_group, tags)

    def depends_on_tags(self, log_group: LogGroup) -> bool:
        return self.directory.by_tags


@dataclass(frozen=True, slots=True)
class Call:
    """One AssociateKmsKey call as it was made, failed ones too; times are the event loop's."""

    log_group: LogGroup
    key: KeyArn
    started: float


class TimedLogGroups:
    """The port LogGroups as a stopwatch: when each call was made, and which ran while another for its group did.

    `failures` are raised call by call for one group, a None lets a call pass; `failure` is raised by every other call while it is
    set. `latency_s` is how long each answer takes. Tags are looked up in `tags`; `tag_failures` are raised first, one a look-up. What is
    described are `keys`, without those in `absent`; `describe_failures` are raised first, one a call. Pages show `keys`, and
    `page_failures` are raised first. A session takes `session_s` to get, shared by all who ask meanwhile, and is kept for an hour;
    `session_failure` is raised instead.
    """

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.failure: FailureClass | None = None
        self.failures: defaultdict[LogGroup, deque[FailureClass | None]] = defaultdict(deque)
        self.calls: list[Call] = []
        self.overlaps: list[LogGroup] = []
        self.tags: dict[LogGroup, Mapping[str, str]] = {}
        self.tag_failures: deque[FailureClass] = deque()
        self.lookups: list[LogGroup] = []
        self.keys: dict[LogGroup, KeyArn | None] = {}  # what AWS shows; groups that are not in it have no key
        self.absent: set[LogGroup] = set()
        self.describe_failures: deque[FailureClass] = deque()
        self.descriptions: list[tuple[Lane, frozenset[str]]] = []
        self.pages: list[tuple[Lane, str | None]] = []
        self.page_failures: deque[FailureClass] = deque()
        self.listings: list[tuple[Lane, str | None]] = []
        self.list_failures: deque[FailureClass] = deque()
        self.session_s = 0.0
        self.session_failure: FailureClass | None = None
        self._session_until: float | None = None
        self._session_wanted = asyncio.Lock()
        self._running: Counter[LogGroup] = Counter()

    @property
    def running(self) -> int:
        return self._running.total()

    def started(self, lane: Lane) -> list[float]:
        """When the calls of a lane were made."""
        return [call.started for call in self.calls if call.log_group.lane == lane]

    async def ready(self, lane: Lane) -> None:
        async with self._session_wanted:
            now = asyncio.get_running_loop().time()
            if self._session_until is None or now >= self._session_until:
                await asyncio.sleep(self.session_s)
                if self.session_failure is not None:
                    raise CallFailedError(self.session_failure, "as told")
                self._session_until = now + 3600

    async def associate(self, log_group: LogGroup, key: KeyArn) -> None:
        await self.ready(log_group.lane)
        self.calls.append(Call(log_group, key, asyncio.get_running_loop().time()))
        if self._running[log_group]:
            self.overlaps.append(log_group)
        script = self.failures.get(log_group)
        failure = script.popleft() if script else self.failure
        self._running[log_group] += 1
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self._running[log_group] -= 1
        if failure is not None:
            raise CallFailedError(failure, "as told")

    async def describe(self, lane: Lane, names: Collection[str]) -> Mapping[str, KeyArn | None]:
        await self.ready(lane)
        self.descriptions.append((lane, frozenset(names)))
        await asyncio.sleep(self.latency_s)
        if self.describe_failures:
            raise CallFailedError(self.describe_failures.popleft(), "as told")
        groups = [group(name, lane) for name in names]
        return {each.name: self.keys.get(each) for each in groups if each not in self.absent}

    async def page(self, lane: Lane, token: str | None) -> LogGroupPage:
        self.pages.append((lane, token))
        await asyncio.sleep(self.latency_s)
        if self.page_failures:
            raise CallFailedError(self.page_failures.popleft(), "as told")
        names = sorted(each.name for each in self.keys if each.lane == lane and each.name > (token or ""))
        keys = {name: self.keys[group(name, lane)] for name in names[:50]}
        return LogGroupPage(keys, names[49] if len(names) > 50 else None)

    async def with_tag(self, lane: Lane, tag: str, token: str | None) -> tuple[Collection[str], str | None]:
        """By twos, so that lists have pages."""
        self.listings.append((lane, token))
        await asyncio.sleep(self.latency_s)
        if self.list_failures:
            raise CallFailedError(self.list_failures.popleft(), "as told")
        names = sorted(each.name for each in self.tags if each.lane == lane and tag in self.tags[each])
        left = [name for name in names if name > (token or "")]
        return left[:2], left[1] if len(left) > 2 else None

    async def tags_of(self, log_group: LogGroup) -> Mapping[str, str]:
        await self.ready(log_group.lane)
        self.lookups.append(log_group)
        await asyncio.sleep(self.latency_s)
        if self.tag_failures:
            raise CallFailedError(self.tag_failures.popleft(), "as told")
        return self.tags.get(log_group, {})


@dataclass(slots=True)
class RecordingObserver:
    """Remembers what it was told, one list for each method."""

    events: list[tuple[int, str | None]] = field(default_factory=list)
    outcomes: list[tuple[EnsureCommand, Outcome, float]] = field(default_factory=list)
    dead_letters: list[tuple[FailureClass, str]] = field(default_factory=list)
    holds: list[tuple[Lane, FailureClass, str]] = field(default_factory=list)
    retries: list[tuple[Lane, FailureClass, str]] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    verifications: list[tuple[int, int, int]] = field(default_factory=list)
    too_new: list[str] = field(default_factory=list)
    misplaced: list[tuple[str, int]] = field(default_factory=list)

    def event_read(self, *, commands: int, problem: str | None) -> None:
        self.events.append((commands, problem))

    def events_irrelevant(self, count: int) -> None:
        self.events += [(0, None)] * count

    def command_done(self, command: EnsureCommand, outcome: Outcome, *, seconds: float) -> None:
        self.outcomes.append((command, outcome, seconds))

    def verified(self, *, right: int, wrong: int, unseen: int) -> None:
        self.verifications.append((right, wrong, unseen))

    def dead_lettered(self, failure: FailureClass, *, topic: str, origin: Origin | None, reason: str) -> None:
        self.dead_letters.append((failure, topic))

    def dead_letters_stopped(self, reason: str) -> None:
        self.stops.append(reason)

    def command_too_new(self, record: str, reason: str) -> None:
        self.too_new.append(record)

    def command_misplaced(self, record: Origin, *, home: int) -> None:
        self.misplaced.append((str(record), home))

    def lane_held(self, lane: Lane, failure: FailureClass, detail: str) -> None:
        self.holds.append((lane, failure, detail))

    def lane_retries(self, lane: Lane, failure: FailureClass, detail: str) -> None:
        self.retries.append((lane, failure, detail))


def unlimited() -> DeadLetterLimit:
    """A dead-letter limit that no test reaches unawares."""
    return DeadLetterLimit(max_consecutive=10_000, max_share=1, window=10_000)


def busiest_second(times: list[float]) -> int:
    """The most calls that any second holds, its first instant included and its last not."""
    most, first = 0, 0
    times = sorted(times)
    for last, at in enumerate(times):
        while at - times[first] >= 1.0 - 1e-9:
            first += 1
        most = max(most, last - first + 1)
    return most
