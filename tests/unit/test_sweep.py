"""The sweep of a lane, with the real dispatcher, worker and ensure, in virtual time."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from service.core.dead_letters import DeadLetters
from service.core.dispatcher import Dispatcher
from service.core.ensure import Ensure, Policy
from service.core.intake import Intake
from service.core.sweep import Sweeper
from service.core.verification import Verification
from service.core.worker import Topics, Worker
from service.domain.command import EnsureCommand, Priority, Trigger
from service.domain.key import KeyFinding
from service.domain.log_group import AccountId, KeyAlias, KeyArn, KeyRef, Lane, LogGroup, TenantId
from service.domain.outcome import FailureClass, State
from service.domain.schedule import Schedule
from service.domain.sweep import LaneReport, SweepCommand, new_sweep_id, sweep_record_from_bytes
from service.domain.tenancy import Decision, Excluded, Overwrite, Owned, Undecided
from service.ports import IncomingRecord, LogGroupPage
from service.remote.sweep import is_right
from tests.support.fakes import (
    LANE,
    TENANT,
    Deliveries,
    FakeDirectory,
    RecordingObserver,
    TimedLogGroups,
    ensure,
    group,
    key_of,
    new_lane,
    unlimited,
)
from tests.support.keys import FakeKeys
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import VirtualClock, virtual_time

REQUESTS = "requests"
OTHER_KEY = KeyArn(f"{key_of()}-before")
OTHER_TENANT = TenantId("tenant-b")


def now() -> float:
    return asyncio.get_running_loop().time()


def sweep(
    number: int = 0, *, tenant: TenantId | None = None, key: str | None = None, lane: Lane = LANE
) -> SweepCommand:
    return SweepCommand(lane=lane, sweep_id=new_sweep_id(number, bytes(10)), asked_at_ms=number, tenant=tenant, key=key)


def name(number: int) -> str:
    return f"/app/{number:05d}"


class LogGroups(TimedLogGroups):
    """Log groups whose keys change when they are associated; before each page, `before_page` may set the scene anew."""

    def __init__(self) -> None:
        super().__init__()
        self.before_page: Callable[[int], None] = lambda _: None

    async def associate(self, log_group: LogGroup, key: KeyArn) -> None:
        await super().associate(log_group, key)
        self.keys[log_group] = key

    async def page(self, lane: Lane, token: str | None) -> LogGroupPage:
        self.before_page(len(self.pages))
        return await super().page(lane, token)


class LateKeys(FakeKeys):
    async def inspect(self, key: KeyRef, log_group: LogGroup) -> KeyFinding:
        await asyncio.sleep(5)
        return await super().inspect(key, log_group)


class Bench:
    """One replica's worker; what `log_groups` holds of LANE is swept. `most_waiting` is looked at ten times a second."""

    def __init__(self, *, groups: int = 0, wrong: int = 0, max_waiting: int = 300) -> None:
        self.clock = VirtualClock()
        self.directory = FakeDirectory()
        self.log_groups = LogGroups()
        self.keys = FakeKeys(takes_any=True)
        self.publisher = FakePublisher()
        self.observer = RecordingObserver()
        self.deliveries = Deliveries()
        self.most_waiting = 0
        every = groups // wrong if wrong else groups + 1
        for number in range(groups):
            is_wrong = number % every == 0 if wrong else False
            self.log_groups.keys[group(name(number))] = OTHER_KEY if is_wrong else key_of()
        dead_letters = DeadLetters(
            publisher=self.publisher,
            observer=self.observer,
            limit=unlimited(),
            topic="dead-letters",
            work_topic="work",
        )
        policy = Policy(attempts=3, max_wait_s=5.0, observe_after_s=60.0)
        worker = Worker(
            ensure=Ensure(
                directory=self.directory,
                log_groups=self.log_groups,
                keys=self.keys,
                clock=self.clock,
                policy=policy,
            ),
            publisher=self.publisher,
            dead_letters=dead_letters,
            clock=self.clock,
            observer=self.observer,
            topics=Topics(outcomes="outcomes", requests=REQUESTS, retries=("retry.1",)),
            retry_delays_s=(30.0,),
            on_outcome=lambda outcome: self.sweeper.ended(outcome),  # noqa: PLW0108  made below
        )
        self.dispatcher = Dispatcher(
            schedule=Schedule(new_lane=new_lane, max_under_way=256),
            work=worker.work,
            sweep=lambda command, turn: self.sweeper.work(command, turn),  # noqa: PLW0108  made below
            clock=self.clock,
            hold_s=5.0,
            max_hold_s=60.0,
        )
        self.sweeper = Sweeper(
            directory=self.directory,
            log_groups=self.log_groups,
            keys=self.keys,
            publisher=self.publisher,
            clock=self.clock,
            submit=self.dispatcher.submit,
            report=worker.report,
            requests_topic=REQUESTS,
            max_waiting=max_waiting,
        )
        verification = Verification(
            submit=lambda _: None, log_groups=self.log_groups, clock=self.clock, observer=self.observer, after_s=0
        )
        self.intake = Intake(
            dispatcher=self.dispatcher,
            verification=verification,
            sweeper=self.sweeper,
            dead_letters=dead_letters,
            publisher=self.publisher,
            home_of=lambda key: 0,
            observer=RecordingObserver(),
        )

    def handle(self, command: EnsureCommand | SweepCommand) -> int:
        delivery = self.deliveries.next()
        record = IncomingRecord("work", 0, delivery.offset, 0, command.partition_key, command.to_bytes())
        self.intake.handle(record, delivery)
        return delivery.offset

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        loops: list[Awaitable[None]] = [self.dispatcher.run(), self.intake.run(), self.sweeper.run(), self._watch()]
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def until_finished(self, timeout_s: float = 36_000) -> None:
        async with asyncio.timeout(timeout_s):
            while self.deliveries.open:
                await asyncio.sleep(0.01)

    async def _watch(self) -> None:
        while True:
            waiting = sum(lane.waiting()[Priority.SWEEP] + lane.running for lane in self.dispatcher.schedule)
            self.most_waiting = max(self.most_waiting, waiting)
            await asyncio.sleep(0.1)

    @property
    def reports(self) -> list[LaneReport]:
        records = [sweep_record_from_bytes(value) for value in self.publisher.values(REQUESTS)]
        return [record for record in records if isinstance(record, LaneReport)]

    @property
    def report(self) -> LaneReport:
        """The one that says that the lane is done."""
        (report,) = [report for report in self.reports if report.is_done]
        return report

    @property
    def sealed(self) -> Counter[str]:
        return Counter(call.log_group.name for call in self.log_groups.calls)


