"""Sweeps that nobody asks for, in virtual time: who asks, when, and for what."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from service.core.sweep_requests import SweepRequests
from service.core.sweep_schedule import INTERVAL_CALLER, REKEY_CALLER, SweepSchedule
from service.domain.log_group import AccountId, KeyArn, KeyRef, Lane, Region, TenantId
from service.domain.sweep import SweepAsked, SweepCommand, is_sweep_record, sweep_record_from_bytes
from service.domain.sweep_book import SweepBook
from tests.support.fakes import FakeDirectory
from tests.support.http import REQUESTS_TOPIC, WORK_TOPIC, caught_up_already
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import VirtualClock, virtual_time

ACME, BLUE = TenantId("acme"), TenantId("blue")
EU, US = Region("eu-west-1"), Region("us-east-1")
ACCOUNT = AccountId("111122223333")
DAY_S = 86_400.0


@dataclass(slots=True)
class Directory(FakeDirectory):
    """Every tenant has rules in ACCOUNT, and the keys of `of_tenants`."""

    of_tenants: dict[TenantId, dict[Region, KeyRef]] = field(
        default_factory=lambda: {ACME: {EU: KeyArn("a-eu"), US: KeyArn("a-us")}, BLUE: {EU: KeyArn("b-eu")}}
    )
    without_lanes: set[TenantId] = field(default_factory=set)

    async def keys(self) -> Mapping[TenantId, Mapping[Region, KeyRef]]:
        return {tenant: dict(keys) for tenant, keys in self.of_tenants.items()}

    async def lanes(self) -> Collection[Lane]:
        return {Lane(ACCOUNT, region) for keys in self.of_tenants.values() for region in keys}

    async def lanes_of(self, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]]:
        return {
            tenant: {Lane(ACCOUNT, region): key for region, key in self.of_tenants[tenant].items()}
            for tenant in tenants
            if tenant not in self.without_lanes
        }


@dataclass(slots=True)
class Replica:
    sweeps: SweepRequests
    is_first: bool


class Bench:
    """A fleet of replicas that share a requests topic; the first of them may ask."""

    def __init__(self, *, interval_s: float = 0.0, is_rekeying: bool = False) -> None:
        self.interval_s = interval_s
        self.is_rekeying = is_rekeying
        self.publisher = FakePublisher()
        self.directory = Directory()

    @asynccontextmanager
    async def replica(self, *, is_first: bool = True) -> AsyncIterator["Replica"]:
        """One replica, which has read the topic from its beginning."""
        sweeps = SweepRequests(
            publisher=self.publisher,
            clock=VirtualClock(),
            book=SweepBook(capacity=1000),
            requests_topic=REQUESTS_TOPIC,
            work_topic=WORK_TOPIC,
            caught_up=caught_up_already,
        )
        for value in self.publisher.values(REQUESTS_TOPIC):
            sweeps.apply(value)
        replica = Replica(sweeps, is_first)
        schedule = SweepSchedule(
            directory=self.directory,
            sweeps=sweeps,
            clock=VirtualClock(),
            is_ours=lambda: replica.is_first,
            interval_s=self.interval_s,
            is_rekeying=self.is_rekeying,
        )
        running = asyncio.create_task(schedule.run())
        try:
            yield replica
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    @property
    def asked(self) -> list[SweepAsked]:
        records = [sweep_record_from_bytes(v) for v in self.publisher.values(REQUESTS_TOPIC) if is_sweep_record(v)]
        return [record for record in records if isinstance(record, SweepAsked)]

    @property
    def commands(self) -> list[SweepCommand]:
        return [SweepCommand.from_bytes(value) for value in self.publisher.values(WORK_TOPIC)]


@virtual_time
async def test_everything_is_swept_once_in_every_interval_whoever_restarts_meanwhile():
    bench = Bench(interval_s=DAY_S)
    for _ in range(8):
        async with bench.replica(), bench.replica(is_first=False):
            await asyncio.sleep(DAY_S / 2)
    assert len(bench.asked) in {4, 5}, "four days, which need not begin with an interval"
    assert len({asked.id for asked in bench.asked}) == len(bench.asked)
    assert {(asked.caller, asked.lanes) for asked in bench.asked} == {
        (INTERVAL_CALLER, (Lane(ACCOUNT, EU), Lane(ACCOUNT, US)))
    }


@virtual_time
async def test_two_who_ask_at_once_ask_for_one_sweep():
    bench = Bench(interval_s=DAY_S)
    async with bench.replica(), bench.replica():
        await asyncio.sleep(60)
    assert len({asked.id for asked in bench.asked}) == 1


@virtual_time
async def test_nobody_asks_where_neither_is_configured_or_the_first_partition_is_elsewhere():
    bench = Bench(interval_s=DAY_S, is_rekeying=True)
    async with bench.replica(is_first=False):
        await asyncio.sleep(2 * DAY_S)
    bench.interval_s, bench.is_rekeying = 0.0, False
    async with bench.replica():
        await asyncio.sleep(2 * DAY_S)
    assert bench.publisher.records == []


@virtual_time
async def test_a_changed_key_sweeps_the_tenants_groups_in_that_region_alone():
    bench = Bench(is_rekeying=True)
    async with bench.replica():
        await asyncio.sleep(60)
        assert len(bench.asked) == 1, "the first start looks at everything"
        bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu-2")
        await asyncio.sleep(60)
    first, rekey = bench.asked
    assert (rekey.caller, rekey.tenant, rekey.lanes) == (REKEY_CALLER, ACME, (Lane(ACCOUNT, EU),))
    assert bench.commands[-1].key == "a-eu-2"
    assert len(first.lanes) == 2


@virtual_time
async def test_a_change_of_several_tenants_is_a_sweep_for_each_with_its_own_key():
    bench = Bench(is_rekeying=True)
    async with bench.replica():
        await asyncio.sleep(60)
        bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu-2")
        bench.directory.of_tenants[BLUE][EU] = KeyArn("b-eu-2")
        await asyncio.sleep(60)
    assert [(asked.tenant, asked.lanes) for asked in bench.asked[1:]] == [
        (ACME, (Lane(ACCOUNT, EU),)),
        (BLUE, (Lane(ACCOUNT, EU),)),
    ]
    assert [command.key for command in bench.commands[2:]] == ["a-eu-2", "b-eu-2"]
    before, halfway, after = (asked.keys for asked in bench.asked)
    assert before == halfway != after, "the last one says that all is asked for"


@virtual_time
async def test_where_only_some_of_a_change_could_be_asked_for_the_rest_of_it_is_and_nothing_else():
    class Publisher(FakePublisher):
        async def publish(self, record):
            if record.topic == WORK_TOPIC and SweepCommand.from_bytes(record.value).tenant == BLUE and not is_back:
                await asyncio.sleep(60)
            await super().publish(record)

    bench, is_back = Bench(is_rekeying=True), False
    bench.publisher = Publisher()
    async with bench.replica():
        await asyncio.sleep(60)
        bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu-2")
        bench.directory.of_tenants[BLUE][EU] = KeyArn("b-eu-2")
        await asyncio.sleep(15)
        assert [asked.tenant for asked in bench.asked[1:]] == [ACME]
        is_back = True
        await asyncio.sleep(200)
    assert [asked.tenant for asked in bench.asked[2:]] == [ACME, BLUE], "the first once more, which finds all right"


@virtual_time
async def test_after_a_change_of_a_tenant_without_lanes_the_next_one_still_sweeps_its_own_tenant_alone():
    bench = Bench(is_rekeying=True)
    bench.directory.without_lanes.add(BLUE)
    async with bench.replica():
        await asyncio.sleep(60)
        bench.directory.of_tenants[BLUE][EU] = KeyArn("b-eu-2")
        await asyncio.sleep(60)
        assert not bench.asked[-1].lanes
        bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu-2")
        await asyncio.sleep(60)
    assert (bench.asked[-1].tenant, bench.asked[-1].lanes) == (ACME, (Lane(ACCOUNT, EU),))


@virtual_time
async def test_who_asks_again_after_another_did_goes_by_what_that_one_asked_for():
    bench = Bench(is_rekeying=True)
    async with bench.replica() as first:
        await asyncio.sleep(60)
        first.is_first = False
        bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu-2")
        await asyncio.sleep(60)
        async with bench.replica():
            await asyncio.sleep(60)
        asked = len(bench.asked)
        first.sweeps.apply(bench.publisher.values(REQUESTS_TOPIC)[-1])
        bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu")  # as the first one knew it
        first.is_first = True
        await asyncio.sleep(60)
    assert len(bench.asked) == asked + 1


@virtual_time
async def test_a_key_that_changes_while_nobody_runs_is_noticed_at_the_next_start_and_a_mere_restart_asks_nothing():
    bench = Bench(is_rekeying=True)
    async with bench.replica():
        await asyncio.sleep(60)
    async with bench.replica():
        await asyncio.sleep(60)
    assert len(bench.asked) == 1
    bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu-2")
    async with bench.replica():
        await asyncio.sleep(60)
    assert [len(asked.lanes) for asked in bench.asked] == [2, 2]


@virtual_time
async def test_a_key_that_changes_back_is_a_change_too():
    bench = Bench(is_rekeying=True)
    async with bench.replica():
        for key in ("a-eu", "a-eu-2", "a-eu"):
            bench.directory.of_tenants[ACME][EU] = KeyArn(key)
            await asyncio.sleep(60)
    assert [command.key for command in bench.commands[2:]] == ["a-eu-2", "a-eu"]


@virtual_time
async def test_a_tenant_that_is_gone_needs_no_sweep():
    bench = Bench(is_rekeying=True)
    async with bench.replica():
        await asyncio.sleep(60)
        commands = len(bench.commands)
        del bench.directory.of_tenants[BLUE]
        await asyncio.sleep(600)
    assert len(bench.commands) == commands


@virtual_time
async def test_after_a_tenant_is_gone_the_next_changed_key_still_sweeps_its_own_tenant_alone():
    bench = Bench(is_rekeying=True)
    async with bench.replica():
        await asyncio.sleep(60)
        del bench.directory.of_tenants[BLUE]
        await asyncio.sleep(60)
        bench.directory.of_tenants[ACME][EU] = KeyArn("a-eu-2")
        await asyncio.sleep(60)
    assert (bench.asked[-1].tenant, bench.asked[-1].lanes) == (ACME, (Lane(ACCOUNT, EU),))


@virtual_time
async def test_a_restart_after_a_tenant_is_gone_asks_for_nothing():
    bench = Bench(is_rekeying=True)
    async with bench.replica():
        await asyncio.sleep(60)
        del bench.directory.of_tenants[BLUE]
        await asyncio.sleep(60)
    commands = len(bench.commands)
    async with bench.replica():
        await asyncio.sleep(60)
    assert len(bench.commands) == commands


@virtual_time
async def test_keys_of_a_crowd_of_tenants_that_change_at_once_are_one_sweep_of_their_regions():
    bench = Bench(is_rekeying=True)
    crowd = [TenantId(f"t{number}") for number in range(101)]
    bench.directory.of_tenants |= {tenant: {EU: KeyArn("k-1")} for tenant in crowd}
    async with bench.replica():
        await asyncio.sleep(60)
        bench.directory.of_tenants |= {tenant: {EU: KeyArn("k-2")} for tenant in crowd}
        await asyncio.sleep(60)
    assert [(asked.tenant, asked.lanes) for asked in bench.asked[1:]] == [(None, (Lane(ACCOUNT, EU),))]


@virtual_time
async def test_while_kafka_is_away_it_is_tried_again():
    bench = Bench(interval_s=DAY_S, is_rekeying=True)
    bench.publisher.stall()
    async with bench.replica():
        await asyncio.sleep(600)
        assert bench.asked == []
        bench.publisher.resume()
        await asyncio.sleep(120)
    assert [asked.caller for asked in bench.asked] == [REKEY_CALLER, INTERVAL_CALLER]
