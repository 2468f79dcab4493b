import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from service.core.dead_letters import DeadLetters
from service.core.dispatcher import Dispatcher
from service.core.intake import Intake
from service.core.sweep import Sweeper
from service.core.turn import Held, Turn
from service.core.verification import Verification
from service.domain.command import EnsureCommand, Trigger
from service.domain.offsets import untracked
from service.domain.outcome import Outcome, State
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.domain.sweep import SweepCommand, new_sweep_id
from service.ports import Headers, IncomingRecord
from tests.support.fakes import (
    LANE,
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

SWEEP = SweepCommand(lane=LANE, sweep_id=new_sweep_id(0, bytes(10)), asked_at_ms=0)


class Bench:
    """An intake before a dispatcher whose work takes a second."""

    def __init__(self) -> None:
        clock = VirtualClock()
        self.publisher = FakePublisher()
        self.observer = RecordingObserver()
        self.deliveries = Deliveries()
        self.worked: list[EnsureCommand] = []
        self.log_groups = TimedLogGroups()
        self.seconds = 1.0
        self.home: int | None = 7  # of every key
        self.dispatcher = Dispatcher(
            schedule=Schedule(new_lane=new_lane, max_under_way=256),
            work=self.work,
            sweep=lambda command, turn: sweeper.work(command, turn),  # noqa: PLW0108  it is made below
            verify=lambda command, turn: self.verification.look(command, turn),  # noqa: PLW0108  it is made below
            clock=clock,
            hold_s=5.0,
            max_hold_s=60.0,
        )
        dead_letters = DeadLetters(
            publisher=self.publisher,
            observer=RecordingObserver(),
            limit=unlimited(),
            topic="dead-letters",
            work_topic="work",
        )
        self.verification = Verification(
            submit=lambda command: self.dispatcher.submit(command, untracked()),
            log_groups=TimedLogGroups(),
            clock=clock,
            observer=RecordingObserver(),
            after_s=15.0,
        )
        sweeper = Sweeper(
            directory=FakeDirectory(),
            log_groups=self.log_groups,
            keys=FakeKeys(),
            publisher=self.publisher,
            clock=clock,
            submit=self.dispatcher.submit,
            report=self.reported,
            requests_topic="requests",
            max_waiting=300,
        )
        self.intake = Intake(
            dispatcher=self.dispatcher,
            verification=self.verification,
            sweeper=sweeper,
            dead_letters=dead_letters,
            publisher=self.publisher,
            home_of=lambda key: self.home,
            observer=self.observer,
        )

    async def reported(self, command: EnsureCommand, outcome: Outcome) -> None:
        raise AssertionError(f"no group here is nobody's: {command.log_group}, {outcome.detail}")

    async def work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        async with turn.call(Quota.ASSOCIATE):
            await asyncio.sleep(self.seconds)
        self.worked.append(command)
        return None

    def handle(self, value: bytes | None, headers: Headers = ()) -> None:
        delivery = self.deliveries.next()
        self.intake.handle(IncomingRecord("work", 7, delivery.offset, 0, b"key", value, headers), delivery)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        tasks = [asyncio.create_task(self.dispatcher.run()), asyncio.create_task(self.intake.run())]
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


@virtual_time
async def test_a_command_is_worked_and_its_record_finished_then():
    async with Bench().running() as bench:
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(1)
        assert bench.deliveries.open == {0}
        await asyncio.sleep(1)
        assert bench.worked == [ensure()]
        assert not bench.deliveries.open


@virtual_time
async def test_records_for_one_group_are_worked_once_and_finished_together():
    async with Bench().running() as bench:
        for number in range(10):
            bench.handle(ensure(requests=(f"r{number}",)).to_bytes())
        await asyncio.sleep(2)
        (command,) = bench.worked
        assert command.request_ids == tuple(f"r{number}" for number in range(10))
        assert not bench.deliveries.open


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\x00\xff",
        b"{}",
        b"[" * 100_000,
        ensure().to_bytes().replace(b"created", b"sneezed"),
        ensure().to_bytes().replace(b'"at":0', b'"at":' + b"9" * 400),
        ensure(requests=("r",)).to_bytes().replace(b'"r"', rb'"\ud800"'),
        ensure(deferrals=5).to_bytes().replace(b":5", b":-5"),
        SWEEP.to_bytes().replace(b"eu-west-1", b"europe"),
    ],
)
@virtual_time
async def test_what_is_no_command_becomes_a_dead_letter_and_the_rest_goes_on(value: bytes | None):
    async with Bench().running() as bench:
        bench.publisher.stall()
        bench.handle(value)
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(60)
        assert bench.deliveries.open == {0}
        bench.publisher.resume()
        await asyncio.sleep(1)
        (letter,) = bench.publisher.records
        assert (letter.topic, letter.key, letter.value) == ("dead-letters", b"key", value)
        headers = dict(letter.headers)
        assert headers["logwarden-class"] == b"malformed-command"
        assert headers["logwarden-field"]
        assert headers["logwarden-original-partition"] == b"7"
        assert not bench.deliveries.open


