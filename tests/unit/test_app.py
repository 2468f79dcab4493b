"""The composition root, as far as it decides something itself."""

import asyncio
from types import SimpleNamespace

import pytest

from service.app import App
from service.domain.log_group import AccountId, Lane, Region
from service.settings import Settings
from service.stream.connection import Deadline, close_quietly
from service.stream.topics import topics_to_retry
from tests.support.virtual_time import virtual_time


def app_of(*consumers):
    app = App(Settings())
    app._consumers += consumers
    return app


def member():
    return SimpleNamespace(name="worker", has_joined=asyncio.Event())


@virtual_time
async def test_a_process_is_ready_when_each_of_its_consumers_has_had_its_first_assignment():
    first, second = member(), member()
    app, stop = app_of(first, second), asyncio.Event()
    waiting = asyncio.create_task(app._until_joined(stop))
    await asyncio.sleep(60)
    assert app._not_ready == "starting: consumers join their groups"
    second.has_joined.set()
    await asyncio.sleep(60)
    assert not waiting.done()
    first.has_joined.set()
    await asyncio.sleep(0.1)
    assert waiting.done()
    assert app._not_ready is None


@virtual_time
async def test_a_process_without_consumers_is_ready_at_once():
    app = app_of()
    await app._until_joined(asyncio.Event())
    assert app._not_ready is None
    await asyncio.sleep(0)


@virtual_time
async def test_a_process_that_is_to_stop_waits_for_no_assignment_and_does_not_become_ready():
    app, stop = app_of(member()), asyncio.Event()
    waiting = asyncio.create_task(app._until_joined(stop))
    await asyncio.sleep(1)
    app._not_ready = "stopping"
    stop.set()
    await asyncio.wait_for(waiting, 1)
    assert app._not_ready == "stopping"


def test_a_lane_has_the_rate_that_is_set_for_it_and_all_others_that_of_all():
    app = App(Settings(rate_per_s=5.0, lane_rates_per_s={"111122223333:eu-west-1": 2.0}))
    special = Lane(AccountId("111122223333"), Region("eu-west-1"))
    other = Lane(AccountId("111122223333"), Region("eu-west-2"))
    rates = [app._new_lane(lane, 0.0).status(0.0).ceiling_per_s for lane in (special, other)]
    assert rates == [2.0, 5.0]


# -- one deadline for the whole stop


@virtual_time
async def test_however_many_parts_hang_a_stop_ends_in_time_and_each_part_has_had_its_share():
    deadline, loop = Deadline(), asyncio.get_running_loop()

    async def hangs() -> None:
        await asyncio.Event().wait()

    assert deadline.share_s() == 10, "before it begins there is none"
    deadline.begin(15)
    began, shares = loop.time(), []
    for number in range(10):
        shares.append(deadline.share_s())
        await close_quietly(f"client {number}", hangs, timeout_s=shares[-1])
    assert loop.time() - began < 15
    assert shares[:3] == pytest.approx([5, 10 / 3, 20 / 9])
    await asyncio.sleep(60)
    assert deadline.share_s() == 0


# -- retry topics


def test_a_retry_topic_that_the_settings_know_no_more_is_read_all_the_same():
    settings = Settings(retry_topic="a.retry", retry_delays_s=[1, 2])
    present = ["a.retry.1", "a.retry.2", "a.retry.3", "a.retry.17", "a.retry", "a.retry.x", "a.retry.03", "b.a.retry.4"]
    assert topics_to_retry(settings, present) == ["a.retry.1", "a.retry.17", "a.retry.2", "a.retry.3"]
    assert topics_to_retry(Settings(retry_topic="a+retry", retry_delays_s=[]), ["aaretry.1"]) == []
