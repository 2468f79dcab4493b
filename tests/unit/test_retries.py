import asyncio

import pytest

from service.core.retries import Retries
from service.core.worker import DUE_HEADER
from service.ports import IncomingRecord
from tests.support.fakes import Deliveries
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import VirtualClock, virtual_time

LONGEST_DELAY_S = 36_000.0


class Bench:
    def __init__(self) -> None:
        self.publisher = FakePublisher()
        self.clock = VirtualClock()
        self.deliveries = Deliveries()
        self.retries = Retries(
            publisher=self.publisher, clock=self.clock, work_topic="work", longest_delay_s=LONGEST_DELAY_S
        )

    def handle(self, value: bytes, *, due: bytes | None = b"", due_in_s: float | None = None) -> None:
        """Hand over one record; `due` is the header as it stands, b"" for no header at all."""
        if due_in_s is not None:
            due = str(self.clock.epoch_ms() + round(due_in_s * 1000)).encode()
        headers = [] if due == b"" else [(DUE_HEADER, due)]
        delivery = self.deliveries.next()
        self.retries.handle(IncomingRecord("retry.1", 0, delivery.offset, 0, b"lane", value, headers), delivery)  # type: ignore[arg-type]  # a header's value may be null on the wire

    @property
    def forwarded(self) -> list[bytes]:
        return list(self.publisher.values("work"))


@virtual_time
async def test_a_record_goes_back_to_the_work_topic_when_it_is_due_and_as_it_came():
    bench = Bench()
    bench.handle(b"command", due_in_s=30)
    await asyncio.sleep(29.99)
    assert bench.publisher.records == []
    assert bench.retries.held == 1
    assert bench.deliveries.open == {0}
    await asyncio.sleep(0.02)
    (record,) = bench.publisher.records
    assert (record.topic, record.key, record.value, record.headers) == ("work", b"lane", b"command", ())
    assert bench.retries.held == 0
    assert not bench.deliveries.open


@virtual_time
async def test_a_record_is_finished_when_it_is_on_the_work_topic():
    bench = Bench()
    bench.publisher.stall()
    bench.handle(b"command", due_in_s=1)
    await asyncio.sleep(60)
    assert bench.deliveries.open == {0}
    bench.publisher.resume()
    await asyncio.sleep(1)
    assert not bench.deliveries.open


@virtual_time
async def test_records_go_back_in_the_order_in_which_they_are_due():
    bench = Bench()
    for value, due_in_s in ((b"c", 600.0), (b"a", 5.0), (b"b1", 30.0), (b"b2", 30.0)):
        bench.handle(value, due_in_s=due_in_s)
    await asyncio.sleep(6)
    assert bench.forwarded == [b"a"]
    await asyncio.sleep(600)
    assert bench.forwarded == [b"a", b"b1", b"b2", b"c"]


@pytest.mark.parametrize(
    "due",
    [b"", None, b"0", b"-5", b"soon", b"\xff", b"1e400", b"9" * 16, b"9" * 5000, "٣".encode(), b" 5", b"5.5", b"0x10"],
)
@virtual_time
async def test_a_record_that_does_not_say_when_is_due_now(due: bytes | None):
    bench = Bench()
    bench.handle(b"command", due=due)
    await asyncio.sleep(0.1)
    assert bench.forwarded == [b"command"]
    assert not bench.deliveries.open


@virtual_time
async def test_a_record_of_long_ago_is_due_now_and_one_of_the_far_future_holds_up_no_other():
    bench = Bench()
    bench.handle(b"never", due=b"9" * 15)
    bench.handle(b"long ago", due_in_s=-3600)
    bench.handle(b"soon", due_in_s=3)
    await asyncio.sleep(5)
    assert bench.forwarded == [b"long ago", b"soon"]
    await asyncio.sleep(LONGEST_DELAY_S - 60)
    assert bench.retries.held == 1
    assert bench.deliveries.open == {0}
    await bench.retries.drain(0)


@virtual_time
async def test_a_clock_that_is_set_forward_is_noticed_within_the_hour():
    bench = Bench()
    bench.handle(b"command", due_in_s=86_400)
    await asyncio.sleep(10)
    bench.clock.skew_ms = 86_400_000
    await asyncio.sleep(3600)
    assert bench.forwarded == [b"command"]


@virtual_time
async def test_a_clock_that_is_set_back_makes_a_record_wait_for_its_time():
    bench = Bench()
    bench.handle(b"command", due_in_s=30)
    bench.clock.skew_ms = -60_000
    await asyncio.sleep(60)
    assert bench.forwarded == []
    await asyncio.sleep(31)
    assert bench.forwarded == [b"command"]


@virtual_time
async def test_ten_thousand_records_that_are_due_together_go_back_together():
    bench = Bench()
    for number in range(10_000):
        bench.handle(str(number).encode(), due_in_s=30)
    await asyncio.sleep(31)
    assert len(bench.forwarded) == 10_000
    assert not bench.deliveries.open
    assert not bench.deliveries.finished_twice


# -- draining


@virtual_time
async def test_draining_drops_what_is_not_due_and_ends_what_is_being_written():
    bench = Bench()
    bench.publisher.stall()
    bench.handle(b"due")
    bench.handle(b"later", due_in_s=10)
    asyncio.get_running_loop().call_later(5, bench.publisher.resume)
    began = asyncio.get_running_loop().time()
    await bench.retries.drain(20)
    assert asyncio.get_running_loop().time() == began + 5
    assert bench.forwarded == [b"due"]
    assert bench.deliveries.open == {1}
    await asyncio.sleep(3600)
    assert bench.forwarded == [b"due"]
    assert bench.retries.held == 0


@virtual_time
async def test_what_is_late_in_a_drain_is_left_to_the_next_owner():
    bench = Bench()
    bench.publisher.stall()
    bench.handle(b"due")
    await bench.retries.drain(20)
    bench.publisher.resume()
    await asyncio.sleep(3600)
    assert bench.forwarded == []
    assert bench.deliveries.open == {0}


@virtual_time
async def test_after_a_restart_records_are_held_and_sent_as_before():
    bench = Bench()
    bench.handle(b"before", due_in_s=10)
    await bench.retries.drain(20)
    bench.retries.restart()
    bench.handle(b"after", due_in_s=10)
    await asyncio.sleep(11)
    assert bench.forwarded == [b"after"]
    assert bench.deliveries.open == {0}


@virtual_time
async def test_a_time_that_nobody_gives_does_not_hold_a_record_for_ever():
    bench = Bench()
    bench.handle(b"next year", due_in_s=31_536_000)
    await asyncio.sleep(LONGEST_DELAY_S + 1)
    assert bench.publisher.values("work") == [b"next year"]
    assert not bench.deliveries.open