@virtual_time
async def test_ten_thousand_groups_that_are_right_cost_two_hundred_looks_and_twenty_seconds():
    async with Bench(groups=10_000).running() as bench:
        began = now()
        bench.handle(sweep())
        await bench.until_finished()
        assert now() - began == pytest.approx(20, abs=0.5)
        assert len(bench.log_groups.pages) == 200
        assert not bench.log_groups.calls
        assert not bench.log_groups.descriptions
        assert bench.publisher.values("outcomes") == []
        assert bench.report.counts == {"already-sealed": 10_000}
        assert bench.report.failure is None


@virtual_time
async def test_a_thousand_wrong_groups_among_ten_thousand_are_sealed_once_each():
    async with Bench(groups=10_000, wrong=1000).running() as bench:
        began = now()
        offset = bench.handle(sweep())
        await bench.until_finished()
        assert now() - began == pytest.approx(200, rel=0.03), "AWS's quota is used while there is work"
        assert set(bench.sealed.values()) == {1}
        assert len(bench.sealed) == 1000
        assert bench.report.counts == {"already-sealed": 9000, "sealed": 1000}
        assert bench.report.old_keys == {OTHER_KEY: 1000}
        assert bench.deliveries.finished == {offset: 1}
        outcomes = [outcome for _, outcome, _ in bench.observer.outcomes]
        assert {(outcome.old_key, outcome.key) for outcome in outcomes} == {(OTHER_KEY, key_of())}
        assert all("keep it enabled" in outcome.detail for outcome in outcomes)