@virtual_time
async def test_draining_ends_what_is_calling_and_what_is_being_written_and_drops_the_rest():
    async with Bench().running() as bench:
        bench.seconds = 10
        bench.publisher.stall()
        bench.handle(b"")
        for number in range(20):
            bench.handle(ensure(str(number)).to_bytes())
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().call_later(15, bench.publisher.resume)
        began = asyncio.get_running_loop().time()
        await bench.intake.drain(20)
        assert asyncio.get_running_loop().time() == began + 15
        assert bench.deliveries.finished.keys() == {0, 1, 2}
        await asyncio.sleep(100)
        assert len(bench.worked) == 2


@virtual_time
async def test_a_drain_ends_in_time_whatever_is_late():
    async with Bench().running() as bench:
        bench.seconds = 1000
        bench.publisher.stall()
        bench.handle(b"")
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        await bench.intake.drain(20)
        assert asyncio.get_running_loop().time() == began + 20
        assert bench.deliveries.open == {0, 1}


@virtual_time
async def test_after_a_restart_records_are_worked_again():
    async with Bench().running() as bench:
        await bench.intake.drain(20)
        bench.intake.restart()
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(2)
        assert len(bench.worked) == 1
        assert not bench.deliveries.open


@virtual_time
async def test_a_sweep_that_comes_while_it_drains_is_forgotten_with_the_others():
    async with Bench().running() as bench:
        bench.seconds = 5.0
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(1)
        draining = asyncio.create_task(bench.intake.drain(20))
        await asyncio.sleep(1)
        bench.handle(SWEEP.to_bytes())
        await draining
        bench.intake.restart()
        await asyncio.sleep(60)
        assert bench.deliveries.open == {1}
        assert bench.log_groups.pages == []


@virtual_time
async def test_a_group_that_is_gone_concerns_only_who_waits_to_be_started():
    async with Bench().running() as bench:
        again = ensure("it-was-joined-and-deferred", Trigger.DELETED).deferred(is_strike=False)
        bench.handle(again.to_bytes())
        await asyncio.sleep(2)
        assert [command.deferrals for command in bench.worked] == [1]
    async with Bench().running() as bench:
        bench.handle(ensure("nobody-asked", Trigger.DELETED).to_bytes())
        assert bench.deliveries.finished.keys() == {0}
        bench.handle(ensure("running").to_bytes())
        await asyncio.sleep(0.1)
        bench.handle(ensure("running", Trigger.DELETED).to_bytes())
        assert bench.deliveries.finished.keys() == {0, 2}
        for number in range(10):
            bench.handle(ensure(str(number)).to_bytes())
        bench.handle(ensure("9", Trigger.DELETED).to_bytes())
        await asyncio.sleep(10)
        assert not bench.deliveries.open
        assert Counter(command.log_group.name for command in bench.worked)["9"] == 1


@virtual_time
async def test_what_was_to_be_looked_at_again_is_forgotten_when_the_lanes_may_have_another_owner():
    async with Bench().running() as bench:
        for name in ("kept", "forgotten"):
            bench.verification.ended(Outcome(log_group=group(name), state=State.SEALED, key=key_of()))
            await asyncio.sleep(31.5 if name == "kept" else 0)
        assert [command.trigger for command in bench.worked] == [Trigger.VERIFY]  # no key is shown, so it is ensured
        await bench.intake.drain(20)
        bench.intake.restart()
        await asyncio.sleep(100)
        assert [command.log_group.name for command in bench.worked] == ["kept"]


