"""One source record's bytes to ensure commands: takes off every envelope, reads what is in it, and raises nothing.

Two stages: the envelopes are taken off until innermost objects are found (`envelopes.py` has the table); each of these is a
CloudTrail record, our own event or a custom one, and is read by a module of its own. Both go by as steps, which an explanation
shows and a parse sums up. Nothing here decides whose a group is: what an event says about the tenant is not looked at.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from service.domain.command import EnsureCommand
from service.domain.events.cloudtrail import is_record, read_record
from service.domain.events.custom_format import EventFormat
from service.domain.events.envelopes import Base64, Envelope, open_envelope
from service.domain.events.fields import Fields, Place, kind
from service.domain.events.first_look import first_look
from service.domain.events.own_event import is_own_event, read_own_event
from service.domain.events.result import (
    MAX_REASON_LENGTH,
    Arrival,
    Asked,
    Finding,
    Headers,
    Irrelevant,
    LimitError,
    Parsed,
    Problem,
    Step,
    UnusableError,
)
from service.domain.events.unpacking import GZIP_MAGIC, Allowance, from_base64, json_values

_CONFLUENT_MAGIC: Final = b"\0"
_CONFLUENT_PREFIX_LENGTH: Final = 5  # the magic byte and the id of a schema
_CLOUDEVENTS_TYPE: Final = b"application/cloudevents"
_NO_ARRIVAL: Final = Arrival(0, None)


class EventParser:
    """Reads source records; built once, with the custom formats.

    `is_surely_irrelevant` is the first look: it tells from the raw bytes that a message asks for nothing; False means "parse it".
    """

    def __init__(self, *, formats: Sequence[EventFormat] = ()) -> None:
        self._formats = tuple(formats)
        self.is_surely_irrelevant: Final = first_look([each.mark for each in formats])

    def parse(self, value: bytes | None, headers: Headers = (), *, arrival: Arrival) -> Parsed:
        """Read one source record; never raises, whatever the bytes."""
        commands: list[EnsureCommand] = []
        problems: list[Problem] = []
        for step in _Message(self._formats, arrival).steps(value, headers):
            if step.command is not None:
                commands.append(step.command)
            elif step.finding is Finding.MALFORMED:
                problems.append(Problem(step.path, step.text))
        return Parsed(tuple(commands), tuple(problems))

    def explain(self, value: bytes | None, headers: Headers = ()) -> list[Step]:
        """What a source record is, step by step: the first look, each envelope, each object in it and what it asks for."""
        is_dropped = value is not None and self.is_surely_irrelevant(value)
        text = "drops it: nothing in the bytes can be an event for us" if is_dropped else "cannot rule it out"
        look = Step(Finding.LOOKED, "value", f"the first look at the bytes {text}")
        return [look, *_Message(self._formats, _NO_ARRIVAL).steps(value, headers)]


_Reader = Callable[[Fields, Arrival], EnsureCommand | Asked | Irrelevant]


class _Message:
    """One message while it is opened."""

    def __init__(self, formats: Sequence[EventFormat], arrival: Arrival) -> None:
        self._formats = formats
        self._arrival = arrival
        self._allowance = Allowance()

    def steps(self, value: bytes | None, headers: Headers) -> Iterator[Step]:
        """What is found, in order. Beyond a limit nothing more is read, and the last step says so."""
        texts = {name.lower().replace("ce-", "ce_"): text or b"" for name, text in headers}
        is_binary = "ce_specversion" in texts or "ce_type" in texts
        if is_binary:
            yield Step(Finding.OPENED, "value", Envelope.CLOUDEVENT_BINARY)
            if value is None:
                yield Step(Finding.IRRELEVANT, "value", "a tombstone: a CloudEvent without data")
                return
        is_structured = texts.get("content-type", b"").strip().lower().startswith(_CLOUDEVENTS_TYPE)
        try:
            yield from self._opened(value, Place(is_cloudevent=is_structured and not is_binary))
        except LimitError as e:
            yield _malformed(e.problem)

    def _opened(self, value: Any, place: Place) -> Iterator[Step]:
        """Everything in a value. What cannot be read leaves its neighbours alone. Raises LimitError."""
        try:
            match value:
                case Base64(text):
                    yield from self._opened_bytes(from_base64(text, place.path), place)
                case bytes():
                    yield from self._opened_bytes(value, place)
                case str():
                    yield Step(Finding.OPENED, place.name, Envelope.JSON_STRING)
                    yield from self._opened_all(json_values(value, place.path, are_lines=True), place.deeper())
                case list() if value:
                    yield Step(Finding.OPENED, place.name, Envelope.LIST)
                    for index, entry in enumerate(value):
                        self._allowance.enter(place.path)
                        yield from self._opened(entry, place.entry(index))
                case dict():
                    yield from self._opened_object(value, place)
                case _:
                    raise _unknown(value, place)
        except UnusableError as e:
            yield _malformed(e.problem)

    def _opened_bytes(self, value: bytes, place: Place) -> Iterator[Step]:
        """Bytes that are no string yet: the message itself, or what base64 held. Raises UnusableError and LimitError."""
        inside = place.deeper()
        if value.startswith(_CONFLUENT_MAGIC):
            yield Step(Finding.OPENED, place.name, Envelope.CONFLUENT)
            yield from self._opened_bytes(value[_CONFLUENT_PREFIX_LENGTH:], inside)
        elif value.startswith(GZIP_MAGIC):
            yield Step(Finding.OPENED, place.name, Envelope.GZIP)
            unpacked = self._allowance.gunzipped(value, place.path)
            if unpacked.startswith(GZIP_MAGIC):
                yield from self._opened_bytes(unpacked, inside)
                return
            yield from self._opened_all(json_values(unpacked, place.path, are_lines=False), inside)
        else:
            yield from self._opened_all(json_values(value, place.path, are_lines=True), inside)

    def _opened_all(self, values: list[Any], place: Place) -> Iterator[Step]:
        """One value, or all of several."""
        yield from self._opened(values[0] if len(values) == 1 else values, place)

    def _opened_object(self, body: dict[str, Any], place: Place) -> Iterator[Step]:
        """An object that is to be read, or is an envelope, or neither. Raises UnusableError and LimitError."""
        read = self._reader_of(body)
        if read is not None:
            yield self._read(read, Fields(body, place))
        elif body.get("eventType") == "AwsCloudTrailInsight":
            yield Step(Finding.IRRELEVANT, place.name, "an Insight: what it counts was reported call by call")
        elif "eventVersion" in body or (opened := open_envelope(body, place)) is None:  # the first look relies on this
            if not any(each.is_of_another_kind(body) for each in self._formats):
                raise _unknown(body, place)
            yield Step(Finding.IRRELEVANT, place.name, "an event of a custom format's sender, of another kind")
        else:
            envelope, content = opened
            if isinstance(content, Irrelevant):
                yield Step(Finding.IRRELEVANT, place.name, content.why)
                return
            yield Step(Finding.OPENED, place.name, envelope)
            for value, inside in content:
                self._allowance.enter(place.path)
                yield from self._opened(value, inside)

    def _reader_of(self, body: dict[str, Any]) -> _Reader | None:
        """What reads an innermost object; None where this is none."""
        for custom in self._formats:
            if custom.takes(body):
                return custom.read
        if is_record(body):
            return read_record
        return read_own_event if is_own_event(body) else None

    def _read(self, read: _Reader, fields: Fields) -> Step:
        """Raises UnusableError."""
        outcome = read(fields, self._arrival)
        if isinstance(outcome, Irrelevant):
            return Step(Finding.IRRELEVANT, fields.place.name, outcome.why)
        command, said = (outcome.command, outcome.said_key) if isinstance(outcome, Asked) else (outcome, None)
        text = f"{command.trigger}: ensure {command.log_group}"
        if said is not None:
            text = f"{text}; it says that its key is {said[:MAX_REASON_LENGTH]!a}, and is looked at all the same"
        return Step(Finding.COMMAND, fields.place.name, text, command)


def _unknown(value: Any, place: Place) -> UnusableError:
    return UnusableError(place.path, f"is none of the accepted event shapes but {kind(value)}")


def _malformed(problem: Problem) -> Step:
    return Step(Finding.MALFORMED, problem.field, problem.reason)