@virtual_time
async def test_never_more_than_two_pages_of_a_lane_wait():
    async with Bench(groups=1000, wrong=1000).running() as bench:
        began = now()
        bench.handle(sweep())
        await bench.until_finished()
        assert now() - began == pytest.approx(200, rel=0.03)
        assert 50 < bench.most_waiting <= 100


@virtual_time
async def test_never_more_than_the_limit_wait_and_lanes_have_its_places_in_turn():
    bench = Bench(max_waiting=60)
    lanes = [Lane(AccountId(f"{number:012d}"), LANE.region) for number in range(1, 9)]
    for lane in lanes:
        bench.log_groups.keys |= {group(name(number), lane): None for number in range(200)}
    async with bench.running():
        for lane in lanes:
            bench.handle(sweep(lane=lane))
        await asyncio.sleep(20)
        sealed = [len(bench.log_groups.started(lane)) for lane in lanes]
        assert sum(sealed) == pytest.approx(8 * 5 * 20, rel=0.1), "a few places a lane are enough for its quota"
        assert max(sealed) - min(sealed) <= 10
        await bench.until_finished()
        assert 50 <= bench.most_waiting <= 60 + len(lanes), "the commands, and a page a lane"
        assert [report.counts for report in bench.reports if report.is_done] == [{"sealed": 200}] * 8


@virtual_time
async def test_what_was_dropped_takes_no_places_from_the_next_owner():
    async with Bench(groups=100, wrong=100, max_waiting=50).running() as bench:
        for _ in range(3):
            bench.handle(sweep())
            await asyncio.sleep(2)
            await bench.intake.drain(20)
            bench.intake.restart()
        bench.handle(sweep())
        await asyncio.sleep(60)
        assert len(bench.sealed) == 100
        assert sum(bench.report.counts.values()) == 100


@virtual_time
async def test_how_far_it_is_is_told_meanwhile():
    async with Bench(groups=1000, wrong=1000).running() as bench:
        bench.handle(sweep())
        await bench.until_finished()
        counts = [report.counts.get("sealed", 0) for report in bench.reports]
        assert counts == sorted(counts)
        assert len(counts) >= 3
        assert [report.is_done for report in bench.reports] == [False] * (len(counts) - 1) + [True]


@virtual_time
async def test_urgent_commands_are_not_delayed_by_it():
    async def longest_wait(*, is_swept: bool) -> float:
        async with Bench(groups=5000, wrong=5000).running() as bench:
            if is_swept:
                bench.handle(sweep())
            await asyncio.sleep(60)
            for number in range(100):
                bench.handle(ensure(f"new-{number}", at_ms=bench.clock.epoch_ms()))
                await asyncio.sleep(0.5)
            await asyncio.sleep(5)
            urgent = [seconds for command, _, seconds in bench.observer.outcomes if command.trigger is Trigger.CREATED]
            assert len(urgent) == 100
            await bench.intake.drain(10)
            return max(urgent)

    alone, beside = await longest_wait(is_swept=False), await longest_wait(is_swept=True)
    assert beside <= alone + 0.5, "a token of each quota may just have been spent"


@virtual_time
async def test_the_next_owner_begins_again_and_nothing_is_lost():
    bench = Bench(groups=1000, wrong=200)
    async with bench.running():
        bench.handle(sweep())
        await asyncio.sleep(10)
        await bench.intake.drain(20)
        assert bench.deliveries.open == {0}
        done = len(bench.log_groups.calls)
        assert 0 < done < 200
        await asyncio.sleep(60)
        assert len(bench.log_groups.calls) == done, "it stands still without an owner"
        bench.intake.restart()
        bench.handle(sweep())  # read again
        while len(bench.deliveries.open) > 1:
            await asyncio.sleep(0.1)
        assert len(bench.sealed) == 200
        assert set(bench.sealed.values()) == {1}
        assert bench.report.counts == {"already-sealed": 800 + done, "sealed": 200 - done}


@virtual_time
async def test_a_sweep_that_is_read_twice_is_done_once_and_both_records_are_finished():
    async with Bench(groups=500, wrong=10).running() as bench:
        bench.handle(sweep())
        bench.handle(sweep())
        await bench.until_finished()
        assert len(bench.log_groups.pages) == 10
        assert bench.report.counts["sealed"] == 10


