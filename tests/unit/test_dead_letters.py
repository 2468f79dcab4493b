import asyncio
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.core.dead_letters import DeadLetters
from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.dead_letter import dead_letter_headers
from service.domain.outcome import FailureClass
from service.ports import IncomingRecord, Observer, OutgoingRecord, RecordTooLargeError
from service.telemetry.metrics import Metrics
from tests.support.fakes import RecordingObserver, ensure, group, unlimited
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import virtual_time

RECORD = IncomingRecord(
    topic="events",
    partition=3,
    offset=42,
    timestamp_ms=1_750_000_000_000,
    key=b"\xff key",
    value=b"\x00\xff not json",
    headers=[("trace", b"1"), ("trace", b"2"), ("empty", b"")],
)
EXPLANATION = {
    "logwarden-class": b"malformed-event",
    "logwarden-fault": b"platform",
    "logwarden-reason": b"is not JSON",
    "logwarden-hint": FailureClass.MALFORMED_EVENT.hint.encode(),
    "logwarden-field": b"value",
    "logwarden-original-topic": b"events",
    "logwarden-original-partition": b"3",
    "logwarden-original-offset": b"42",
    "logwarden-original-timestamp-ms": b"1750000000000",
}


@dataclass(slots=True)
class StrictBroker:
    """Refuses records of more than `max_bytes`, counted as Kafka does: key, value and headers."""

    max_bytes: int
    records: list[OutgoingRecord] = field(default_factory=list)

    async def publish(self, record: OutgoingRecord) -> None:
        size = len(record.key or b"") + len(record.value or b"") + sum(len(n) + len(v) for n, v in record.headers)
        if size > self.max_bytes:
            raise RecordTooLargeError(str(size))
        self.records.append(record)


def letters(publisher: FakePublisher | StrictBroker, observer: Observer | None = None) -> DeadLetters:
    return DeadLetters(
        publisher=publisher,
        observer=observer or RecordingObserver(),
        limit=unlimited(),
        topic="dead-letters",
        work_topic="work",
    )


async def send(publisher: FakePublisher | StrictBroker, record: IncomingRecord) -> OutgoingRecord:
    await letters(publisher).send_record(record, FailureClass.MALFORMED_EVENT, "is not JSON", field="value")
    return publisher.records[-1]


async def test_a_record_keeps_its_bytes_and_gets_an_explanation_beside_them():
    letter = await send(FakePublisher(), RECORD)
    assert (letter.topic, letter.key, letter.value) == ("dead-letters", RECORD.key, RECORD.value)
    assert list(letter.headers[:3]) == list(RECORD.headers)
    assert dict(letter.headers[3:]) == EXPLANATION


@pytest.mark.parametrize(("key", "value"), [(None, b"x"), (b"k", None), (None, None), (b"", b"")])
async def test_nothing_and_empty_stay_what_they_are(key: bytes | None, value: bytes | None):
    letter = await send(FakePublisher(), replace(RECORD, key=key, value=value))
    assert (letter.key, letter.value) == (key, value)


async def test_a_replayed_record_that_dies_again_carries_one_explanation():
    publisher = FakePublisher()
    first = await send(publisher, RECORD)
    again = replace(RECORD, topic="events", offset=99, headers=first.headers)
    letter = await send(publisher, again)
    names = [name for name, _ in letter.headers if name.startswith("logwarden-")]
    assert sorted(names) == sorted(EXPLANATION)
    assert dict(letter.headers)["logwarden-original-offset"] == b"99"
    assert [value for name, value in letter.headers if name == "trace"] == [b"1", b"2"]


async def test_a_value_too_large_for_the_broker_is_left_out_and_the_letter_says_so():
    letter = await send(StrictBroker(max_bytes=2000), replace(RECORD, value=b"x" * 5000))
    assert (letter.key, letter.value) == (RECORD.key, None)
    assert dict(letter.headers) == dict(RECORD.headers) | EXPLANATION | {"logwarden-value-omitted": b"5000"}


@pytest.mark.parametrize(
    "huge",
    [
        replace(RECORD, headers=[("x", b"x" * 5000)]),
        replace(RECORD, headers=[("x" * 5000, b"x")]),
        replace(RECORD, key=b"k" * 5000),
        replace(RECORD, key=b"k" * 5000, headers=[("x", b"x" * 5000)], value=b"x" * 5000),
    ],
)
async def test_no_record_is_so_large_that_its_letter_cannot_be_written(huge: IncomingRecord):
    # Anything else would stop its partition for good: the record is read again after each restart.
    letter = await send(StrictBroker(max_bytes=2000), huge)
    assert EXPLANATION.items() <= dict(letter.headers).items()
    assert dict(letter.headers)["logwarden-value-omitted"] == str(len(huge.value or b"")).encode()


