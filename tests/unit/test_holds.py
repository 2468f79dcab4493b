"""What the fleet is told of lanes that are held, and what it makes of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from service.core.control import Control
from service.core.holds import Holds
from service.domain.held import VALID_MS, HeldLane, HeldLanes, is_of_a_lane, key_of
from service.domain.outcome import FailureClass
from tests.support.fakes import LANE, OTHER_LANE, lane_number
from tests.support.http import caught_up_already
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import VirtualClock, virtual_time

ROLE = FailureClass.ROLE_NOT_ASSUMABLE


class Fleet:
    """One replica that owns lanes, and what any replica knows that has read the topic to its end."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.publisher = FakePublisher()
        self.known = HeldLanes()

    @property
    def said(self) -> Sequence[tuple[bytes | None, bytes | None]]:
        return [(record.key, record.value) for record in self.publisher.records]

    def read(self) -> HeldLanes:
        """As a replica that starts now reads it."""
        lanes = HeldLanes()
        for key, value in self.said:
            assert key is not None
            lanes.apply(key, value, now_ms=self.clock.epoch_ms())
        return lanes

    def find(self, lane=LANE) -> HeldLane | None:
        return self.read().find(lane, now_ms=self.clock.epoch_ms())

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[Holds]:
        holds = Holds(publisher=self.publisher, clock=self.clock, topic="control", known=self.read())
        running = asyncio.create_task(holds.run())
        yield holds
        running.cancel()
        await asyncio.wait([running])


@virtual_time
async def test_a_lane_is_spoken_of_from_its_second_hold_on_with_the_time_of_the_first_until_it_is_released():
    fleet = Fleet()
    async with fleet.owner() as holds:
        since_ms = fleet.clock.epoch_ms()
        holds.held(LANE, ROLE, "AccessDenied")
        await asyncio.sleep(5)
        assert fleet.said == [], "it may pass"
        holds.held(LANE, ROLE, "AccessDenied")
        await asyncio.sleep(1)
        found = fleet.find()
        assert found is not None
        assert (found.failure, found.detail, found.since_ms) == ("role-not-assumable", "AccessDenied", since_ms)
        assert fleet.find(OTHER_LANE) is None
        holds.released(LANE)
        await asyncio.sleep(1)
        assert fleet.said[-1] == (key_of(LANE), None)
        assert fleet.find() is None


@virtual_time
async def test_a_hold_that_passes_is_not_spoken_of():
    fleet = Fleet()
    async with fleet.owner() as holds:
        holds.held(LANE, ROLE, "?")
        holds.released(LANE)
        holds.released(OTHER_LANE)
        await asyncio.sleep(1)
    assert fleet.said == []


@virtual_time
async def test_the_next_owner_goes_on_with_the_same_hold_at_once():
    fleet = Fleet()
    async with fleet.owner() as first:
        since_ms = fleet.clock.epoch_ms()
        for _ in range(2):
            first.held(LANE, ROLE, "of the first")
            await asyncio.sleep(5)
    async with fleet.owner() as second:
        second.held(LANE, ROLE, "of the second")
        await asyncio.sleep(1)
        found = fleet.find()
        assert found is not None
        assert (found.detail, found.since_ms) == ("of the second", since_ms)


@virtual_time
async def test_what_an_owner_said_who_is_gone_is_void_after_some_minutes_and_forgotten():
    fleet = Fleet()
    async with fleet.owner() as holds:
        for _ in range(2):
            holds.held(LANE, ROLE, "?")
            await asyncio.sleep(5)
    lanes = fleet.read()
    assert lanes.find(LANE, now_ms=fleet.clock.epoch_ms()) is not None
    await asyncio.sleep(VALID_MS / 1000)
    assert lanes.find(LANE, now_ms=fleet.clock.epoch_ms()) is None
    assert len(lanes) == len(fleet.read()) == 0


@virtual_time
async def test_while_kafka_is_away_only_the_last_word_on_each_lane_waits():
    fleet = Fleet()
    fleet.publisher.stall()
    async with fleet.owner() as holds:
        for second in range(20):
            for number in range(3):
                holds.held(lane_number(number), ROLE, f"at {second}")
            await asyncio.sleep(1)
        fleet.publisher.resume()
        await asyncio.sleep(1)
    assert len(fleet.said) <= 4, "one was on its way"
    assert {found.detail for n in range(3) if (found := fleet.find(lane_number(n)))} == {"at 19"}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"no JSON",
        b"[]",
        b"[" * 100_000,
        b'{"v":2,"account":"111122223333","region":"eu-west-1","failure":"x","detail":"x","since":1,"at":1}',
        b'{"v":1,"account":"1","region":"eu-west-1","failure":"x","detail":"x","since":1,"at":1}',
        b'{"v":1,"account":"999900001111","region":"eu-west-1","failure":"x","detail":"x","since":1,"at":1}',
        b'{"v":1,"account":"111122223333","region":"eu-west-1","failure":"x","detail":1,"since":1,"at":1}',
        b'{"v":1,"account":"111122223333","region":"eu-west-1","failure":"x","detail":"x","since":1,"at":1e20}',
        b'{"v":1,"account":"111122223333","region":"eu-west-1","failure":"x","detail":"x","since":1,"at":99999999999999999}',
    ],
)
def test_a_record_that_cannot_be_read_says_nothing_of_the_lane(value):
    lanes = HeldLanes()
    lanes.apply(key_of(LANE), value, now_ms=2)
    assert lanes.find(LANE, now_ms=2) is None


def test_the_word_on_the_whole_service_is_not_touched_by_one_on_a_lane():
    control = Control(publisher=FakePublisher(), clock=VirtualClock(), topic="control", caught_up=caught_up_already)
    control.apply(key_of(LANE), b"whatever")
    assert control.paused is None
    assert is_of_a_lane(key_of(LANE))
    assert not is_of_a_lane(b"pause")
    assert not is_of_a_lane(None)