@virtual_time
async def test_two_sweeps_of_a_lane_come_one_after_the_other():
    async with Bench(groups=500, wrong=10).running() as bench:
        bench.handle(sweep(1))
        bench.handle(sweep(2))
        await bench.until_finished()
        assert [token for _, token in bench.log_groups.pages].count(None) == 2
        first, second = bench.reports
        assert (first.counts["sealed"], second.counts) == (10, {"already-sealed": 500})


@virtual_time
async def test_a_group_that_vanishes_after_its_page_is_deferred_as_any_other_and_the_sweep_ends():
    async with Bench(groups=3).running() as bench:
        bench.log_groups.keys[group("gone")] = None
        bench.log_groups.absent.add(group("gone"))
        bench.handle(sweep())
        await bench.until_finished()
        assert bench.report.counts == {"already-sealed": 3, "deferred": 1}
        assert len(bench.publisher.values("retry.1")) == 1


@virtual_time
async def test_a_group_that_is_gone_before_the_next_page_is_nobodys_business():
    async with Bench(groups=120).running() as bench:

        def delete(page: int) -> None:
            if page == 1:
                del bench.log_groups.keys[group(name(60))]

        bench.log_groups.before_page = delete
        bench.handle(sweep())
        await bench.until_finished()
        assert bench.report.counts == {"already-sealed": 119}


@pytest.mark.parametrize(
    "failure", [FailureClass.THROTTLED, FailureClass.SERVICE_UNAVAILABLE, FailureClass.UNREACHABLE]
)
@virtual_time
async def test_a_page_that_fails_for_a_moment_is_asked_for_again_and_holds_nobody(failure: FailureClass):
    async with Bench(groups=500).running() as bench:
        bench.log_groups.page_failures.extend([failure] * 4)
        bench.handle(sweep())
        await bench.until_finished()
        assert bench.report.counts == {"already-sealed": 500}
        assert len(bench.log_groups.pages) == 14


@virtual_time
async def test_a_fault_of_the_lane_holds_it_and_the_sweep_goes_on_at_the_same_page():
    async with Bench(groups=500).running() as bench:
        bench.log_groups.before_page = lambda number: (
            bench.log_groups.page_failures.extend([FailureClass.ROLE_NOT_ASSUMABLE] * 3) if number == 5 else None
        )
        bench.handle(sweep())
        await asyncio.sleep(4)
        [held] = [lane.fault.reason for lane in bench.dispatcher.schedule]
        assert held == "role-not-assumable"
        await bench.until_finished()
        assert [lane.fault.reason for lane in bench.dispatcher.schedule] == [None]
        assert len({token for _, token in bench.log_groups.pages}) == 10
        assert len(bench.log_groups.pages) == 13
        assert bench.report.counts == {"already-sealed": 500}


@pytest.mark.parametrize("failure", [FailureClass.CREDENTIALS_REJECTED, FailureClass.NOT_AUTHORIZED])
@virtual_time
async def test_a_lane_that_never_answers_is_given_up_after_an_hour_and_that_is_told(failure: FailureClass):
    async with Bench(groups=10).running() as bench:
        bench.log_groups.page_failures.extend([failure] * 10_000)
        began = now()
        bench.handle(sweep())
        await bench.until_finished()
        assert 3600 <= now() - began <= 3600 + 120
        assert bench.report.failure == (failure.label, "as told")
        assert bench.report.counts == {}


@virtual_time
async def test_sweeps_of_a_lane_that_never_answers_do_not_pile_up():
    async with Bench(groups=10).running() as bench:
        bench.log_groups.page_failures.extend([FailureClass.ROLE_NOT_ASSUMABLE] * 10_000)
        for number in range(12):
            bench.handle(sweep(number))
            await asyncio.sleep(1800)
            assert len(bench.deliveries.open) <= 3
        await bench.until_finished(3600 + 120)
        assert {report.failure for report in bench.reports} == {("role-not-assumable", "as told")}