async def test_an_explanation_stays_small_and_can_be_written_whatever_the_reason():
    for reason in ("x" * 1_000_000, "\ud800", "é\n\x00", ""):
        headers = dict(dead_letter_headers(FailureClass.UNRECOGNISED, reason, field=None, original_offset=0))
        assert sum(len(name) + len(value) for name, value in headers.items()) < 6000
        assert headers.keys() == {
            "logwarden-class",
            "logwarden-fault",
            "logwarden-reason",
            "logwarden-hint",
            "logwarden-original-offset",
        }


async def test_a_command_dies_with_the_record_that_first_asked_for_it():
    publisher, observer = FakePublisher(), RecordingObserver()
    command = EnsureCommand(
        log_group=group(), trigger=Trigger.CREATED, accepted_at_ms=1, origin=Origin("events", 3, 42)
    )
    await letters(publisher, observer).send_command(command, FailureClass.KEY_NOT_FOUND, "no such key")
    (letter,) = publisher.records
    assert (letter.topic, letter.key) == ("dead-letters", command.partition_key)
    assert EnsureCommand.from_bytes(letter.value) == command
    headers = dict(letter.headers)
    assert headers["logwarden-original-topic"] == b"work"
    assert headers["logwarden-source"] == b"events/3/42"
    assert headers["logwarden-class"] == b"key-not-found"
    assert headers["logwarden-reason"] == b"no such key"
    assert observer.dead_letters == [(FailureClass.KEY_NOT_FOUND, "work")]


async def test_a_command_without_an_origin_names_none():
    publisher = FakePublisher()
    await letters(publisher).send_command(ensure(), FailureClass.KEY_NOT_FOUND, "x")
    assert "logwarden-source" not in dict(publisher.records[0].headers)


@virtual_time
async def test_a_dead_letter_counts_when_it_is_durable():
    publisher, observer = FakePublisher(), RecordingObserver()
    publisher.stall()
    sends = [
        letters(publisher, observer).send_record(RECORD, FailureClass.MALFORMED_EVENT, "x"),
        letters(publisher, observer).send_command(ensure(), FailureClass.KEY_NOT_FOUND, "x"),
    ]
    tasks = [asyncio.create_task(sending) for sending in sends]
    await asyncio.sleep(3600)
    assert observer.dead_letters == []
    publisher.resume()
    await asyncio.gather(*tasks)
    assert observer.dead_letters == [(FailureClass.MALFORMED_EVENT, "events"), (FailureClass.KEY_NOT_FOUND, "work")]


@virtual_time
async def test_a_posted_body_that_is_too_large_for_the_broker_is_left_out_and_a_header_says_so():
    broker = StrictBroker(max_bytes=2000)
    dead = letters(broker)
    assert not await dead.send_posted(b"x" * 5000, [("ce_id", b"7")], "is not JSON", field="value", topic="events")
    [letter] = broker.records
    headers = dict(letter.headers)
    assert (letter.value, headers["logwarden-value-omitted"]) == (None, b"5000")
    assert headers["logwarden-source"] == b"http"


@virtual_time
async def test_the_log_says_of_each_which_record_it_was_and_why():
    posted, asked_by_hand = b"{", replace(ensure(), origin=None)
    with capture_logs() as logs:
        dead = letters(FakePublisher(), Metrics(CollectorRegistry()))
        await dead.send_record(RECORD, FailureClass.MALFORMED_EVENT, "is not JSON", field="value")
        await dead.send_posted(posted, [], "is not JSON", field="value", topic="events")
        await dead.send_command(replace(ensure(), origin=Origin("events", 3, 43)), FailureClass.NOT_AUTHORIZED, "no")
        await dead.send_command(asked_by_hand, FailureClass.NOT_AUTHORIZED, "no")
    assert [(log["failure"], log["topic"], log["origin"], log["reason"]) for log in logs] == [
        ("malformed-event", "events", "events/3/42", "is not JSON"),
        ("malformed-event", "events", None, "is not JSON"),
        ("not-authorized", "work", "events/3/43", "no"),
        ("not-authorized", "work", None, "no"),
    ]
