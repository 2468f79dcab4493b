"""What a dead letter says of itself, and which are meant."""

from dataclasses import replace

import pytest

from service.core.dead_letters import DeadLetters
from service.domain.command import EnsureCommand, Origin
from service.domain.outcome import FailureClass
from service.domain.replay import DeadLetter, Selection
from service.ports import IncomingRecord
from tests.support.fakes import OTHER_LANE, RecordingObserver, ensure, group, unlimited
from tests.support.publisher import FakePublisher

TOPICS = {"work", "events"}
EVENT = IncomingRecord("events", 3, 42, 0, b"k", b'{"account": "111122223333"', [("trace", b"1"), ("empty", b"")])


def dead_letters(publisher: FakePublisher) -> DeadLetters:
    return DeadLetters(
        publisher=publisher, observer=RecordingObserver(), limit=unlimited(), topic="dead-letters", work_topic="work"
    )


def read(publisher: FakePublisher, *, at_ms: int = 1000) -> DeadLetter:
    record = publisher.records[-1]
    return DeadLetter.of(Origin("dead-letters", 2, 7), at_ms, record.key, record.value, record.headers)


async def letter_of_event(record: IncomingRecord = EVENT) -> DeadLetter:
    publisher = FakePublisher()
    await dead_letters(publisher).send_record(record, FailureClass.MALFORMED_EVENT, "is not JSON", field="value")
    return read(publisher)


async def letter_of_command(command: EnsureCommand) -> DeadLetter:
    publisher = FakePublisher()
    command = replace(command, origin=Origin("events", 3, 41))
    await dead_letters(publisher).send_command(command, FailureClass.UNKNOWN_TENANT, "no rule")
    return read(publisher)


async def test_a_record_goes_back_as_it_was():
    letter = await letter_of_event()
    assert (letter.topic, letter.key, letter.value) == ("events", EVENT.key, EVENT.value)
    assert list(letter.headers) == list(EVENT.headers)
    assert letter.why_not(TOPICS) is None
    assert (letter.failure, letter.came_from, letter.log_group) == ("malformed-event", "events/3/42", None)


async def test_a_command_goes_back_under_its_lane_s_key_and_names_the_record_that_first_asked():
    letter = await letter_of_command(ensure(deferrals=4))
    assert (letter.topic, letter.key, letter.headers) == ("work", ensure().partition_key, [])
    assert (letter.failure, letter.came_from, letter.log_group) == ("unknown-tenant", "events/3/41", group())
    assert letter.says["deferrals"] == "4"
    assert letter.why_not(TOPICS) is None


async def test_a_letter_is_left_for_a_reason():
    letter = await letter_of_event()
    foreign = DeadLetter.of(letter.place, 0, None, b"x", [("logwarden-class", b"")])
    assert foreign.why_not(TOPICS) == "it is not of this service"
    assert "'events'" in str(letter.why_not({"work"})), "a topic that somebody else's letter may name"
    publisher = FakePublisher(max_value_bytes=3)
    await dead_letters(publisher).send_record(EVENT, FailureClass.MALFORMED_EVENT, "is not JSON")
    assert read(publisher).why_not(TOPICS) == "its bytes are not there; they may still be at events/3/42"
    assert read(publisher).size == len(EVENT.value or b"")
    forged = DeadLetter.of(letter.place, 0, None, b"x", [("logwarden-value-omitted", b"9" * 5000)])
    assert forged.size == 1


@pytest.mark.parametrize(
    ("selection", "are_taken"),
    [
        (Selection(), (True, True, True)),
        (Selection(failures=["unknown-tenant"]), (True, True, False)),
        (Selection(accounts=["444455556666"]), (False, True, False)),
        (Selection(accounts=["111122223333"]), (True, False, True)),
        (Selection(accounts=["111122223333"], failures=["unknown-tenant", "malformed-event"]), (True, False, True)),
        (Selection(since_ms=1000), (True, True, True)),
        (Selection(since_ms=1001), (False, False, False)),
        (Selection(places=["2/7", "0/0"]), (True, True, True)),
        (Selection(places=["2/8"]), (False, False, False)),
    ],
)
async def test_every_condition_has_to_be_met(selection: Selection, are_taken: tuple[bool, ...]):
    # What the command of another account says of this one does not make it one of its commands.
    other = await letter_of_command(ensure(lane=OTHER_LANE, caller="arn:aws:sts::111122223333:assumed-role/x"))
    letters = await letter_of_command(ensure()), other, await letter_of_event()
    assert tuple(map(selection.takes, letters)) == are_taken