@virtual_time
async def test_a_sweep_that_finds_the_lane_answering_again_is_no_failure_whatever_the_one_before_it_met():
    async with Bench(groups=10).running() as bench:
        bench.log_groups.page_failures.extend([FailureClass.ROLE_NOT_ASSUMABLE] * 10_000)
        bench.handle(sweep(1))
        await asyncio.sleep(3500)
        bench.handle(sweep(2))
        while len(bench.deliveries.open) > 1:
            await asyncio.sleep(0.01)
        bench.log_groups.page_failures.clear()
        await bench.until_finished(120)
        assert [report.failure is None for report in bench.reports if report.is_done] == [False, True]


@virtual_time
async def test_a_lane_that_answers_now_and_then_is_not_given_up():
    bench = Bench(groups=120)
    away = [FailureClass.NOT_AUTHORIZED] * 60  # waits of half an hour, give or take a little
    bench.log_groups.before_page = lambda number: (
        bench.log_groups.page_failures.extend(away) if number in {0, 61, 122} else None
    )
    async with bench.running():
        began = now()
        bench.handle(sweep())
        await bench.until_finished()
        assert now() - began > 3600
        assert (bench.report.failure, bench.report.counts) == (None, {"already-sealed": 120})


@virtual_time
async def test_a_page_leaves_its_place_while_its_keys_are_looked_at():
    bench = Bench(groups=10)
    for number in range(10):
        alias = KeyAlias(f"arn:aws:kms:{LANE.region}:{LANE.account}:alias/{number}")
        bench.directory.decisions[group(name(number))] = Owned(TENANT, alias, "a rule")
    bench.sweeper._keys = LateKeys(takes_any=True)
    async with bench.running():
        bench.handle(sweep())
        await asyncio.sleep(12)
        assert len(bench.log_groups.pages) == 1
        assert [(lane.running, lane.under_way) for lane in bench.dispatcher.schedule] == [(1, 0)]
        await bench.until_finished()


@virtual_time
async def test_a_group_that_aws_shows_twice_is_counted_once():
    bench = Bench(groups=60, wrong=60)

    async def page(lane: Lane, token: str | None) -> LogGroupPage:
        names = [name(number) for number in (range(50) if token is None else range(40, 60))]
        return LogGroupPage(dict.fromkeys(names, OTHER_KEY), None if token else "2")

    bench.log_groups.page = page  # type: ignore[method-assign]
    async with bench.running():
        bench.publisher.stall("outcomes")  # so that the first is open when the second is seen
        bench.handle(sweep())
        await asyncio.sleep(60)
        bench.publisher.resume()
        await bench.until_finished()
        assert bench.report.counts == {"sealed": 60}


@virtual_time
async def test_a_page_that_is_answered_after_the_lanes_may_have_another_owner_ensures_nothing():
    async with Bench(groups=100, wrong=100).running() as bench:
        bench.log_groups.latency_s = 5.0
        bench.handle(sweep())
        await asyncio.sleep(1)
        assert len(bench.log_groups.pages) == 1
        bench.sweeper.forget()
        await asyncio.sleep(60)
        assert bench.log_groups.calls == []
        assert bench.deliveries.open == {0}
        bench.handle(sweep())
        await asyncio.sleep(0)
        bench.sweeper.forget()
        await asyncio.sleep(60)
        assert (len(bench.log_groups.pages), bench.log_groups.calls) == (1, [])


@virtual_time
async def test_no_call_is_made_in_an_account_that_no_rule_lists():
    async with Bench(groups=10).running() as bench:
        bench.directory.unlisted.add(LANE.account)
        bench.handle(sweep())
        await bench.until_finished(10)
        assert bench.log_groups.pages == []
        assert bench.report.failure is not None
        assert bench.report.failure[0] == "account-not-listed"


@virtual_time
async def test_while_the_registry_is_away_the_lane_waits():
    async with Bench(groups=10).running() as bench:
        bench.directory.failure = FailureClass.REGISTRY_UNAVAILABLE
        bench.handle(sweep())
        await asyncio.sleep(300)
        assert bench.deliveries.open
        bench.directory.failure = None
        await bench.until_finished(70)
        assert bench.report.counts == {"already-sealed": 10}


