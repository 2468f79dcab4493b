"""The record of a pause, and what follows from it; the dispatcher is the real one, in virtual time."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.core.control import Control, PausedByAnotherError
from service.core.dispatcher import Dispatcher
from service.core.turn import Held
from service.core.waiting import CatchingUpError, NotAcknowledgedError
from service.domain.control import (
    KEY,
    MAX_REASON,
    InvalidReasonError,
    MalformedControlRecordError,
    Paused,
    Resumed,
    word_from_record,
)
from service.domain.outcome import FailureClass
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.ports import OutgoingRecord
from tests.support.fakes import OTHER_LANE, Deliveries, busiest_second, ensure, new_lane
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import NothingToWaitForError, VirtualClock, run_in_virtual_time, virtual_time

TOPIC = "control"
BREAK = Paused(by="alice", at_ms=1, reason="a break")
OVER = Resumed(by="bob", at_ms=2)


def of_json(**body):
    return json.dumps(body).encode()


def of_paused(**changes):
    return of_json(**{"v": 1, "state": "paused", "by": "alice", "at": 1, "reason": "a break"} | changes)


# -- the record


@given(st.text(max_size=2000), st.text(max_size=64), st.integers(0, 2_000_000_000_000))
def test_whatever_is_taken_as_a_reason_is_read_back_as_one_line(reason, by, at_ms):
    try:
        pause = Paused.of(by="alice", at_ms=at_ms, reason=reason)
    except InvalidReasonError:
        return
    assert word_from_record(KEY, pause.to_bytes()) == pause
    assert len(pause.reason.splitlines()) == 1
    assert 0 < len(pause.reason) <= MAX_REASON


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode),
    )
)
def test_no_bytes_are_anything_but_a_word_or_malformed(value):
    with pytest.raises(MalformedControlRecordError):
        word_from_record(KEY, value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[" * 16_000,
        of_paused(v=2),
        of_paused(v=None),
        of_paused(state="halted"),
        of_paused(by=7),
        of_paused(by=""),
        of_paused(by="x" * 65),
        of_paused(by="a\nb"),
        of_paused(at="now"),
        of_paused(at=True),
        of_paused(at=-1),
        of_paused(at=10**18),
        of_paused(at=float("nan")),
        of_paused(reason=""),
        of_paused(reason=None),
        of_paused(reason="x" * 501),
        of_paused(reason="one\ntwo"),
        of_paused(reason="\ud800"),
        of_paused(reason="\u202eesrever"),
        of_paused(more="x" * 20_000),
        of_json(v=1, state="resumed", at=1),
    ],
)
def test_what_is_no_word_of_ours_is_refused(value):
    with pytest.raises(MalformedControlRecordError):
        word_from_record(KEY, value)


def test_a_word_is_read_as_it_was_written_and_a_tombstone_is_none():
    assert word_from_record(KEY, BREAK.to_bytes()) == BREAK
    assert word_from_record(KEY, OVER.to_bytes()) == OVER
    assert word_from_record(KEY, of_paused(of_a_later_release=1)) == BREAK
    assert word_from_record(KEY, None) is None


@pytest.mark.parametrize("key", [None, b"", b"other"])
def test_a_record_under_another_key_is_not_ours(key):
    with pytest.raises(MalformedControlRecordError):
        word_from_record(key, BREAK.to_bytes())


def test_the_longest_reason_of_the_widest_characters_fits():
    pause = Paused.of(by="x" * 64, at_ms=1, reason="\U0001f512" * MAX_REASON)
    escaped = json.dumps(json.loads(pause.to_bytes())).encode()
    assert word_from_record(KEY, escaped) == pause


@pytest.mark.parametrize("reason", ["", " \n\t", "x" * 501, "bell \x07", "\u202eesrever"])
def test_what_is_no_reason_is_refused(reason):
    with pytest.raises(InvalidReasonError):
        Paused.of(by="alice", at_ms=1, reason=reason)


def test_white_space_of_any_kind_becomes_single_spaces():
    assert Paused.of(by="alice", at_ms=1, reason=" one\n\ttwo\u00a0three ").reason == "one two three"


# -- the control


class Bench:
    """A control over a topic in memory, and a dispatcher under it whose calls are timed."""

    def __init__(self, work=None, *, latency_s=0.1):
        self.publisher = FakePublisher()
        self.control = Control(publisher=self.publisher, clock=VirtualClock(), topic=TOPIC, caught_up=self.heard)
        self.deliveries = Deliveries()
        self.calls = []
        self.latency_s = latency_s
        self.failure = None
        self.dispatcher = Dispatcher(
            schedule=Schedule(new_lane=new_lane, max_under_way=256),
            work=work or self.work,
            clock=VirtualClock(),
            hold_s=5.0,
            max_hold_s=60.0,
        )
        self.is_reachable = True

    async def heard(self):
        if not self.is_reachable:
            await asyncio.Event().wait()
        self.read()

    def read(self):
        for record in self.publisher.records:
            self.control.apply(record.key, record.value)
        self.publisher.records.clear()

    async def work(self, command, turn):
        async with turn.call(Quota.ASSOCIATE):
            self.calls.append(asyncio.get_running_loop().time())
            await asyncio.sleep(self.latency_s)
        return Held(self.failure, "as told") if self.failure else None

    def submit(self, *names, **more):
        for name in names:
            self.dispatcher.submit(ensure(name, **more), self.deliveries.next())

    @asynccontextmanager
    async def running(self):
        self.control.attach(self.dispatcher)
        await self.control.until_known()
        task = asyncio.create_task(self.dispatcher.run())
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])


@virtual_time
async def test_a_service_that_starts_paused_calls_nobody_and_resumes_at_the_pace_of_its_lanes():
    bench = Bench()
    bench.control.apply(KEY, BREAK.to_bytes())
    async with bench.running():
        bench.submit(*map(str, range(30)))
        bench.submit("x", lane=OTHER_LANE)
        await asyncio.sleep(3600)
        assert bench.calls == []
        assert len(bench.deliveries.open) == 31
        resumed_at = asyncio.get_running_loop().time()
        await bench.control.resume(by="bob", is_forced=True)
        await asyncio.sleep(20)
    assert bench.deliveries.open == set()
    assert min(bench.calls) == resumed_at
    assert busiest_second(bench.calls[2:]) <= 5 + 1, "a little is made up for, as after any delay"


@virtual_time
async def test_what_is_called_when_the_pause_comes_ends_and_what_waits_for_a_token_gets_none():
    bench = Bench(latency_s=1.0)
    async with bench.running():
        bench.submit("calling", "waiting-for-a-token", "third", "fourth", "fifth", "waiting", "seventh")
        await asyncio.sleep(0.3)
        assert len(bench.calls) == 1
        assert bench.dispatcher.schedule.under_way == 1
        await bench.control.pause(by="alice", reason="a break")
        await asyncio.sleep(100)
        assert len(bench.calls) == 1
        assert bench.deliveries.finished == {0: 1}
        await bench.control.resume(by="alice")
        await asyncio.sleep(10)
    assert bench.deliveries.open == set()
    assert bench.deliveries.finished_twice == set()


@virtual_time
async def test_a_command_that_waits_to_try_again_does_not_while_paused():
    tried: list[float] = []

    async def work(command, turn):
        while len(tried) < 2:  # from its beginning, after a pause
            async with turn.call(Quota.ASSOCIATE):
                tried.append(asyncio.get_running_loop().time())
            await turn.pause(5.0)

    bench = Bench(work)
    async with bench.running():
        bench.submit("a")
        await asyncio.sleep(1)
        await bench.control.pause(by="alice", reason="a break")
        await asyncio.sleep(100)
        assert len(tried) == 1
        await bench.control.resume(by="alice")
        await asyncio.sleep(10)
        assert len(tried) == 2
    assert bench.deliveries.open == set()


@virtual_time
async def test_a_held_lane_tries_nothing_while_paused_and_one_command_afterwards():
    bench = Bench()
    bench.failure = FailureClass.UNREACHABLE
    async with bench.running():
        bench.submit("a", "b", "c")
        await asyncio.sleep(2)
        await bench.control.pause(by="alice", reason="a break")
        await asyncio.sleep(0.2)
        tried = len(bench.calls)
        await asyncio.sleep(1000)
        assert len(bench.calls) == tried
        await bench.control.resume(by="alice")
        await asyncio.sleep(1)
        assert len(bench.calls) == tried + 1, "the hold asks one, as ever"
        bench.failure = None
        await asyncio.sleep(60)
    assert bench.deliveries.open == set()


@virtual_time
async def test_a_pause_that_goes_on_and_off_makes_no_call_that_the_quota_has_not():
    bench = Bench()
    async with bench.running():
        bench.submit(*map(str, range(200)))
        while bench.deliveries.open:
            await bench.control.pause(by="alice", reason="a break")
            await asyncio.sleep(0.01)
            await bench.control.resume(by="alice")
            await asyncio.sleep(0.27)
    assert busiest_second(bench.calls) <= 5 + 1, "a little is made up for, as after any delay"


@virtual_time
async def test_a_paused_dispatcher_drains_and_is_still_paused_after_a_rebalance():
    bench = Bench()
    async with bench.running():
        bench.submit("a", "b")
        await asyncio.sleep(0.05)
        await bench.control.pause(by="alice", reason="a break")
        assert await bench.dispatcher.drain(10) == 0
        assert bench.deliveries.open == {0, 1}, "not finished: they are read again"
        bench.dispatcher.restart()
        bench.submit("a", "b")
        await asyncio.sleep(100)
        assert bench.calls == []
        bench.control.apply(KEY, None)
        await asyncio.sleep(5)
        assert len(bench.calls) == 2


def test_a_paused_service_sets_no_timer():
    async def idle():
        bench = Bench()
        async with bench.running():
            bench.submit("a", "b")
            await asyncio.sleep(0.05)
            await bench.control.pause(by="alice", reason="a break")
            await asyncio.Event().wait()

    with pytest.raises(NothingToWaitForError):
        run_in_virtual_time(idle())


@virtual_time
async def test_records_that_are_no_words_are_passed_over_and_the_last_good_one_stays():
    bench = Bench()
    bench.control.apply(KEY, BREAK.to_bytes())
    with capture_logs() as logs:
        for key, value in [(KEY, b"{"), (KEY, b"x" * 1_000_000), (b"other", None), (None, OVER.to_bytes())]:
            bench.control.apply(key, value)
    assert [log["event"] for log in logs] == ["control_record_skipped"] * 4
    assert bench.control.paused == BREAK
    bench.control.apply(KEY, None)
    assert bench.control.paused is None


@virtual_time
async def test_history_is_not_told_but_how_things_stand_and_each_change_from_then_on():
    bench = Bench()
    with capture_logs() as logs:
        for word in (BREAK, OVER, BREAK, BREAK):
            bench.control.apply(KEY, word.to_bytes())
        assert logs == []
        await bench.control.until_known()
        bench.control.apply(KEY, BREAK.to_bytes())
        bench.control.apply(KEY, OVER.to_bytes())
        bench.control.apply(KEY, Resumed(by="carol", at_ms=9).to_bytes())
        bench.control.apply(KEY, BREAK.to_bytes())
        bench.control.apply(KEY, None)
    assert [(log["event"], log["by"]) for log in logs] == [
        ("service_paused", "alice"),
        ("service_resumed", "bob"),
        ("service_paused", "alice"),
        ("service_resumed", None),
    ]


@virtual_time
async def test_the_word_of_another_replica_that_came_later_stands_though_ours_is_acknowledged_last():
    bench = Bench()
    bench.publisher.stall(TOPIC)
    pausing = asyncio.create_task(bench.control.pause(by="alice", reason="a break"))
    await asyncio.sleep(1)
    bench.control.apply(KEY, BREAK.to_bytes())  # ours is on the log, its acknowledgement on the way
    bench.control.apply(KEY, OVER.to_bytes())
    bench.is_reachable = False
    bench.publisher.resume()
    await pausing
    assert bench.control.paused is None


@virtual_time
async def test_a_pause_that_is_asked_for_again_is_the_same_and_with_another_reason_as_old_as_it_was():
    bench = Bench()
    first = await bench.control.pause(by="alice", reason="a break")
    await asyncio.sleep(60)
    assert await bench.control.pause(by="alice", reason=" a  break") == first
    other = await bench.control.pause(by="alice", reason="lunch")
    assert (other.reason, other.at_ms) == ("lunch", first.at_ms)
    assert await bench.control.last_word() == other


@virtual_time
async def test_a_pause_of_somebody_else_stands_and_is_told_to_whoever_comes_second():
    bench = Bench()
    bench.publisher.records.append(
        OutgoingRecord(TOPIC, KEY, BREAK.to_bytes())
    )  # by another replica, and not heard here yet
    with pytest.raises(
        PausedByAnotherError, match=r"alice has paused the service since 1970-01-01T00:00:00.*: a break"
    ):
        await bench.control.pause(by="bob", reason="lunch")
    assert bench.publisher.records == []
    assert bench.control.paused == BREAK


@virtual_time
async def test_a_resume_of_a_service_that_is_not_paused_writes_nothing():
    bench = Bench()
    assert await bench.control.resume(by="bob") is None
    bench.control.apply(KEY, OVER.to_bytes())
    assert await bench.control.resume(by="carol") == OVER
    assert bench.publisher.records == []


@virtual_time
async def test_the_end_of_somebody_elses_pause_takes_force():
    bench = Bench()
    bench.control.apply(KEY, BREAK.to_bytes())
    with pytest.raises(PausedByAnotherError, match=BREAK.by):
        await bench.control.resume(by="bob")
    assert bench.publisher.records == []
    resumed = await bench.control.resume(by="bob", is_forced=True)
    assert isinstance(resumed, Resumed)
    assert (resumed.by, bench.control.paused) == ("bob", None)


@virtual_time
async def test_a_replica_that_is_behind_pauses_all_the_same_and_resumes_where_somebody_insists():
    bench = Bench()
    bench.control.apply(KEY, Paused(by="carol", at_ms=0, reason="over by now, for all that is known here").to_bytes())
    bench.is_reachable = False
    paused = await bench.control.pause(by="alice", reason="a break")
    with pytest.raises(CatchingUpError):
        await bench.control.resume(by="bob")
    resumed = await bench.control.resume(by="bob", is_forced=True)
    assert resumed is not None
    assert [record.value for record in bench.publisher.records] == [paused.to_bytes(), resumed.to_bytes()]


@virtual_time
async def test_a_word_that_kafka_does_not_acknowledge_is_no_word_yet():
    bench = Bench()
    bench.publisher.stall(TOPIC)
    with pytest.raises(NotAcknowledgedError):
        await bench.control.pause(by="alice", reason="a break")
    assert asyncio.get_running_loop().time() == 1010
    assert bench.control.paused is None


@virtual_time
async def test_a_replica_that_cannot_read_the_topic_does_not_tell_the_last_word():
    bench = Bench()
    bench.is_reachable = False
    with pytest.raises(CatchingUpError):
        await bench.control.last_word()
    assert asyncio.get_running_loop().time() == 1005