@virtual_time
async def test_what_is_sealed_while_it_drains_is_looked_at_by_the_next_owners_sweep_and_not_by_us():
    async with Bench().running() as bench:
        bench.seconds = 5.0
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(1)
        draining = asyncio.create_task(bench.intake.drain(20))
        await asyncio.sleep(1)
        bench.verification.ended(Outcome(log_group=group("sealed-late"), state=State.SEALED, key=key_of()))
        await draining
        bench.intake.restart()
        await asyncio.sleep(100)
        assert [command.trigger for command in bench.worked] == [Trigger.CREATED]


NEWER = ensure().to_bytes().replace(b'"v":1', b'"v":2')
NEWER_SWEEP = SWEEP.to_bytes().replace(b"sweep-1", b"sweep-2")
NEWER_KIND = SWEEP.to_bytes().replace(b'"kind":"sweep","v":"sweep-1"', b'"kind":"audit","v":"audit-1"')


@pytest.mark.parametrize("value", [NEWER, NEWER_SWEEP, NEWER_KIND], ids=["command", "sweep", "kind"])
@virtual_time
async def test_what_a_newer_release_wrote_stays_where_it_is_and_is_told_once(value: bytes):
    async with Bench().running() as bench:
        for _ in range(3):
            bench.handle(value)
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(60)
        assert bench.publisher.records == [], "it is no dead letter"
        assert bench.deliveries.open == {0, 1, 2}, "and what comes after it is worked"
        assert bench.observer.too_new == ["work/7/0"] == bench.intake.too_new
        await bench.intake.drain(20)
        assert bench.intake.too_new == [], "it is another's now"


@pytest.mark.parametrize("version", [b"0", b"1.5", b'"2"', b"4000", b'"sweep-0"', b'"sweep-1"', b"null"])
@virtual_time
async def test_a_version_that_no_release_will_have_is_malformed(version: bytes):
    async with Bench().running() as bench:
        bench.handle(ensure().to_bytes().replace(b'"v":1', b'"v":' + version))
        bench.handle(b'{"v":2,"source":"some other application"}')
        await asyncio.sleep(1)
        assert len(bench.publisher.records) == 2
        assert bench.observer.too_new == []


@pytest.mark.parametrize(
    "command", [ensure(), ensure(trigger=Trigger.DELETED), SWEEP], ids=["command", "deletion", "sweep"]
)
@virtual_time
async def test_a_command_that_another_partitioner_misplaced_is_brought_to_its_lane_s_partition(
    command: EnsureCommand | SweepCommand,
):
    async with Bench().running() as bench:
        bench.home = 3
        bench.publisher.stall()
        bench.handle(command.to_bytes())
        await asyncio.sleep(60)
        assert bench.deliveries.open == {0}, "it is finished once it is there"
        bench.publisher.resume()
        await asyncio.sleep(1)
        [record] = bench.publisher.records
        assert (record.topic, record.key, record.value) == ("work", b"111122223333:eu-west-1", command.to_bytes())
        assert bench.observer.misplaced == [("work/7/0", 3)]
        assert not bench.deliveries.open
        assert (bench.worked, bench.log_groups.pages) == ([], []), "its owner does it"


@virtual_time
async def test_replicas_that_know_of_different_numbers_of_partitions_do_not_pass_a_command_to_and_fro():
    async with Bench().running() as bench:
        bench.home = 3
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(1)
        [forwarded] = bench.publisher.records
        bench.home = 4
        bench.handle(forwarded.value, forwarded.headers)
        await asyncio.sleep(2)
        assert bench.worked == [ensure()]
        assert len(bench.publisher.records) == 1
        assert not bench.deliveries.open


@virtual_time
async def test_a_command_is_worked_where_it_is_when_nobody_can_tell_where_it_belongs():
    async with Bench().running() as bench:
        bench.home = None
        bench.handle(ensure().to_bytes())
        await asyncio.sleep(2)
        assert bench.worked == [ensure()]