DECISIONS: dict[str, Decision] = {
    "theirs": Owned(OTHER_TENANT, key_of(), "rule"),
    "nobodys": Undecided(FailureClass.UNKNOWN_TENANT, "no rule"),
    "keyless": Undecided(FailureClass.NO_KEY_IN_REGION, "no key", TENANT),
    "left-alone": Excluded("told so"),
    "ours": Owned(TENANT, key_of(), "rule"),
}


@pytest.mark.parametrize(
    ("tenant", "counts"),
    [
        (None, {"sealed": 2, "unknown-tenant": 1, "no-key-in-region": 1, "excluded": 1}),
        (TENANT, {"sealed": 1, "other-tenant": 2, "no-key-in-region": 1, "excluded": 1}),
    ],
    ids=["everybody", "one-tenant"],
)
@virtual_time
async def test_only_what_is_somebodys_is_ensured_and_with_a_tenant_only_theirs(tenant, counts):
    async with Bench().running() as bench:
        for each, decision in DECISIONS.items():
            bench.log_groups.keys[group(each)] = OTHER_KEY
            bench.directory.decisions[group(each)] = decision
        bench.handle(sweep(tenant=tenant))
        await bench.until_finished()
        assert bench.report.counts == counts
        assert bench.sealed == {"ours": 1} if tenant else {"ours": 1, "theirs": 1}


@pytest.mark.parametrize("tenant", [None, TENANT], ids=["everybody", "one-tenant"])
@virtual_time
async def test_an_outcome_names_each_group_that_no_key_may_be_put_on(tenant):
    async with Bench(groups=60).running() as bench:
        for each, decision in DECISIONS.items():
            bench.log_groups.keys[group(each)] = OTHER_KEY
            bench.directory.decisions[group(each)] = decision
        bench.handle(sweep(tenant=tenant))
        await bench.until_finished()
        outcomes = [json.loads(value) for value in bench.publisher.values("outcomes")]
        failed = {each["log_group"]: each for each in outcomes if each["state"] == "failed"}
        told = {where: (each["failure"]["class"], each["detail"], each["trigger"]) for where, each in failed.items()}
        keyless = {"keyless": ("no-key-in-region", "no key", "sweep")}
        assert told == (keyless if tenant else keyless | {"nobodys": ("unknown-tenant", "no rule", "sweep")})
        assert (failed["keyless"]["tenant"], failed["keyless"]["old_key"]) == (TENANT, OTHER_KEY)
        assert len(outcomes) == len(failed) + len(bench.sealed), "none of what is excluded, another's or right"
        assert {command.log_group.name for command, outcome, _ in bench.observer.outcomes if outcome.failure} == set(
            told
        )
        assert bench.publisher.values("dead-letters") == bench.publisher.values("retry.1") == []


@virtual_time
async def test_an_alias_means_the_key_that_it_stands_for():
    alias = KeyAlias(f"arn:aws:kms:{LANE.region}:{LANE.account}:alias/tenant-a")
    async with Bench(groups=100, wrong=5).running() as bench:
        bench.keys.aliases[alias] = key_of()
        for each in bench.log_groups.keys:
            bench.directory.decisions[each] = Owned(TENANT, alias, "rule")
        bench.handle(sweep())
        await bench.until_finished()
        assert bench.report.counts == {"already-sealed": 95, "sealed": 5}


@pytest.mark.parametrize(
    ("overwrite", "counts"),
    [
        (Overwrite.WHEN_NO_KEY, {"already-sealed": 8, "kept": 1, "sealed": 1}),
        (Overwrite.NEVER, {"already-sealed": 8, "kept": 2}),
    ],
)
@virtual_time
async def test_what_a_tenant_does_not_let_be_overwritten_is_told_of_and_settled(overwrite, counts):
    async with Bench(groups=10).running() as bench:
        bench.log_groups.keys |= {group(name(0)): OTHER_KEY, group(name(1)): None}
        for each in bench.log_groups.keys:
            bench.directory.decisions[each] = Owned(TENANT, key_of(), "rule", overwrite)
        bench.handle(sweep())
        await bench.until_finished()
        assert bench.report.counts == counts
        assert {call.log_group for call in bench.log_groups.calls} <= {group(name(1))}
        kept = [json.loads(value) for value in bench.publisher.values("outcomes")]
        assert {each["log_group"]: each.get("old_key") for each in kept if each["state"] == "kept"}[
            name(0)
        ] == OTHER_KEY
        assert is_right({"state": "done", "lanes": {"failed": 0}, "counts": counts})


