"""Looks at log groups that commands share, with the real dispatcher, in virtual time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress

import pytest

from service.core.dispatcher import Dispatcher
from service.core.observations import Observations
from service.core.turn import Held, Turn
from service.domain.command import EnsureCommand, Trigger
from service.domain.log_group import KeyArn, Lane
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.ports import GivenUpError
from tests.support.fakes import (
    LANE,
    OTHER_LANE,
    Deliveries,
    TimedLogGroups,
    busiest_second,
    ensure,
    group,
    key_of,
    new_lane,
)
from tests.support.virtual_time import VirtualClock, virtual_time

KEY = key_of()


def now() -> float:
    return asyncio.get_running_loop().time()


class LogGroupsByTheClock(TimedLogGroups):
    """Remembers when each description was asked for, too."""

    def __init__(self) -> None:
        super().__init__(latency_s=0.1)
        self.described_at: list[float] = []

    async def describe(self, lane: Lane, names: Collection[str]) -> Mapping[str, KeyArn | None]:
        self.described_at.append(now())
        return await super().describe(lane, names)


class Bench:
    """Commands that look at their group, up to `attempts` times, and associate the key where it is not the right one."""

    def __init__(self, *, attempts: int = 1, pause_s: float = 0.5) -> None:
        self.log_groups = LogGroupsByTheClock()
        self.observations = Observations(self.log_groups)
        self.deliveries = Deliveries()
        self.attempts = attempts
        self.pause_s = pause_s
        self.found: dict[str, KeyArn | None] = {}
        self.failed: dict[str, list[FailureClass]] = {}
        self.given_up: list[str] = []
        self.cancelled: list[str] = []
        self.ended_at: dict[str, float] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.dispatcher = Dispatcher(
            schedule=Schedule(new_lane=new_lane, max_under_way=256),
            work=self.work,
            clock=VirtualClock(),
            hold_s=5.0,
            max_hold_s=60.0,
        )

    async def work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        name = command.log_group.name
        try:
            key = await self.look(command, turn)
            if key is not None and key != key_of(command.log_group.lane):
                async with turn.call(Quota.ASSOCIATE):
                    await self.log_groups.associate(command.log_group, key_of(command.log_group.lane))
        except CallFailedError:
            pass
        except GivenUpError:
            self.given_up.append(name)
            raise
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.ended_at[name] = now()
        return None

    async def look(self, command: EnsureCommand, turn: Turn) -> KeyArn | None:
        name = command.log_group.name
        for attempt in range(self.attempts):
            if attempt:
                await turn.pause(self.pause_s)
            try:
                key = self.found[name] = await self.observations.key_of(command.log_group, turn)
            except CallFailedError as e:
                self.failed.setdefault(name, []).append(e.failure)
                if attempt + 1 == self.attempts:
                    raise
            else:
                return key
        raise AssertionError

    def submit(self, *names: str, lane: Lane = LANE, trigger: Trigger = Trigger.SWEEP) -> None:
        for name in names:
            self.dispatcher.submit(ensure(name, trigger, lane=lane), self.deliveries.next())

    def sealed(self, *names: str, lane: Lane = LANE) -> None:
        """Submit groups that AWS shows under the right key."""
        for name in names:
            self.log_groups.keys[group(name, lane)] = key_of(lane)
        self.submit(*names, lane=lane)

    @property
    def sizes(self) -> list[int]:
        return [len(names) for _, names in self.log_groups.descriptions]

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
        schedule = self.dispatcher.schedule
        assert schedule.under_way == sum(lane.under_way for lane in schedule) == 0
        assert not any(lane.running for lane in schedule)
        assert not any(len(tokens) for lane in schedule for tokens in lane._tokens.values())
        assert not self.observations._gathering, "a batch that nobody will ever call for"

    async def until_idle(self) -> None:
        while not all(lane.is_idle for lane in self.dispatcher.schedule):
            await asyncio.sleep(0.01)


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


# -- what is shared


@virtual_time
async def test_commands_that_look_at_once_share_one_call_and_each_gets_the_answer_for_its_group():
    async with Bench().running() as bench:
        bench.sealed("right")
        bench.log_groups.keys[group("none")] = None
        bench.log_groups.keys[group("wrong")] = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/other")
        bench.submit("none", "wrong")
        await bench.until_idle()
    assert bench.log_groups.descriptions == [(LANE, frozenset({"right", "none", "wrong"}))]
    assert bench.found == {"right": KEY, "none": None, "wrong": "arn:aws:kms:eu-west-1:111122223333:key/other"}
    assert [call.log_group.name for call in bench.log_groups.calls] == ["wrong"]
    assert not bench.deliveries.open


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (49, [49]), (50, [50]), (51, [50, 1]), (100, [50, 50])])
@virtual_time
async def test_no_call_is_for_more_than_fifty(count: int, sizes: list[int]):
    async with Bench().running() as bench:
        bench.sealed(*numbers(count))
        await bench.until_idle()
    assert bench.sizes == sizes


@virtual_time
async def test_ten_thousand_groups_that_need_no_call_cost_two_hundred_descriptions_and_twenty_seconds():
    async with Bench().running() as bench:
        began = now()
        bench.sealed(*numbers(10_000))
        await bench.until_idle()
        assert now() - began == pytest.approx(20.0, abs=0.25)
    assert bench.sizes == [50] * 200
    assert busiest_second(bench.log_groups.described_at) <= 10 + 1
    assert bench.log_groups.calls == []
    assert len(bench.found) == 10_000
    assert not bench.deliveries.open
    assert not bench.deliveries.finished_twice


@virtual_time
async def test_a_look_costs_no_token_of_associate_kms_key():
    async with Bench().running() as bench:
        bench.sealed(*numbers(500))
        await asyncio.sleep(0.95)
        (lane,) = bench.dispatcher.schedule
        assert len(bench.log_groups.descriptions) == 9
        assert lane._tokens[Quota.ASSOCIATE].pacer.due == pytest.approx(now() - 0.95 + 0.2)
        await bench.until_idle()


@virtual_time
async def test_a_group_asked_for_twice_is_described_once_in_a_call():
    bench = Bench()
    results: list[KeyArn | None] = []

    async def twice(command: EnsureCommand, turn: Turn) -> Held | None:
        results.append(await bench.observations.key_of(group("same"), turn))
        return None

    bench.dispatcher._work = twice
    bench.log_groups.keys[group("same")] = KEY
    async with bench.running():
        bench.submit(*numbers(60))
        await bench.until_idle()
    assert results == [KEY] * 60
    assert bench.log_groups.descriptions == [(LANE, frozenset({"same"}))]


@virtual_time
async def test_who_asks_while_the_call_is_made_is_part_of_the_next():
    async with Bench().running() as bench:
        bench.sealed("first")
        await asyncio.sleep(0.15)
        assert bench.sizes == [1]
        assert bench.found == {}
        bench.sealed("second", "third")
        await bench.until_idle()
    assert bench.sizes == [1, 2]


@virtual_time
async def test_lanes_do_not_share_calls():
    async with Bench().running() as bench:
        for number in numbers(30):
            bench.sealed(number)
            bench.sealed(number, lane=OTHER_LANE)
        await bench.until_idle()
    described = bench.log_groups.descriptions
    assert Counter(lane for lane, _ in described) == {LANE: 1, OTHER_LANE: 1}
    assert {len(names) for _, names in described} == {30}


@virtual_time
async def test_a_group_that_is_not_shown_fails_alone():
    async with Bench().running() as bench:
        bench.log_groups.absent = {group("3")}
        bench.sealed(*numbers(10))
        await bench.until_idle()
    assert bench.failed == {"3": [FailureClass.LOG_GROUP_NOT_FOUND]}
    assert len(bench.found) == 9
    assert bench.sizes == [10]


# -- who goes first


@pytest.mark.parametrize("waited_s", [0.0, 3.0, 15.0])
@virtual_time
async def test_an_urgent_command_among_ten_thousand_sweeps_is_seen_to_within_a_third_of_a_second(waited_s: float):
    # It joins the description that is filling up, of which one may be before it: two tokens of a tenth of a second, and the answer.
    async with Bench().running() as bench:
        bench.sealed(*numbers(10_000))
        await asyncio.sleep(waited_s)
        asked = now()
        bench.submit("urgent", trigger=Trigger.REQUEST)
        await asyncio.sleep(1)
        assert bench.ended_at["urgent"] - asked <= 0.3 + 1e-6
        await bench.until_idle()


@virtual_time
async def test_an_urgent_call_among_sweeps_that_have_to_call_too_has_the_next_token():
    async with Bench().running() as bench:
        wrong = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/other")
        bench.log_groups.keys = {group(name): wrong for name in [*numbers(1000), "urgent"]}
        bench.submit(*numbers(1000))
        await asyncio.sleep(20)
        asked = now()
        bench.submit("urgent", trigger=Trigger.REQUEST)
        await asyncio.sleep(1)
        # Two descriptions at the most, its answer, a token that is just spent, and the answer of its own call.
        assert bench.ended_at["urgent"] - asked <= 0.2 + 0.1 + 0.2 + 0.1 + 1e-6
        (call,) = [call for call in bench.log_groups.calls if call.log_group.name == "urgent"]
        assert call.started - asked <= 0.5


@virtual_time
async def test_a_call_that_urgent_commands_have_joined_is_as_urgent_as_they_are():
    async with Bench().running() as bench:
        lane_full_of_urgent_work = [f"u{number}" for number in range(2000)]
        bench.sealed("sweep")
        await asyncio.sleep(0.05)
        for name in lane_full_of_urgent_work:
            bench.log_groups.keys[group(name)] = KEY
        asked = now()
        bench.submit(*lane_full_of_urgent_work, trigger=Trigger.CREATED)
        await bench.until_idle()
        assert "sweep" in bench.log_groups.descriptions[0][1]
        assert max(bench.ended_at[name] - asked for name in lane_full_of_urgent_work[:49]) <= 0.2


@virtual_time
async def test_who_waits_before_the_next_attempt_holds_nobody_up():
    async with Bench(attempts=2, pause_s=30).running() as bench:
        bench.log_groups.describe_failures.append(FailureClass.SERVICE_UNAVAILABLE)
        bench.sealed("again")
        await asyncio.sleep(1)
        asked = now()
        bench.sealed("other")
        await asyncio.sleep(1)
        assert bench.ended_at["other"] - asked <= 0.2
        await bench.until_idle()
    assert bench.found == {"again": KEY, "other": KEY}
    assert bench.log_groups.described_at[2] - bench.log_groups.described_at[0] == pytest.approx(30.1)


# -- failures


@virtual_time
async def test_a_call_that_fails_fails_all_who_share_it_with_its_class_and_each_tries_again():
    async with Bench(attempts=3).running() as bench:
        bench.log_groups.describe_failures.extend([FailureClass.SERVICE_UNAVAILABLE, FailureClass.UNREACHABLE])
        bench.sealed(*numbers(40))
        await bench.until_idle()
    expected = [FailureClass.SERVICE_UNAVAILABLE, FailureClass.UNREACHABLE]
    assert bench.failed == dict.fromkeys(numbers(40), expected)
    assert bench.found == dict.fromkeys(numbers(40), KEY)
    assert bench.sizes == [40, 40, 40], "together again, with a token each time"


@pytest.mark.parametrize("failure", [FailureClass.INVALID_REQUEST, FailureClass.LOG_GROUP_NOT_FOUND])
@virtual_time
async def test_what_aws_refuses_for_one_name_is_asked_for_each_by_itself(failure: FailureClass):
    async with Bench(attempts=1).running() as bench:
        bench.log_groups.describe_failures.append(failure)
        bench.sealed(*numbers(7))
        await bench.until_idle()
    assert bench.failed == {}
    assert bench.found == dict.fromkeys(numbers(7), KEY)
    assert bench.sizes == [7, *[1] * 7]


@virtual_time
async def test_a_throttled_description_slows_descriptions_and_nothing_else():
    async with Bench(attempts=2, pause_s=0.0).running() as bench:
        bench.log_groups.describe_failures.append(FailureClass.THROTTLED)
        bench.sealed(*numbers(500))
        await asyncio.sleep(1)
        (lane,) = bench.dispatcher.schedule
        assert len(bench.log_groups.descriptions) <= 7
        assert lane._tokens[Quota.ASSOCIATE].pacer.throttled_at is None
        await bench.until_idle()
    assert len(bench.found) == 500


@virtual_time
async def test_a_bug_in_the_call_ends_the_run_and_leaves_nobody_waiting():
    bench = Bench()

    async def describe(lane: Lane, names: Collection[str]) -> Mapping[str, KeyArn | None]:
        raise ZeroDivisionError

    bench.log_groups.describe = describe  # type: ignore[method-assign]
    bench.submit(*numbers(30))
    with pytest.raises(ExceptionGroup) as ended:
        await bench.dispatcher.run()
    assert ended.group_contains(ZeroDivisionError)
    assert not bench.deliveries.finished


# -- cancelled and given up


def task_of(bench: Bench, name: str) -> "asyncio.Task[None]":
    return next(task for work, task in bench.dispatcher._active.items() if work.key == name)


@pytest.mark.parametrize("after_s", [0.05, 0.15])
@virtual_time
async def test_when_the_one_who_calls_is_cancelled_the_others_are_given_up_and_the_next_call_is_made(after_s: float):
    async with Bench().running() as bench:
        bench.sealed(*numbers(20))
        await asyncio.sleep(after_s)  # while it waits for the token, and while it calls
        task_of(bench, "0").cancel()
        await asyncio.sleep(0.01)
        assert bench.cancelled == ["0"]
        assert bench.given_up == numbers(20)[1:]
        assert bench.dispatcher.schedule.under_way == 0
        bench.sealed("later")
        await bench.until_idle()
    assert bench.found == {"later": KEY}
    assert bench.deliveries.finished.keys() == {20}


@pytest.mark.parametrize("after_s", [0.05, 0.15])
@virtual_time
async def test_a_command_that_is_cancelled_disturbs_nobody_who_shares_its_call(after_s: float):
    async with Bench().running() as bench:
        bench.sealed(*numbers(20))
        await asyncio.sleep(after_s)
        task_of(bench, "7").cancel()
        await asyncio.sleep(0.01)
        assert bench.cancelled == ["7"]
        assert bench.dispatcher.schedule.under_way == (1 if after_s > 0.1 else 0)
        await bench.until_idle()
    assert bench.found.keys() == set(numbers(20)) - {"7"}
    assert bench.given_up == []
    assert bench.deliveries.open == {7}


@virtual_time
async def test_a_drain_gives_up_at_once_all_who_gather_for_a_call():
    async with Bench().running() as bench:
        bench.sealed(*numbers(130))
        await asyncio.sleep(0.05)
        (lane,) = bench.dispatcher.schedule
        assert lane.running == 51, "a full one, and the first of the next"
        began = now()
        assert await bench.dispatcher.drain(20) == 0
        assert now() == began
        assert Counter(bench.given_up) == Counter(numbers(51))
        assert bench.log_groups.descriptions == []
        assert not bench.deliveries.finished
        bench.dispatcher.restart()
        bench.sealed("later")
        await bench.until_idle()
    assert bench.sizes == [1]


@virtual_time
async def test_a_drain_lets_a_call_that_is_under_way_end_for_all_who_share_it():
    async with Bench().running() as bench:
        bench.sealed(*numbers(50))
        await asyncio.sleep(0.15)
        began = now()
        assert await bench.dispatcher.drain(20) == 0
        assert now() - began == pytest.approx(0.05)
    assert bench.deliveries.finished.keys() == set(range(50))


@virtual_time
async def test_a_call_that_is_late_in_a_drain_is_cancelled_with_all_who_share_it():
    async with Bench().running() as bench:
        bench.log_groups.latency_s = 100
        bench.sealed(*numbers(50))
        await asyncio.sleep(0.15)
        began = now()
        assert await bench.dispatcher.drain(20) == 50
        assert now() - began == pytest.approx(20)
        assert not bench.deliveries.finished
        bench.log_groups.latency_s = 0.1
        bench.dispatcher.restart()
        bench.sealed("later")
        await bench.until_idle()
    assert bench.deliveries.finished.keys() == {50}


@virtual_time
async def test_who_waits_before_the_next_attempt_is_given_up_by_a_drain_at_once():
    async with Bench(attempts=2, pause_s=3600).running() as bench:
        bench.log_groups.describe_failures.append(FailureClass.SERVICE_UNAVAILABLE)
        bench.sealed(*numbers(10))
        await asyncio.sleep(1)
        began = now()
        assert await bench.dispatcher.drain(20) == 0
        assert now() == began
        assert Counter(bench.given_up) == Counter(numbers(10))
