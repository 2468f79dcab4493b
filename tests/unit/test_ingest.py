import asyncio
import json
from typing import Any

import pytest

from service.core.dead_letters import DeadLetters
from service.core.ingest import Ingest
from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.dead_letter import DeadLetterLimit
from service.domain.events import EventFormat, EventParser
from service.domain.log_group import LogGroup
from service.domain.outcome import FailureClass
from service.ports import Headers, IncomingRecord
from tests.support.fakes import Deliveries, RecordingObserver
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import virtual_time

AT_MS = 1_750_000_000_000
CREATED = {"type": "log-group-created", "account": "111122223333", "region": "eu-west-1", "log_group": "/app/a"}


def cloudtrail(name: str | None, event: str = "CreateLogGroup") -> dict[str, Any]:
    return {
        "eventVersion": "1.08",
        "eventSource": "logs.amazonaws.com",
        "eventName": event,
        "awsRegion": "eu-west-1",
        "recipientAccountId": "111122223333",
        "requestParameters": {"logGroupName": name},
    }


class Bench:
    def __init__(self, *, max_dead_letters: int = 10_000, parser: EventParser | None = None) -> None:
        self.publisher = FakePublisher()
        self.observer = RecordingObserver()
        self.deliveries = Deliveries()
        self.ingest = Ingest(
            publisher=self.publisher,
            dead_letters=DeadLetters(
                publisher=self.publisher,
                observer=self.observer,
                limit=DeadLetterLimit(max_consecutive=max_dead_letters, max_share=1, window=10_000),
                topic="dead-letters",
                work_topic="work",
            ),
            observer=self.observer,
            work_topic="work",
            parser=parser,
        )

    def handle(self, value: Any, headers: Headers = (("trace", b"1"),)) -> None:
        """Hand over one record: bytes or nothing as they are, anything else as JSON."""
        raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
        delivery = self.deliveries.next()
        record = IncomingRecord("events", 3, delivery.offset, AT_MS, b"key", raw, headers)
        self.ingest.handle(record, delivery)

    @property
    def commands(self) -> list[EnsureCommand]:
        return [EnsureCommand.from_bytes(value) for value in self.publisher.values("work")]

    @property
    def topics(self) -> list[str]:
        return sorted(record.topic for record in self.publisher.records)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@virtual_time
async def test_an_event_becomes_a_command_that_names_where_it_came_from():
    bench = Bench()
    bench.handle(CREATED)
    await settle()
    assert bench.commands == [
        EnsureCommand(
            log_group=LogGroup.of("111122223333", "eu-west-1", "/app/a"),
            trigger=Trigger.CREATED,
            accepted_at_ms=AT_MS,
            origin=Origin("events", 3, 0),
        )
    ]
    assert bench.publisher.records[0].key == b"111122223333:eu-west-1"
    assert bench.observer.events == [(1, None)]
    assert not bench.deliveries.open


@virtual_time
async def test_a_record_of_many_events_becomes_as_many_commands_and_ends_with_the_last():
    bench = Bench()
    bench.publisher.stall()
    bench.handle({"Records": [cloudtrail(f"/app/{number}") for number in range(100)]})
    await asyncio.sleep(60)
    assert bench.deliveries.open == {0}
    bench.publisher.resume()
    await settle()
    assert {command.log_group.name for command in bench.commands} == {f"/app/{number}" for number in range(100)}
    assert bench.observer.events == [(100, None)]
    assert bench.deliveries.finished == {0: 1}


@pytest.mark.parametrize(
    "value",
    [
        cloudtrail("/app/a", "DescribeLogGroups"),
        cloudtrail("/app/a") | {"eventSource": "s3.amazonaws.com"},
        {"Records": [cloudtrail("/app/a", "DescribeLogGroups")]},
        cloudtrail("/app/a") | {"errorCode": "AccessDenied"},
    ],
)
def test_what_does_not_matter_is_finished_on_the_spot(value: Any):
    bench = Bench()  # there is no event loop here: nothing may be started
    bench.handle(value)
    assert bench.publisher.records == []
    assert bench.observer.events == [(0, None)]
    assert not bench.deliveries.open


@pytest.mark.parametrize(
    "value", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, {"type": "other"}, cloudtrail("a b"), cloudtrail(None)]
)
@virtual_time
async def test_what_cannot_be_read_becomes_a_dead_letter_with_its_bytes_unchanged(value: Any):
    bench = Bench()
    bench.publisher.stall()
    bench.handle(value)
    await asyncio.sleep(60)
    assert bench.deliveries.open == {0}
    bench.publisher.resume()
    await settle()
    (letter,) = bench.publisher.records
    assert letter.topic == "dead-letters"
    assert letter.key == b"key"
    assert letter.value == (value if isinstance(value, bytes) or value is None else json.dumps(value).encode())
    headers = dict(letter.headers)
    assert headers["trace"] == b"1"
    assert headers["logwarden-class"] == b"malformed-event"
    assert headers["logwarden-original-topic"] == b"events"
    ((commands, problem),) = bench.observer.events
    assert commands == 0
    assert problem
    assert headers["logwarden-field"] == problem.encode()
    assert not bench.deliveries.open


