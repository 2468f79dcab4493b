"""Every event file asks for what is expected, and together they have every envelope and every trigger that an event can have."""

import pytest

from service.domain.command import EnsureCommand
from service.domain.events import Arrival, EventParser, Finding
from service.domain.events.cloudtrail import TRIGGERS
from service.domain.events.envelopes import Envelope
from tests.events import EVENTS, REGRESSIONS, EventFile, custom_parser, event_files, on_the_wire

NOWHERE = Arrival(0, None)
FILES = event_files()
every_file = pytest.mark.parametrize("file", FILES, ids=str)


def parser_of(file: EventFile) -> EventParser:
    return custom_parser() if file.is_custom else EventParser()


def test_every_event_file_has_an_expectation():
    folders = (EVENTS, EVENTS / "custom")
    found = {path for folder in folders for path in folder.iterdir() if path.suffix in {".json", ".gz", ".bin"}}
    assert found == {file.path for file in FILES}


@every_file
def test_an_event_asks_for_what_is_expected(file: EventFile):
    parsed = parser_of(file).parse(file.value, file.headers, arrival=NOWHERE)
    assert [on_the_wire(command) for command in parsed.commands] == list(file.commands)
    assert [problem.field for problem in parsed.problems] == list(file.malformed)


@every_file
def test_an_explanation_ends_as_the_parse_does(file: EventFile):
    look, *steps = parser_of(file).explain(file.value, file.headers)
    assert look.finding is Finding.LOOKED
    assert [on_the_wire(step.command) for step in steps if step.command] == list(file.commands)
    assert [step.path for step in steps if step.finding is Finding.MALFORMED] == list(file.malformed)


@every_file
def test_the_first_look_drops_nothing_that_asks_for_something(file: EventFile):
    assert not ((file.commands or file.malformed) and parser_of(file).is_surely_irrelevant(file.value))


def test_every_envelope_is_there_with_an_event_in_it():
    opened = {
        step.text
        for file in FILES
        if file.commands
        for step in parser_of(file).explain(file.value, file.headers)
        if step.finding is Finding.OPENED
    }
    assert opened == set(Envelope)


def test_every_trigger_of_an_event_is_there():
    triggers = {command["trigger"] for file in FILES for command in file.commands}
    assert triggers == set(TRIGGERS.values())


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*")), ids=lambda path: path.name)
def test_what_once_was_found_keeps_the_promises(path):
    value = path.read_bytes()
    for parser in (EventParser(), custom_parser()):
        parsed = parser.parse(value, arrival=NOWHERE)
        assert not (parsed.commands and parser.is_surely_irrelevant(value))
        assert [EnsureCommand.from_bytes(command.to_bytes()) for command in parsed.commands] == list(parsed.commands)
