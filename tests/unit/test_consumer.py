"""One member of a group over clients that stand still, or refuse, when the test says so; in virtual time."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, RequestTimedOutError

from service.domain.offsets import Delivery, write_finished
from service.ports import IncomingRecord
from service.stream.commits import PROOF_S
from service.stream.consumer import Consumer, ConsumerLimits
from service.stream.group import LEASE_S, SESSION_S
from tests.support.kafka_client import FakeGroup
from tests.support.virtual_time import VirtualClock, virtual_time

A, B = TopicPartition("work", 0), TopicPartition("work", 1)
LIMITS = ConsumerLimits(
    max_pending=40, commit_interval_s=1, commit_timeout_s=10, rebalance_drain_s=20, fetch_max_wait_ms=500
)


class WorkingClock(VirtualClock):
    """Time passes here also while something is worked, `worked_s`, and between two looks, `ticks_s`."""

    def __init__(self) -> None:
        super().__init__()
        self.worked_s = self.ticks_s = 0.0

    def now(self) -> float:
        self.worked_s += self.ticks_s
        return super().now() + self.worked_s


class Handler:
    """Keeps every delivery open until it is told otherwise; a record takes `takes_s`."""

    def __init__(self, clock: WorkingClock) -> None:
        self._clock = clock
        self.takes_s = 0.0
        self.seen: list[IncomingRecord] = []
        self.open: list[Delivery] = []
        self.draining: asyncio.Event | None = None

    def handle(self, record, delivery):
        self._clock.worked_s += self.takes_s
        self.seen.append(record)
        self.open.append(delivery)

    async def drain(self, deadline_s):
        if self.draining is not None:
            await self.draining.wait()

    def restart(self): ...


class Proofs:
    """The port Membership: when what it was told was asked for."""

    def __init__(self) -> None:
        self.proven_at: list[float] = []
        self.refutations = 0

    def proven(self, sent_at):
        self.proven_at.append(sent_at)

    def refuted(self):
        self.refutations += 1


class Bench:
    def __init__(self, *, limits: ConsumerLimits = LIMITS) -> None:
        self.group = FakeGroup({A: 100, B: 100})
        self.generation = 0
        self.client = self.group.client()
        self.proofs, self.clock = Proofs(), WorkingClock()
        self.handler = Handler(self.clock)
        self.member = Consumer(
            name="worker",
            group="group",
            topics=["work"],
            arguments={},
            handler=self.handler,
            limits=limits,
            clock=self.clock,
            membership=self.proofs,
        )

    async def assign(self, *partitions: TopicPartition) -> None:
        """A rebalance as aiokafka does it."""
        await self.member.revoked(self.client)
        self.generation += 1
        self.member.assigned(self.client, set(partitions), self.generation)

    async def read(self, tp: TopicPartition, *offsets: int) -> bool:
        records = [ConsumerRecord(tp.topic, tp.partition, at, 0, 0, b"k", b"v", None, 1, 1, ()) for at in offsets]
        return await self.member._hand_over({tp: records})

    @asynccontextmanager
    async def running(self):
        """The timers of a member, without the poll."""
        tasks = [
            asyncio.create_task(self.member._commits.run(self.client)),
            asyncio.create_task(self.member._watch.measure(self.client)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self.member._stop_adopting()

    @asynccontextmanager
    async def polling(self, *partitions: TopicPartition):
        await self.assign(*partitions)
        task = asyncio.create_task(self.member._poll_forever(self.client))
        try:
            await asyncio.sleep(0.01)
            yield self.client._fetcher
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.member._stop_adopting()

    async def finish(self, count: int) -> None:
        for delivery in self.handler.open[:count]:
            delivery.finish()
        del self.handler.open[:count]
        await asyncio.sleep(0)

    def lags(self) -> list[int | None]:
        return [status.lag for status in self.member.partitions()]


# -- reading


@virtual_time
async def test_as_many_records_are_read_at_once_as_are_handled_in_ten_milliseconds():
    bench = Bench(limits=replace(LIMITS, max_pending=100_000))
    await bench.assign(A)
    at_once, begin = [bench.member._with_room()[1]], 0
    for takes_s, count in [(0.0001, 1000), (0.00002, 100), (0.001, 500), (0.000001, 50)]:
        bench.handler.takes_s = takes_s
        await bench.read(A, *range(begin, begin + count))
        begin += count
        at_once.append(bench.member._with_room()[1])
    assert at_once == pytest.approx([1000, 100, 500, 50, 1000], abs=1)
    bench.clock.ticks_s = 0.001
    await bench.member._hand_over({})
    assert bench.member._with_room()[1] == 1000, "a poll that finds nothing says nothing"


# -- taking over


@virtual_time
async def test_taking_partitions_over_is_not_waited_for_so_that_heartbeats_go_on():
    bench = Bench()
    bench.group.committed = {A: (10, write_finished(10, [11])), B: (7, "")}
    bench.group.answers.clear()
    before = bench.clock.now()
    await bench.assign(A, B)
    assert (bench.member.is_joined, bench.member.has_joined.is_set()) == (True, True)
    handing_over = asyncio.create_task(bench.read(A, 10, 11, 12))
    await asyncio.sleep(9)
    assert bench.handler.seen == [], "it is not known yet what the former owner finished"
    bench.group.answers.set()
    await asyncio.sleep(0.1)
    assert [record.offset for record in bench.handler.seen] == [10, 12]
    assert handing_over.result()
    assert bench.clock.now() - before < SESSION_S
    await bench.member._stop_adopting()


@virtual_time
async def test_partitions_that_are_taken_away_before_that_is_known_hand_over_nothing():
    bench = Bench()
    bench.group.answers.clear()
    await bench.assign(A)
    handing_over = asyncio.create_task(bench.read(A, 0, 1))
    await asyncio.sleep(1)
    await bench.member.revoked(bench.client)
    await bench.assign(B)
    bench.group.answers.set()
    await asyncio.sleep(1)
    assert handing_over.result() is False
    assert bench.handler.seen == []
    assert await bench.read(B, 0)
    await bench.member._stop_adopting()


@virtual_time
async def test_once_partitions_are_being_given_up_nothing_more_of_them_is_handed_over():
    bench = Bench()
    await bench.assign(A)
    assert await bench.read(A, 0)
    bench.handler.draining = asyncio.Event()
    revoking = asyncio.create_task(bench.member.revoked(bench.client))
    await asyncio.sleep(1)
    assert not await bench.read(A, 1), (
        "whoever is next reads it; in our queue it would be called for in its lane after the drain"
    )
    assert [record.offset for record in bench.handler.seen] == [0]
    bench.handler.draining.set()
    await revoking


@virtual_time
async def test_where_it_cannot_be_known_records_are_handed_over_after_a_while():
    bench = Bench()
    bench.group.answers.clear()
    await bench.assign(A)
    assert await bench.read(A, 0, 1)
    assert len(bench.handler.seen) == 2
    await bench.member._stop_adopting()


# -- polling


async def _at_once() -> None:
    """Some turns of the loop, in which no time passes."""
    for _ in range(10):
        await asyncio.sleep(0)


@virtual_time
async def test_records_are_handed_over_as_they_come_and_an_idle_member_polls_once_a_second():
    bench = Bench()
    async with bench.polling(A, B) as fetcher:
        fetcher.bring(B, [0, 1])
        await _at_once()
        assert [record.offset for record in bench.handler.seen] == [0, 1]
        polls = bench.client.polls
        await asyncio.sleep(60)
        assert bench.client.polls - polls == pytest.approx(60, abs=1)


@virtual_time
async def test_a_partition_that_is_held_back_costs_nothing_until_it_has_room_and_is_read_at_once_then():
    bench = Bench()  # of the limit of 40 a half for all together, and after that 5 for each
    async with bench.polling(A, B) as fetcher:
        fetcher.bring(A, range(200))
        await _at_once()
        assert [status.is_held_back for status in bench.member.partitions()] == [True, False]
        held, polls = len(bench.handler.open), bench.client.polls
        await asyncio.sleep(60)
        assert len(bench.handler.open) == held
        assert bench.client.polls - polls == pytest.approx(60, abs=1)
        fetcher.bring(B, [0])
        await _at_once()
        assert bench.handler.seen[-1].partition == B.partition, "held back is one of the two"
        seen = len(bench.handler.seen)
        bench.handler.open.pop().finish()  # B's: that is no room for A
        polls = bench.client.polls
        await _at_once()
        assert (len(bench.handler.seen), bench.client.polls) == (seen, polls)
        await bench.finish(held - 19)
        await _at_once()
        assert len(bench.handler.seen) > seen


@virtual_time
async def test_with_every_partition_held_back_a_member_stays_alive_and_goes_on_at_once():
    bench = Bench()
    async with bench.polling(A) as fetcher:
        fetcher.bring(A, range(200))
        await _at_once()
        seen, polls = len(bench.handler.seen), bench.client.polls
        await asyncio.sleep(60)
        assert len(bench.handler.seen) == seen < 200
        assert bench.client.polls - polls == pytest.approx(60, abs=1)
        assert bench.member.last_poll == pytest.approx(bench.clock.now(), abs=1)
        while len(bench.handler.seen) < 200:
            before = len(bench.handler.seen)
            await bench.finish(len(bench.handler.open))
            await _at_once()
            assert len(bench.handler.seen) > before


@virtual_time
async def test_partitions_that_are_new_are_read_as_soon_as_their_records_come():
    bench = Bench()
    async with bench.polling(A) as fetcher:
        fetcher.bring(A, range(200))
        await _at_once()
        await bench.assign(B)
        fetcher.bring(B, [7])
        await asyncio.sleep(0.01)
        assert (bench.handler.seen[-1].partition, bench.handler.seen[-1].offset) == (B.partition, 7)


# -- committing


@virtual_time
async def test_a_commit_that_is_not_answered_ends_and_the_next_one_makes_up_for_it():
    bench = Bench()
    await bench.assign(A)
    async with bench.running():
        await bench.read(A, 0, 1, 2)
        bench.group.answers.clear()
        for delivery in bench.handler.open:
            delivery.finish()
        await asyncio.sleep(60)
        assert A not in bench.group.committed or bench.group.committed[A] == (0, "")
        bench.group.answers.set()
        await asyncio.sleep(LIMITS.commit_timeout_s + 1)
        assert bench.group.committed[A] == (3, "")
        assert bench.member.partitions()[0].committed == 3


@virtual_time
async def test_membership_is_proven_when_partitions_are_taken_over_and_again_and_again_though_nothing_moves(
    monkeypatch,
):
    bench = Bench()
    bench.group.committed = {B: (7, "f1:7:1.1")}
    start = bench.clock.now()
    await bench.assign(A, B)
    async with bench.running():
        await asyncio.sleep(60)
    assert bench.proofs.proven_at[0] == start
    gaps = [later - earlier for earlier, later in zip(bench.proofs.proven_at, bench.proofs.proven_at[1:], strict=False)]
    assert max(gaps) <= PROOF_S < LEASE_S / 3
    assert bench.group.committed | {A: (0, "")} == {A: (0, ""), B: (7, "f1:7:1.1")}, (
        "what is committed stays what it is"
    )


@virtual_time
async def test_a_proof_counts_from_when_it_was_asked_for():
    bench = Bench()
    await bench.assign(A)
    await asyncio.sleep(0.5)
    bench.group.answers.clear()
    async with bench.running():
        await asyncio.sleep(4)
        asked_at = bench.clock.now() - 2  # the second tick of the timer: at the first there was nothing to ask for yet
        bench.group.answers.set()
        await asyncio.sleep(0.1)
        assert bench.proofs.proven_at[-1] == asked_at


@virtual_time
async def test_one_proof_that_is_never_answered_keeps_no_call_back():
    bench = Bench()
    await bench.assign(A)
    async with bench.running():
        await asyncio.sleep(4.5)
        bench.group.answers.clear()
        await asyncio.sleep(2)
        bench.group.answers = asyncio.Event()  # the one that is asked for now is never answered, the next one is
        bench.group.answers.set()
        await asyncio.sleep(10)
        proofs = bench.proofs.proven_at
        assert 4 < max(later - earlier for earlier, later in pairwise(proofs)) < LEASE_S


@pytest.mark.parametrize("refusal", [CommitFailedError("gone"), IllegalStateError("not assigned")])
def test_a_commit_that_the_group_refuses_refutes_it(refusal):
    @virtual_time
    async def test():
        bench = Bench()
        await bench.assign(A)
        joined_at, refutations = bench.clock.now(), bench.proofs.refutations
        bench.group.refuses = refusal
        async with bench.running():
            await asyncio.sleep(5)
        assert bench.proofs.refutations > refutations
        assert bench.proofs.proven_at == [joined_at]

    test()


@virtual_time
async def test_a_commit_that_fails_proves_nothing_either_way():
    bench = Bench()
    await bench.assign(A)
    before = (list(bench.proofs.proven_at), bench.proofs.refutations)
    bench.group.refuses = RequestTimedOutError()
    async with bench.running():
        await asyncio.sleep(5)
    assert (bench.proofs.proven_at, bench.proofs.refutations) == before


@virtual_time
async def test_partitions_that_are_given_up_are_ours_no_longer():
    bench = Bench()
    await bench.assign(A)
    await asyncio.sleep(1)
    before = bench.proofs.refutations
    await bench.member.revoked(bench.client)
    assert bench.proofs.refutations == before + 1


@virtual_time
async def test_a_join_proves_membership_from_when_the_last_partitions_were_given_up():
    bench = Bench()
    await bench.member.revoked(bench.client)
    gave_up_at = bench.clock.now()
    await asyncio.sleep(3)  # for others to give up theirs
    bench.generation += 1
    bench.member.assigned(bench.client, {A}, bench.generation)
    assert bench.proofs.proven_at == [gave_up_at]
    await bench.member._stop_adopting()


@virtual_time
async def test_a_partition_is_ours_since_it_was_first_assigned_through_rebalances_in_which_we_took_part():
    bench = Bench()
    start = bench.clock.now()

    async def owned_since(*partitions: TopicPartition) -> dict[TopicPartition, float]:
        await asyncio.sleep(10)
        await bench.assign(*partitions)
        return {tp: ledger.owned_since - start for tp, ledger in bench.member._ledgers.items()}

    assert await owned_since(A) == {A: 10}
    assert await owned_since(A, B) == {A: 10, B: 20}
    assert await owned_since(A) == {A: 10}
    assert await owned_since(A, B) == {A: 10, B: 40}, "it was somebody else's in between"
    bench.generation += 1  # a rebalance without us
    assert await owned_since(A, B) == {A: 50, B: 50}
    assert await owned_since() == {}
    assert await owned_since(A) == {A: 70}
    await bench.member._stop_adopting()


# -- lag


@virtual_time
async def test_lag_is_from_the_committed_offset_to_the_end_also_of_what_is_held_back():
    bench = Bench()
    bench.group.begins[B] = 60
    await bench.assign(A, B)
    async with bench.running():
        await asyncio.sleep(1)
        assert bench.lags() == [100, 40], "of what nobody has committed yet from the beginning on"
        await bench.read(A, *range(30))
        assert [status.is_held_back for status in bench.member.partitions()] == [True, False]
        for delivery in bench.handler.open[:20]:
            delivery.finish()
        bench.group.ends[A] = 500
        await asyncio.sleep(6)
        assert bench.lags() == [480, 40]
        assert bench.member.partitions()[0].unmoved_s == pytest.approx(5, abs=1)


@virtual_time
async def test_asking_for_the_ends_neither_hangs_nor_ends_with_the_broker_away():
    bench = Bench()
    await bench.assign(A)
    async with bench.running():
        await asyncio.sleep(1)
        bench.group.answers.clear()
        await asyncio.sleep(600)
        assert bench.lags() == [100], "the last that is known"
        bench.group.ends[A] = 200
        bench.group.answers.set()
        await asyncio.sleep(6)
        assert bench.lags() == [200]


@virtual_time
async def test_a_partition_counts_as_unmoved_from_when_there_was_something_to_do():
    bench = Bench()
    bench.group.ends[A] = 0
    await bench.assign(A)
    async with bench.running():
        await asyncio.sleep(3600)
        assert bench.member.partitions()[0].unmoved_s == 0
        bench.group.ends[A] = 10
        await asyncio.sleep(60)
        assert 55 <= bench.member.partitions()[0].unmoved_s <= 65
