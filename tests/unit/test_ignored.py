"""Groups that are left alone for their tag although nothing shows it, with the real dispatcher and ensure, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from service.core.dispatcher import Dispatcher
from service.core.ensure import Ensure, Policy
from service.core.turn import Held, Turn
from service.domain.command import EnsureCommand, Trigger
from service.domain.outcome import FailureClass, Outcome, State, UnknownCallError
from service.domain.schedule import Schedule
from service.ports import GivenUpError
from tests.support.fakes import (
    LANE,
    OTHER_LANE,
    Deliveries,
    FakeDirectory,
    TimedLogGroups,
    ensure,
    group,
    key_of,
    new_lane,
)
from tests.support.keys import FakeKeys
from tests.support.virtual_time import VirtualClock, virtual_time

IGNORED = {"logwarden:ignore": "true"}


class Bench:
    """A directory that heeds the tag; `tagged` groups have it."""

    def __init__(self, *tagged: str) -> None:
        self.directory = FakeDirectory(ignored_are_listed=True)
        self.log_groups = TimedLogGroups(latency_s=0.1)
        self.log_groups.tags = {group(name): IGNORED for name in tagged}
        self.deliveries = Deliveries()
        self.outcomes: dict[str, Outcome] = {}
        self.given_up: list[str] = []
        self._ensure = Ensure(
            directory=self.directory,
            log_groups=self.log_groups,
            keys=FakeKeys(takes_any=True),
            clock=VirtualClock(),
            policy=Policy(attempts=3, max_wait_s=1.0, observe_after_s=60.0),
        )
        self.dispatcher = Dispatcher(
            schedule=Schedule(new_lane=new_lane, max_under_way=256),
            work=self._work,
            clock=VirtualClock(),
            hold_s=5.0,
            max_hold_s=60.0,
        )

    async def _work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        try:
            self.outcomes[command.log_group.name] = await self._ensure(command, turn)
        except GivenUpError:
            self.given_up.append(command.log_group.name)
            raise
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        run = asyncio.create_task(self.dispatcher.run())
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError):
                await run

    async def worked(self, *commands: EnsureCommand) -> dict[str, State]:
        for command in commands:
            self.dispatcher.submit(command, self.deliveries.next())
        while not all(lane.is_idle for lane in self.dispatcher.schedule):
            await asyncio.sleep(0.01)
        return {command.log_group.name: self.outcomes[command.log_group.name].state for command in commands}


def swept(*names: str) -> list[EnsureCommand]:
    return [ensure(name, Trigger.SWEEP) for name in names]


@pytest.mark.parametrize("trigger", [Trigger.SWEEP, Trigger.REQUEST, Trigger.KEY_DISASSOCIATED, Trigger.VERIFY])
@virtual_time
async def test_a_group_with_the_tag_is_left_alone_whatever_asks(trigger: Trigger):
    async with Bench("b").running() as bench:
        assert await bench.worked(ensure("a", trigger), ensure("b", trigger)) == {"a": "sealed", "b": "excluded"}
        assert bench.outcomes["b"].detail == "it has the tag logwarden:ignore"
        assert [call.log_group.name for call in bench.log_groups.calls] == ["a"]


@virtual_time
async def test_one_list_of_a_lane_serves_all_that_ask_at_once_and_for_five_minutes():
    async with Bench("x", "y", "z").running() as bench:
        await bench.worked(*swept("a", "b", "c", "x"))
        assert bench.log_groups.listings == [(LANE, None), (LANE, "y")], "all its pages, once"
        await asyncio.sleep(290)
        await bench.worked(*swept("d"))
        assert len(bench.log_groups.listings) == 2
        bench.log_groups.tags[group("e")] = IGNORED
        await asyncio.sleep(20)
        assert await bench.worked(*swept("e")) == {"e": "excluded"}
        await bench.worked(ensure("a", Trigger.SWEEP, lane=OTHER_LANE))
        assert bench.log_groups.listings[-1] == (OTHER_LANE, None), "each lane has its own"
        assert bench.log_groups.lookups == [group("x"), group("e")], "single look-ups are for those that are listed"


@virtual_time
async def test_a_group_whose_tag_says_false_is_encrypted():
    async with Bench().running() as bench:
        bench.log_groups.tags[group("a")] = {"logwarden:ignore": "false"}
        assert await bench.worked(*swept("a")) == {"a": "sealed"}


@virtual_time
async def test_nothing_is_listed_for_a_group_that_needs_no_change():
    async with Bench("a").running() as bench:
        bench.log_groups.keys[group("a")] = key_of()
        assert await bench.worked(*swept("a")) == {"a": "already-sealed"}
        assert bench.log_groups.listings == []


@virtual_time
async def test_a_senders_word_that_a_group_has_no_such_tag_is_not_believed():
    async with Bench("a").running() as bench:
        now_ms = VirtualClock().epoch_ms()
        told = [ensure(name, Trigger.CREATED, at_ms=now_ms, tags={}) for name in "ab"]  # our own event, or a custom one
        assert await bench.worked(*told) == {"a": "excluded", "b": "sealed"}


@virtual_time
async def test_a_senders_word_that_a_group_has_the_tag_is_believed():
    async with Bench().running() as bench:
        told = ensure("a", Trigger.CREATED, at_ms=VirtualClock().epoch_ms(), tags=IGNORED)
        assert await bench.worked(told) == {"a": "excluded"}
        assert bench.log_groups.listings == []


@virtual_time
async def test_nothing_is_listed_for_a_group_that_cloudtrail_says_was_made_this_minute():
    async with Bench().running() as bench:
        now_ms = VirtualClock().epoch_ms()
        await bench.worked(
            ensure("a", Trigger.CREATED, at_ms=now_ms, shown_key="", tags={"team": "x"}),
            ensure("b", Trigger.CREATED, at_ms=now_ms, shown_key=""),
        )
        assert bench.log_groups.listings == []
        await bench.worked(ensure("c", Trigger.CREATED, at_ms=now_ms - 100_000, shown_key=""))
        assert len(bench.log_groups.listings) == 1, "somebody may have tagged it meanwhile"


@virtual_time
async def test_a_new_group_with_the_tag_whose_key_is_taken_off_at_once_is_left_alone():
    async with Bench("a").running() as bench:
        now_ms = VirtualClock().epoch_ms()
        created = ensure("a", Trigger.CREATED, at_ms=now_ms, shown_key="", tags=IGNORED)
        taken_off = ensure("a", Trigger.KEY_DISASSOCIATED, at_ms=now_ms, shown_key="")
        assert await bench.worked(created, taken_off) == {"a": "excluded"}


@virtual_time
async def test_a_change_of_tags_is_looked_at_by_itself_and_not_in_a_list_that_may_be_old():
    async with Bench().running() as bench:
        await bench.worked(*swept("a"))
        bench.log_groups.keys[group("b")] = None
        bench.log_groups.tags[group("b")] = IGNORED
        assert await bench.worked(ensure("b", Trigger.TAGGED)) == {"b": "excluded"}


@virtual_time
async def test_nothing_is_listed_where_the_tag_does_not_count():
    async with Bench("a").running() as bench:
        bench.directory.ignored_are_listed = False
        assert await bench.worked(*swept("a")) == {"a": "sealed"}
        assert bench.log_groups.listings == []


@virtual_time
async def test_a_tag_that_was_just_set_is_heeded_when_the_key_is_taken_off_next():
    async with Bench().running() as bench:
        await bench.worked(*swept("a"))
        bench.log_groups.keys[group("b")] = key_of()
        bench.log_groups.tags[group("b")] = IGNORED
        assert await bench.worked(ensure("b", Trigger.TAGGED)) == {"b": "already-sealed"}
        bench.log_groups.keys[group("b")] = None
        assert await bench.worked(ensure("b", Trigger.KEY_DISASSOCIATED)) == {"b": "excluded"}


@virtual_time
async def test_where_aws_does_not_have_the_call_each_group_is_looked_at(monkeypatch):
    async def with_tag(*_):
        raise UnknownCallError(FailureClass.UNREACHABLE, "no such operation")

    async with Bench("b").running() as bench:
        monkeypatch.setattr(bench.log_groups, "with_tag", with_tag)
        assert await bench.worked(*swept("a", "b")) == {"a": "sealed", "b": "excluded"}


@pytest.mark.parametrize("failure", [FailureClass.NOT_AUTHORIZED, FailureClass.UNRECOGNISED])
@virtual_time
async def test_where_there_is_no_list_each_group_is_looked_at(failure: FailureClass):
    async with Bench("b").running() as bench:
        bench.log_groups.list_failures.append(failure)
        assert await bench.worked(*swept("a", "b")) == {"a": "sealed", "b": "excluded"}
        assert len(bench.log_groups.listings) == 1
        assert set(bench.log_groups.lookups) == {group("a"), group("b")}


@pytest.mark.parametrize("by_tags", [False, True])
@virtual_time
async def test_a_role_without_any_right_on_tags_is_no_groups_fault(by_tags: bool):
    async with Bench().running() as bench:
        bench.directory.by_tags = by_tags
        bench.log_groups.list_failures.append(FailureClass.NOT_AUTHORIZED)
        bench.log_groups.tag_failures.extend([FailureClass.NOT_AUTHORIZED] * 2)
        assert await bench.worked(*swept("a", "b")) == {"a": "failed", "b": "failed"}
        assert {outcome.failure for outcome in bench.outcomes.values()} == {FailureClass.TAGS_NOT_READABLE}
        assert len(bench.log_groups.listings) == 1
        assert await bench.worked(*swept("a", "b")) == {"a": "sealed", "b": "sealed"}, "as soon as it has one of them"


@pytest.mark.parametrize("by_tags", [False, True])
@virtual_time
async def test_a_refused_look_at_one_group_is_that_groups_where_there_is_a_list(by_tags: bool):
    async with Bench("a").running() as bench:
        bench.directory.by_tags = by_tags
        bench.log_groups.tag_failures.append(FailureClass.NOT_AUTHORIZED)
        assert await bench.worked(*swept("a")) == {"a": "failed"}
        assert bench.outcomes["a"].failure is FailureClass.NOT_AUTHORIZED


@virtual_time
async def test_a_crowd_of_tagged_groups_is_not_held_and_each_group_is_looked_at(monkeypatch):
    monkeypatch.setattr("service.core.ignored._MAX_PAGES", 2)
    async with Bench(*"mnopqr").running() as bench:
        assert await bench.worked(*swept("a", "r")) == {"a": "sealed", "r": "excluded"}
        assert len(bench.log_groups.listings) == 2


@virtual_time
async def test_a_list_that_fails_for_a_moment_is_asked_for_again_by_those_who_shared_it():
    async with Bench("b").running() as bench:
        bench.log_groups.list_failures.append(FailureClass.THROTTLED)
        assert await bench.worked(*swept("a", "b")) == {"a": "sealed", "b": "excluded"}


@virtual_time
async def test_a_list_that_goes_on_failing_changes_no_group():
    async with Bench("b").running() as bench:
        bench.log_groups.list_failures.extend([FailureClass.SERVICE_UNAVAILABLE] * 10)
        assert await bench.worked(*swept("b")) == {"b": "failed"}
        assert bench.outcomes["b"].failure is FailureClass.SERVICE_UNAVAILABLE
        assert bench.log_groups.calls == []


@virtual_time
async def test_whoever_shares_a_list_that_is_cancelled_is_given_up_with_it():
    async with Bench().running() as bench:
        for command in swept("a", "b", "c"):
            bench.dispatcher.submit(command, bench.deliveries.next())
        while not bench.log_groups.listings:
            await asyncio.sleep(0.01)
        await bench.dispatcher.drain(0)
        assert bench.log_groups.calls == []
        assert bench.deliveries.open == {0, 1, 2}
