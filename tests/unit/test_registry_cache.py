"""The cache in front of a registry: what it answers when, in virtual time, over a source in the test's hands."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from service.domain.conditions import Conditions
from service.domain.log_group import AccountId, KeyArn, LogGroup, Region, TenantId
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.tenancy import Owned, Tenant, TenantRules, Undecided
from service.registry.cache import CachedDirectory, CacheLimits
from service.registry.source import (
    AccountSource,
    AccountTenants,
    CannotListError,
    Invalidate,
    SourceDataError,
    SourceError,
    SourceUnavailableError,
    TenantPage,
)
from tests.support.registries import Counts
from tests.support.virtual_time import VirtualClock, virtual_time

ACCOUNT = AccountId("111122223333")
LIMITS = CacheLimits(ttl_s=60, negative_ttl_s=10, max_stale_s=600, timeout_s=3, max_accounts=3)


def account(number: int) -> AccountId:
    return AccountId(f"{number:012}")


def key(number: int) -> KeyArn:
    return KeyArn(f"arn:aws:kms:eu-west-1:111122223333:key/{number}")


@dataclass
class FakeSource:
    """Every account is listed, under key number `key`, after `latency_s`; or `failure` is raised."""

    key: int = 1
    latency_s: float = 0.1
    failure: SourceError | Exception | None = None
    is_listed: bool = True
    name: str = "fake"
    version: str | None = None
    questions: Counter[AccountId] = field(default_factory=Counter)
    asking: int = 0
    most_asking: int = 0
    knowns: list[AccountTenants | None] = field(default_factory=list)

    async def on_account(self, account: AccountId, known: AccountTenants | None) -> AccountTenants:
        self.questions[account] += 1
        self.knowns.append(known)
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        number, failure = self.key, self.failure
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.asking -= 1
        if failure is not None:
            raise failure
        rule = Conditions(accounts=frozenset({account}))
        keys = {Region("eu-west-1"): key(number)}
        tenants = [Tenant(id=TenantId("acme"), keys=keys, rules=[rule])] if self.is_listed else []
        return AccountTenants(rules=TenantRules(tenants=tenants), is_listed=self.is_listed, digest=str(number))

    async def tenants(self) -> AsyncGenerator[TenantPage, None]:
        if self.failure is None:
            raise CannotListError("there is no list")
        raise self.failure
        yield  # type: ignore[unreachable]  # a generator, as the port's

    async def watch(self, invalidate: Invalidate) -> None:
        return


class Cache:
    def __init__(self, source: AccountSource, limits: CacheLimits) -> None:
        self.counts = Counts()
        self.directory = CachedDirectory(source, clock=VirtualClock(), observer=self.counts, limits=limits)

    async def key(self, of: AccountId = ACCOUNT) -> int:
        decision = await self.directory.decide(LogGroup.of(of, "eu-west-1", "/x"), None)
        assert isinstance(decision, Owned), decision
        return int(decision.key.rpartition("/")[2])

    async def refused(self, of: AccountId = ACCOUNT) -> str:
        with pytest.raises(CallFailedError) as refused:
            await self.key(of)
        assert refused.value.failure is FailureClass.REGISTRY_UNAVAILABLE
        return refused.value.detail


@asynccontextmanager
async def cached(source: FakeSource, limits: CacheLimits = LIMITS) -> AsyncIterator[Cache]:
    cache = Cache(source, limits)
    async with cache.directory:
        yield cache


# -- fresh answers


@virtual_time
async def test_an_answer_is_used_from_memory_and_renewed_before_it_is_old():
    source = FakeSource()
    async with cached(source) as cache:
        assert await cache.key() == 1
        for _ in range(100):
            await asyncio.sleep(10)
            started = asyncio.get_running_loop().time()
            assert await cache.key() == 1
            assert asyncio.get_running_loop().time() == started, "a busy account never waits"
        assert 15 <= source.questions[ACCOUNT] <= 22, "about one in 45 s"
        assert cache.counts.asked == {"miss": 1, "hit": 100}
        assert [known and known.digest for known in source.knowns[:2]] == [None, "1"]


@virtual_time
async def test_what_is_at_hand_is_what_needs_no_waiting():
    source = FakeSource()
    async with cached(source) as cache:
        at_hand = cache.directory.at_hand
        assert at_hand(ACCOUNT) is None, "never asked"
        await cache.key()
        assert at_hand(ACCOUNT) is await cache.directory.rules_on(ACCOUNT)
        cache.directory.invalidate([ACCOUNT])
        assert at_hand(ACCOUNT) is None, "changed"
        await cache.key()
        await asyncio.sleep(LIMITS.ttl_s + 1)
        assert at_hand(ACCOUNT) is None, "too old"
        source.failure = SourceUnavailableError("away")
        await cache.key()
        assert at_hand(ACCOUNT) is not None, "the last answer stands in while the source fails"


@virtual_time
async def test_a_change_is_seen_within_the_ttl_however_the_account_is_used():
    for pause_s in (0.5, 7.0, 44.0, 59.0, 61.0, 500.0):
        source = FakeSource()
        async with cached(source) as cache:
            await cache.key()
            await asyncio.sleep(30)
            source.key = 2
            changed = asyncio.get_running_loop().time()
            while await cache.key() != 2:
                assert asyncio.get_running_loop().time() - changed < 60
                await asyncio.sleep(pause_s)


@virtual_time
async def test_many_waiters_share_one_question_and_cancelling_some_leaves_it_to_the_others():
    source = FakeSource(latency_s=2)
    async with cached(source) as cache:
        waiting = [asyncio.create_task(cache.key()) for _ in range(50)]
        await asyncio.sleep(1)
        for task in waiting[:49]:
            task.cancel()
        assert await waiting[49] == 1
        assert source.questions == {ACCOUNT: 1}


@virtual_time
async def test_an_answer_is_remembered_even_if_everybody_who_waited_has_been_cancelled():
    source = FakeSource(latency_s=2)
    async with cached(source) as cache:
        waiting = asyncio.create_task(cache.key())
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.sleep(5)
        assert await cache.key() == 1
        assert source.questions == {ACCOUNT: 1}


@virtual_time
async def test_accounts_are_asked_about_at_once_but_not_all_of_them():
    source = FakeSource(latency_s=1)
    async with cached(source) as cache:
        await asyncio.gather(*(cache.key(account(n)) for n in range(100)))
        assert source.most_asking == 16


@virtual_time
async def test_leaving_ends_what_is_under_way():
    source = FakeSource(latency_s=2)
    async with cached(source) as cache:
        waiting = asyncio.create_task(cache.key())
        await asyncio.sleep(1)
    assert source.asking == 0
    with pytest.raises(asyncio.CancelledError):
        await waiting


# -- pushes


@virtual_time
async def test_a_push_makes_an_answer_old_at_once_in_its_accounts_only():
    source = FakeSource()
    async with cached(source) as cache:
        await cache.key(account(1)), await cache.key(account(2))
        source.key = 2
        cache.directory.invalidate({account(1)})
        assert (await cache.key(account(1)), await cache.key(account(2))) == (2, 1)
        cache.directory.invalidate(None)
        assert await cache.key(account(2)) == 2


@virtual_time
async def test_an_answer_that_was_on_its_way_when_the_push_came_is_not_believed():
    source = FakeSource(latency_s=2)
    async with cached(source) as cache:
        early = asyncio.create_task(cache.key())
        await asyncio.sleep(1)
        source.key = 2
        cache.directory.invalidate({ACCOUNT})
        late = asyncio.create_task(cache.key())
        assert (await early, await late) == (1, 2), "the early one had asked before the change"
        assert await cache.key() == 2
        assert source.questions == {ACCOUNT: 2}


@virtual_time
async def test_an_older_answer_that_arrives_later_does_not_replace_a_newer_one():
    source = FakeSource(latency_s=2.9)
    async with cached(source) as cache:
        early = asyncio.create_task(cache.key())
        await asyncio.sleep(1)
        source.key, source.latency_s = 2, 0.1
        cache.directory.invalidate({ACCOUNT})
        assert await cache.key() == 2
        await early
        assert await cache.key() == 2


@virtual_time
async def test_the_time_of_the_last_change_is_that_of_a_push_or_of_a_different_answer():
    source = FakeSource()
    async with cached(source) as cache:
        await cache.key()
        first = cache.directory.loaded_at_ms
        await asyncio.sleep(61)
        await cache.key()
        assert cache.directory.loaded_at_ms == first
        await asyncio.sleep(61)
        source.key = 2
        await cache.key()
        assert cache.directory.loaded_at_ms >= first + 122_000


# -- failures


@virtual_time
async def test_while_the_source_fails_answers_are_used_up_to_the_limit_and_nobody_waits_for_it_twice():
    source = FakeSource()
    async with cached(source) as cache:
        await cache.key()
        asked = asyncio.get_running_loop().time() - source.latency_s
        source.failure, source.latency_s = SourceUnavailableError("away"), 2.5
        waits: list[float] = []
        while (started := asyncio.get_running_loop().time()) - asked < 596:
            assert await cache.key() == 1
            waits.append(asyncio.get_running_loop().time() - started)
            await asyncio.sleep(1)
        assert sum(wait > 0 for wait in waits) <= 1, "once it is known to fail, the source is asked in the background"
        await asyncio.sleep(5)
        assert "fake: account 111122223333: away" in await cache.refused()


@virtual_time
async def test_a_failing_source_is_asked_every_few_seconds_and_not_by_every_caller():
    source = FakeSource(failure=SourceUnavailableError("away"))
    async with cached(source) as cache:
        for _ in range(100):
            await cache.refused()
            await asyncio.sleep(0.3)
        assert 9 <= source.questions[ACCOUNT] <= 11


@virtual_time
async def test_a_source_that_does_not_answer_is_given_up_after_the_time_limit():
    source = FakeSource(latency_s=100)
    async with cached(source) as cache:
        started = asyncio.get_running_loop().time()
        assert "no answer in 3 s" in await cache.refused()
        assert asyncio.get_running_loop().time() - started == pytest.approx(3)


@virtual_time
async def test_recovery_is_noticed_by_itself():
    source = FakeSource(failure=SourceUnavailableError("away"))
    async with cached(source) as cache:
        await cache.refused()
        assert cache.directory.last_error is not None
        source.failure = None
        await asyncio.sleep(3)
        assert await cache.key() == 1
        assert cache.directory.last_error is None


@virtual_time
async def test_a_push_ends_the_wait_after_a_failure():
    source = FakeSource(failure=SourceDataError("wrong"))
    async with cached(source) as cache:
        await cache.refused()
        source.failure = None
        cache.directory.invalidate({ACCOUNT})
        assert await cache.key() == 1


@virtual_time
async def test_an_outage_is_a_line_a_minute_however_many_accounts_and_its_end_is_one_too():
    source = FakeSource()
    async with cached(source, CacheLimits(ttl_s=10, max_stale_s=6000)) as cache:
        accounts = [account(n) for n in range(50)]
        for each in accounts:
            await cache.key(each)
        source.failure = SourceUnavailableError("away")
        with capture_logs() as logs:
            for _ in range(119):
                await asyncio.sleep(1)
                for each in accounts:
                    await cache.key(each)
            assert cache.directory.stale_s == pytest.approx(119, abs=12)
            source.failure = None
            await asyncio.sleep(15)
            await cache.key(accounts[0])
        assert [log["event"] for log in logs] == ["registry_unavailable"] * 2 + ["registry_answers_again"]
        assert cache.directory.last_error is None, "outages of accounts that nobody asks about any more are over too"
        assert cache.directory.stale_s == 0


@virtual_time
async def test_wrong_data_are_told_again_only_when_the_problem_is_another_one():
    source = FakeSource()
    async with cached(source) as cache:
        await cache.key()
        with capture_logs() as logs:
            for problem in ("a: wrong", "a: wrong", "b: wrong"):
                source.failure = SourceDataError(problem)
                await asyncio.sleep(61)
                assert await cache.key() == 1
                await asyncio.sleep(1)
        assert [log["problems"] for log in logs] == [["a: wrong"], ["b: wrong"]]
        assert "b: wrong" in str(cache.directory.last_error)


@virtual_time
async def test_an_outage_is_no_refusal_and_a_refusal_ends_with_a_change_though_nobody_asks_about_the_account():
    source = FakeSource(failure=SourceUnavailableError("away"))
    async with cached(source) as cache:
        await cache.refused()
        refused = [cache.directory.is_refused]
        source.failure = SourceDataError("wrong")
        await asyncio.sleep(5)
        await cache.refused()
        refused.append(cache.directory.is_refused)
        source.failure = None
        cache.directory.invalidate(None)
        await asyncio.sleep(1)
        assert [*refused, cache.directory.is_refused] == [False, True, False]


@virtual_time
async def test_what_is_neither_an_answer_nor_a_failure_is_a_bug_and_not_hidden():
    source = FakeSource(failure=ZeroDivisionError())
    async with cached(source) as cache:
        with pytest.raises(ZeroDivisionError):
            await cache.key()


@virtual_time
async def test_a_bug_in_the_background_is_not_hidden_either():
    source = FakeSource()
    async with cached(source) as cache:
        await cache.key()
        source.failure = ZeroDivisionError()
        await asyncio.sleep(50)
        assert await cache.key() == 1
        await asyncio.sleep(50)
        with pytest.raises(ZeroDivisionError):
            await cache.key()


# -- accounts that nobody lists


@virtual_time
async def test_that_nobody_lists_an_account_is_believed_for_a_moment_and_never_on_old_evidence():
    source = FakeSource(is_listed=False)
    async with cached(source) as cache:
        group = LogGroup.of(ACCOUNT, "eu-west-1", "/x")
        for _ in range(9):
            assert isinstance(await cache.directory.decide(group, None), Undecided)
            await asyncio.sleep(1)
        assert source.questions == {ACCOUNT: 1}
        source.failure = SourceUnavailableError("away")
        await asyncio.sleep(1)
        assert "away" in await cache.refused(), "commands would go on towards the dead-letter topic"


@virtual_time
async def test_a_flood_of_unknown_accounts_displaces_no_known_one():
    source = FakeSource(latency_s=0)
    async with cached(source) as cache:
        await cache.key()
        source.is_listed = False
        for n in range(1, 1200):
            await cache.directory.rules_on(account(n))
        source.failure = SourceUnavailableError("away")
        assert await cache.key() == 1
        assert source.questions[ACCOUNT] == 1
        source.failure = None
        asked = source.questions.total()
        await cache.directory.rules_on(account(1199)), await cache.directory.rules_on(account(1))
        assert source.questions.total() == asked + 1, "of the unknown the last thousand are remembered"


@virtual_time
async def test_of_the_listed_accounts_those_used_last_are_kept():
    source = FakeSource()
    async with cached(source) as cache:
        for n in (1, 2, 3, 1, 4):
            await cache.key(account(n))
        assert cache.directory.accounts == 3
        source.questions.clear()
        for n in (1, 3, 4, 2):
            await cache.key(account(n))
        assert source.questions == {account(2): 1}


# -- what there is


@virtual_time
async def test_a_source_without_a_list_has_no_known_lanes_and_keys():
    async with cached(FakeSource()) as cache:
        assert await cache.directory.lanes() is None
        assert await cache.directory.lanes_of([TenantId("acme")]) is None
        assert await cache.directory.keys() is None


@virtual_time
async def test_a_renewed_account_is_asked_about_before_its_next_decision_and_others_are_not():
    source = FakeSource()
    async with cached(source) as cache:
        await cache.key()
        await cache.key(account(2))
        source.key = 2
        await cache.directory.renew(ACCOUNT)
        assert await cache.key() == 2
        assert await cache.key(account(2)) == 1


@virtual_time
async def test_a_renewed_account_goes_by_its_last_answer_while_the_source_fails():
    source = FakeSource()
    async with cached(source) as cache:
        await cache.key()
        source.failure = SourceUnavailableError("away")
        await cache.directory.renew(ACCOUNT)
        assert await cache.key() == 1