@virtual_time
async def test_groups_that_only_their_tags_tell_apart_are_ensured_one_by_one():
    async with Bench(groups=60).running() as bench:
        bench.directory.by_tags = True
        bench.handle(sweep())
        await bench.until_finished()
        assert len(bench.log_groups.lookups) == 60
        assert bench.report.counts == {"already-sealed": 60}


@virtual_time
async def test_a_group_that_its_tags_tell_to_be_another_tenants_is_no_business_of_this_ones_sweep():
    async with Bench(groups=10).running() as bench:
        bench.directory.by_tags = True
        for number, tenant in ((3, OTHER_TENANT), (4, TENANT)):
            bench.log_groups.keys[group(name(number))] = OTHER_KEY
            bench.directory.decisions[group(name(number))] = Owned(tenant, key_of(), "rule")
        bench.handle(sweep(tenant=TENANT))
        await bench.until_finished()
        assert bench.report.counts == {"already-sealed": 8, "other-tenant": 1, "sealed": 1}
        assert bench.sealed == {name(4): 1}
        assert bench.publisher.values("dead-letters") == []


@virtual_time
async def test_a_registry_that_has_not_heard_of_the_new_key_is_waited_for():
    new_key = KeyArn(f"{key_of()}-new")
    async with Bench(groups=10).running() as bench:
        bench.handle(sweep(tenant=TENANT, key=new_key))
        await asyncio.sleep(100)
        assert not bench.log_groups.calls
        for number in range(10):
            bench.directory.decisions[group(name(number))] = Owned(TENANT, new_key, "rule")
        await bench.until_finished(65)
        assert bench.report.counts == {"sealed": 10}
        assert bench.report.old_keys == {key_of(): 10}
        assert {call.key for call in bench.log_groups.calls} == {new_key}


@virtual_time
async def test_a_sweep_goes_by_what_the_registry_holds_when_it_begins():
    async with Bench(groups=120).running() as bench:
        bench.handle(sweep(tenant=TENANT, key=key_of()))
        await bench.until_finished()
        assert bench.directory.renewed == [LANE.account], "once, not for every page"


@virtual_time
async def test_a_lane_that_was_paused_for_longer_than_aws_honours_a_token_is_swept_anew(monkeypatch):
    monkeypatch.setattr("service.core.sweep._TOKEN_S", 100.0)  # this bench looks ten times a second
    bench = Bench(groups=120)
    bench.log_groups.before_page = lambda page: None if page else bench.dispatcher.suspend()
    async with bench.running():
        bench.handle(sweep())
        await asyncio.sleep(200)
        bench.dispatcher.resume()
        await bench.until_finished()
        assert [token for _, token in bench.log_groups.pages].count(None) == 2
        assert bench.report.counts == {"already-sealed": 120}, "nothing is counted twice"


@virtual_time
async def test_a_registry_that_never_agrees_is_believed_after_five_minutes():
    async with Bench(groups=10).running() as bench:
        began = now()
        bench.handle(sweep(tenant=TENANT, key=OTHER_KEY))
        await bench.until_finished()
        assert 300 <= now() - began <= 365
        assert bench.report.counts == {"already-sealed": 10}


@virtual_time
async def test_what_fails_for_good_is_counted_by_its_class():
    async with Bench(groups=4, wrong=4).running() as bench:
        for number in range(4):
            bench.log_groups.failures[group(name(number))].extend([FailureClass.INVALID_REQUEST])
        bench.handle(sweep())
        await bench.until_finished()
        assert bench.report.counts == {"invalid-request": 4}
        assert State.FAILED not in bench.report.counts


@virtual_time
async def test_the_record_stays_open_until_the_end_is_on_kafka():
    async with Bench(groups=10).running() as bench:
        bench.publisher.stall(REQUESTS)
        bench.handle(sweep())
        await asyncio.sleep(60)
        assert bench.deliveries.open == {0}
        bench.publisher.resume()
        await bench.until_finished(1)
