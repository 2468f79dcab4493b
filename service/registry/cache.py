"""The cache in front of a registry that is asked account by account: quick, current within a limit, and quiet about short outages.

An answer is used for `ttl_s`, and renewed in the background in the last quarter of it, so that a busy account never waits. Past
that a look-up waits for the source. While the source fails, the last answer stays in force until it is `max_stale_s` old; after
that, or where there never was one, the look-up fails with REGISTRY_UNAVAILABLE and its lane waits. That a tenant may be unknown is
believed for `negative_ttl_s` only, and never on old evidence: commands for such an account go on towards the dead-letter topic.

Ages count from when the question was sent. A push (`invalidate`) makes an answer old at once, also the one that is on its way.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import structlog

from service.domain.log_group import AccountId, KeyRef, Lane, LogGroup, Region, TenantId
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.tenancy import Decision, TenantRules
from service.ports import Clock
from service.registry.listing import TenantList
from service.registry.source import (
    AccountSource,
    AccountTenants,
    RegistryObserver,
    SourceDataError,
    SourceError,
    SourceUnavailableError,
)

_RENEWED_FROM: Final = 0.75  # of `ttl_s`: at the default of a minute, 15 s are left for a slow answer and a second try
_FAILURE_TTL_S: Final = 3.0  # under the shortest hold of a lane (5 s), so that a hold always ends in a fresh answer
_MAX_UNLISTED: Final = 1000  # accounts that nobody lists: kept apart, so that a flood of invented ids displaces nothing
_MAX_FETCHES: Final = 16  # questions under way: after a change of everything a whole fleet asks at once
_WARNING_INTERVAL_S: Final = 60.0  # an outage is one line a minute, however many accounts ask
_MAX_LOGGED_LINES: Final = 20

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """How long answers are used and waited for (seconds), and for how many listed accounts they are kept, the last used ones."""

    ttl_s: float = 60.0
    negative_ttl_s: float = 10.0
    max_stale_s: float = 3600.0
    timeout_s: float = 3.0
    max_accounts: int = 10_000


@dataclass(slots=True, eq=False)
class _Held:
    """What is known of one account. `epoch` counts what the push said; an answer or a failure is of the epoch it was asked in."""

    account: AccountId
    epoch: int = 0
    answer: AccountTenants | None = None
    asked_at_s: float = 0.0
    answer_epoch: int = -1
    failure: SourceError | None = None
    failed_at_s: float = 0.0
    failed_epoch: int = -1
    fetch: asyncio.Task[None] | None = field(default=None, repr=False)
    fetch_epoch: int = -1


class CachedDirectory:
    """The port TenantDirectory over an `AccountSource`. Use it as a context manager: leaving it ends the fetches under way.

    `version` is the source's; `loaded_at_ms` is when a change was last heard of or found; `last_error` is the newest failure that
    no later answer has put right.
    """

    def __init__(
        self, source: AccountSource, *, clock: Clock, observer: RegistryObserver, limits: CacheLimits | None = None
    ) -> None:
        self._source = source
        self._clock = clock
        self._observer = observer
        self._limits = limits or CacheLimits()
        self._list = TenantList(source, clock=clock, timeout_s=self._limits.timeout_s)
        self._listed: OrderedDict[AccountId, _Held] = OrderedDict()
        self._unlisted: OrderedDict[AccountId, _Held] = OrderedDict()
        self._failing: dict[AccountId, _Held] = {}  # in the order of their failures
        self._warned_at_s: float | None = None
        self._slots = asyncio.Semaphore(_MAX_FETCHES)
        self._fetches: set[asyncio.Task[None]] = set()
        self.loaded_at_ms = clock.epoch_ms()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for fetch in self._fetches:
            fetch.cancel()
        if self._fetches:
            await asyncio.wait(self._fetches)

    @property
    def version(self) -> str:
        """The version that the source gives itself, `unversioned` where it gives none."""
        return self._source.version or "unversioned"

    @property
    def last_error(self) -> Exception | None:
        """The newest failure that still stands, with its account."""
        held = next(reversed(self._failing.values()), None)
        return None if held is None else _told(held)

    @property
    def is_refused(self) -> bool:
        """Whether the source's data on some account were refused; until it is asked about that account again."""
        return any(_is_wrong(held) for held in self._failing.values())

    @property
    def stale_s(self) -> float:
        """The age (seconds) of the oldest answer that the source fails to renew; 0 where there is none."""
        ages = [self._age_s(held) for held in self._failing.values() if held.answer and held.answer.is_listed]
        return max(ages, default=0.0)

    @property
    def accounts(self) -> int:
        """Listed accounts in memory."""
        return len(self._listed)

    async def watch(self) -> None:
        """Keep up with what the source pushes, until cancelled. Never returns."""
        await self._source.watch(self.invalidate)
        await asyncio.Event().wait()  # a source without a push: answers grow old by themselves

    async def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        """Decide by the account's rules. Raises CallFailedError(REGISTRY_UNAVAILABLE). May be cancelled; others still get theirs."""
        return (await self.rules_on(log_group.account)).decide(log_group, tags)

    async def depends_on_tags(self, log_group: LogGroup) -> bool:
        """Whether the group's tags may change the decision. Raises as `decide` does."""
        return (await self.rules_on(log_group.account)).depends_on_tags(log_group)

    async def lists_ignored(self, account: AccountId) -> bool:
        """Whether the tag `logwarden:ignore` counts where nothing shows a group's tags. Raises as `decide` does."""
        return (await self.rules_on(account)).lists_ignored

    async def lists(self, account: AccountId) -> bool:
        """Whether some rule lists the account. Raises as `decide` does."""
        return (await self.rules_on(account)).lists(account)

    async def lanes(self) -> Collection[Lane] | None:
        """Where log groups may be anybody's, by the source's list of tenants. Raises as `decide` does."""
        return await self._list.lanes()

    async def lanes_of(self, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]] | None:
        """Where they may be these tenants', with their keys. Raises as `decide` does."""
        return await self._list.lanes_of(tenants)

    async def keys(self) -> Mapping[TenantId, Mapping[Region, KeyRef]] | None:
        """Every tenant's keys. Raises as `decide` does."""
        return await self._list.keys()

    async def renew(self, account: AccountId) -> None:
        """Ask the source again before the next decision in the account."""
        if (held := self._found(account)) is not None:
            held.epoch += 1

    async def rules_on(self, account: AccountId) -> TenantRules:
        """The rules that decide in an account. Raises CallFailedError(REGISTRY_UNAVAILABLE), with what the source said."""
        if (rules := self.at_hand(account)) is not None:
            return rules
        held = self._held(account)
        if (fetch := self._fetch_unless_failing(held)) is not None:
            await asyncio.wait([fetch])
            fetch.result()
        if held.answer is not None and held.failure is None:
            self._observer.registry_asked("miss")
            return held.answer.rules
        if held.answer is not None and self._is_usable(held):
            self._observer.registry_asked("stale")
            return held.answer.rules
        self._observer.registry_asked("refused")
        raise CallFailedError(FailureClass.REGISTRY_UNAVAILABLE, f"{self._source.name}: {_told(held)}")

    def at_hand(self, account: AccountId) -> TenantRules | None:
        """The rules that `rules_on` gives without waiting; None where it waits, or raises."""
        held = self._held(account)
        if held.answer is not None and self._is_fresh(held):
            if held.answer.is_listed and self._age_s(held) >= self._limits.ttl_s * _RENEWED_FROM:
                self._fetch_unless_failing(held)
            self._observer.registry_asked("hit")
            return held.answer.rules
        if held.answer is None or not self._is_failing_over(held):
            return None
        fetch = self._fetch_unless_failing(held)
        if fetch is not None and fetch.done():
            return None  # it ended in a bug, which whoever waits for it is to hear of
        self._observer.registry_asked("stale")
        return held.answer.rules

    def invalidate(self, accounts: Collection[AccountId] | None) -> None:
        """Ask the source again before the next decision in these accounts, in all of them for None."""
        self.loaded_at_ms = self._clock.epoch_ms()
        self._list.changed()
        for held in self._all() if accounts is None else filter(None, map(self._found, accounts)):
            held.epoch += 1
        for held in [each for each in self._failing.values() if _is_wrong(each)]:
            self._fetch_unless_failing(
                held
            )  # or a refusal would outlive its mending where nobody asks about the account

    # -- how old is it

    def _age_s(self, held: _Held) -> float:
        return self._clock.now() - held.asked_at_s

    def _is_fresh(self, held: _Held) -> bool:
        if held.answer is None or held.answer_epoch != held.epoch:
            return False
        return self._age_s(held) < (self._limits.ttl_s if held.answer.is_listed else self._limits.negative_ttl_s)

    def _is_usable(self, held: _Held) -> bool:
        """Whether the answer may stand in while the source fails."""
        return held.answer is not None and held.answer.is_listed and self._age_s(held) < self._limits.max_stale_s

    def _is_failing_over(self, held: _Held) -> bool:
        """Whether it is known already that the source fails, and there is an answer to use meanwhile."""
        return held.failure is not None and held.failed_epoch == held.epoch and self._is_usable(held)

    # -- asking

    def _fetch_unless_failing(self, held: _Held) -> asyncio.Task[None] | None:
        """The fetch under way, a new one where there is none; None within a moment of a failure."""
        if held.fetch is not None and held.fetch_epoch == held.epoch:
            return held.fetch
        is_recent = self._clock.now() - held.failed_at_s < _FAILURE_TTL_S
        if held.failure is not None and held.failed_epoch == held.epoch and is_recent:
            return None
        # A task of its own: whoever waits for it may be cancelled, and the others still get the answer.
        held.fetch = fetch = asyncio.create_task(self._fetch(held, held.epoch))
        held.fetch_epoch = held.epoch
        self._fetches.add(fetch)
        fetch.add_done_callback(self._fetches.discard)
        return fetch

    async def _fetch(self, held: _Held, epoch: int) -> None:
        async with self._slots:
            asked_at_s = self._clock.now()
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    answer = await self._source.on_account(held.account, held.answer)
            except TimeoutError:
                self._failed(
                    held, epoch, asked_at_s, SourceUnavailableError(f"no answer in {self._limits.timeout_s:g} s")
                )
            except SourceError as e:
                self._failed(held, epoch, asked_at_s, e)
            else:
                self._answered(held, epoch, asked_at_s, answer)
        # Not after anything else that was raised: that is a bug, and the next who asks is to hear of it.
        if held.fetch is asyncio.current_task():
            held.fetch = None

    def _answered(self, held: _Held, epoch: int, asked_at_s: float, answer: AccountTenants) -> None:
        self._observer.registry_fetched("ok", seconds=self._clock.now() - asked_at_s)
        if epoch < held.answer_epoch:
            return  # a later question was answered sooner
        if held.answer is None or answer.digest != held.answer.digest:
            self.loaded_at_ms = self._clock.epoch_ms()
        held.answer, held.asked_at_s, held.answer_epoch = answer, asked_at_s, epoch
        if epoch >= held.failed_epoch:
            held.failure = None
            self._failing.pop(held.account, None)
        self._keep(held)
        self._recovered(asked_at_s)

    def _failed(self, held: _Held, epoch: int, asked_at_s: float, failure: SourceError) -> None:
        is_wrong = isinstance(failure, SourceDataError)
        self._observer.registry_fetched("wrong" if is_wrong else "unavailable", seconds=self._clock.now() - asked_at_s)
        if epoch < held.failed_epoch:
            return
        is_news = str(failure) != str(held.failure)
        held.failure, held.failed_at_s, held.failed_epoch = failure, self._clock.now(), epoch
        self._failing.pop(held.account, None)
        if self._found(held.account) is held:
            self._failing[held.account] = held
        if is_wrong and is_news:
            _log.error(
                "registry_data_refused",
                source=self._source.name,
                account=held.account,
                problems=str(failure).splitlines()[:_MAX_LOGGED_LINES],
                answer_in_force_s=round(self._age_s(held), 1) if self._is_usable(held) else None,
            )
        elif not is_wrong:
            self._warn(failure)

    def _warn(self, failure: SourceError) -> None:
        now = self._clock.now()
        if self._warned_at_s is None or now - self._warned_at_s >= _WARNING_INTERVAL_S:
            self._warned_at_s = now
            _log.warning(
                "registry_unavailable",
                source=self._source.name,
                reason=str(failure),
                accounts=len(self._failing),
                oldest_answer_s=round(self.stale_s, 1),
            )

    def _recovered(self, asked_at_s: float) -> None:
        """Forget outages that are older than an answer: accounts that nobody asks about any more would show them for ever."""
        outdated = [
            account for account, held in self._failing.items() if not _is_wrong(held) and held.failed_at_s <= asked_at_s
        ]
        for account in outdated:
            del self._failing[account]
        if self._warned_at_s is not None and not self._failing:
            self._warned_at_s = None
            _log.info("registry_answers_again", source=self._source.name)

    # -- what is kept

    def _all(self) -> Iterator[_Held]:
        yield from self._listed.values()
        yield from self._unlisted.values()

    def _found(self, account: AccountId) -> _Held | None:
        return self._listed.get(account) or self._unlisted.get(account)

    def _held(self, account: AccountId) -> _Held:
        if account in self._listed:
            self._listed.move_to_end(account)
            return self._listed[account]
        held = self._unlisted.setdefault(account, _Held(account))
        self._unlisted.move_to_end(account)
        self._trim(self._unlisted, _MAX_UNLISTED)
        return held

    def _keep(self, held: _Held) -> None:
        """File an account by its new answer, unless it has been dropped and asked for again meanwhile."""
        if self._found(held.account) not in {held, None}:
            return
        is_listed = held.answer is not None and held.answer.is_listed
        (self._unlisted if is_listed else self._listed).pop(held.account, None)
        (self._listed if is_listed else self._unlisted)[held.account] = held
        self._trim(self._listed, self._limits.max_accounts)
        self._trim(self._unlisted, _MAX_UNLISTED)

    def _trim(self, kept: OrderedDict[AccountId, _Held], limit: int) -> None:
        while len(kept) > limit:
            account, _ = kept.popitem(last=False)
            self._failing.pop(account, None)


def _is_wrong(held: _Held) -> bool:
    return isinstance(held.failure, SourceDataError)


def _told(held: _Held) -> SourceError:
    """A failure with its account, which the source's own text may lack."""
    return SourceError(f"account {held.account}: {held.failure}")