@pytest.mark.parametrize("last", ["work", "dead-letters"])
@virtual_time
async def test_one_bad_event_among_good_ones_costs_none_of_them(last: str):
    bench = Bench()
    bench.publisher.stall(last)
    bench.handle({"Records": [cloudtrail("/app/a"), cloudtrail("a b"), cloudtrail("/app/c")]})
    await asyncio.sleep(60)
    assert bench.deliveries.open == {0}  # until both are durable, whichever is later
    bench.publisher.resume()
    await settle()
    assert bench.topics == ["dead-letters", "work", "work"]
    assert [command.log_group.name for command in bench.commands] == ["/app/a", "/app/c"]
    assert not bench.deliveries.open
    assert bench.observer.dead_letters == [(FailureClass.MALFORMED_EVENT, "events")]


@virtual_time
async def test_a_dead_letter_tells_of_every_bad_event():
    bench = Bench()
    bench.handle({"Records": [cloudtrail("a b"), cloudtrail("/app/a"), cloudtrail(None)]})
    await settle()
    (letter,) = [record for record in bench.publisher.records if record.topic == "dead-letters"]
    headers = dict(letter.headers)
    assert headers["logwarden-field"] == b"Records[0].requestParameters.logGroupName"
    reason = headers["logwarden-reason"].decode()
    assert reason.startswith("2 problems: Records[0].requestParameters.logGroupName: ")
    assert "; Records[2].requestParameters.logGroupName: is missing" in reason


@virtual_time
async def test_the_headers_of_a_record_are_looked_at():
    bench = Bench()
    bench.handle({"data": CREATED}, headers=[("content-type", b"application/cloudevents+json")])
    await settle()
    assert len(bench.commands) == 1


@virtual_time
async def test_custom_formats_are_read():
    formats = [EventFormat(name="own", log_group_arn="/arn")]
    bench = Bench(parser=EventParser(formats=formats))
    bench.handle({"arn": "arn:aws:logs:eu-west-1:111122223333:log-group:/app/a"})
    await settle()
    assert [command.log_group.name for command in bench.commands] == ["/app/a"]


@virtual_time
async def test_a_record_that_waits_for_the_broker_holds_up_no_other():
    bench = Bench()
    bench.publisher.stall("dead-letters")
    bench.handle(b"{")
    for _ in range(50):
        bench.handle(CREATED)
    await settle()
    assert bench.deliveries.open == {0}
    bench.publisher.resume()
    await settle()
    assert not bench.deliveries.open
    assert not bench.ingest._tasks  # nor is anything remembered that has ended


@virtual_time
async def test_past_the_limit_of_dead_letters_a_record_stays_and_what_it_started_ends():
    bench = Bench(max_dead_letters=0)
    bench.publisher.stall("work")
    bench.handle({"Records": [cloudtrail("/app/a"), cloudtrail("a b")]})
    await asyncio.sleep(60)
    await bench.ingest.drain(20)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    bench.publisher.resume()
    bench.handle({"Records": [cloudtrail("/app/a"), cloudtrail("a b")]})
    bench.handle(CREATED)
    await settle()
    assert bench.deliveries.open == {0, 1}
    assert "dead-letters" not in bench.topics
    assert len(bench.observer.stops) == 1


# -- draining


@virtual_time
async def test_draining_waits_for_what_is_being_written():
    bench = Bench()
    bench.publisher.stall()
    bench.handle(CREATED)
    asyncio.get_running_loop().call_later(5, bench.publisher.resume)
    began = asyncio.get_running_loop().time()
    await bench.ingest.drain(20)
    assert asyncio.get_running_loop().time() == began + 5
    assert not bench.deliveries.open


@pytest.mark.parametrize("deadline_s", [0, 20])
@virtual_time
async def test_what_is_late_in_a_drain_stays_open_and_is_written_no_more(deadline_s: float):
    bench = Bench()
    bench.publisher.stall()
    for _ in range(3):
        bench.handle({"Records": [cloudtrail("/app/a"), cloudtrail("a b")]})
    await bench.ingest.drain(deadline_s)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    bench.publisher.resume()
    await settle()
    assert bench.publisher.records == []
    assert bench.deliveries.open == {0, 1, 2}


@virtual_time
async def test_draining_takes_no_time_when_nothing_is_under_way_and_records_are_taken_afterwards():
    bench = Bench()
    began = asyncio.get_running_loop().time()
    await bench.ingest.drain(20)
    assert asyncio.get_running_loop().time() == began
    bench.ingest.restart()
    bench.handle(CREATED)
    await settle()
    assert not bench.deliveries.open


# -- bugs


@pytest.mark.parametrize("is_before", [True, False])
@virtual_time
async def test_a_bug_ends_the_run_and_leaves_the_record_open(is_before: bool):
    bench = Bench()
    bench.publisher.failure = ZeroDivisionError()
    if is_before:  # it fails before anybody listens
        bench.handle(CREATED)
        await settle()
    run = asyncio.create_task(bench.ingest.run())
    await settle()
    if not is_before:
        bench.handle(CREATED)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(60):
            await run
    assert bench.deliveries.open == {0}


@virtual_time
async def test_a_run_goes_on_until_it_is_cancelled():
    bench = Bench()
    run = asyncio.create_task(bench.ingest.run())
    for _ in range(3):
        bench.handle(CREATED)
        bench.handle(b"{")
        await asyncio.sleep(3600)
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not bench.deliveries.open
