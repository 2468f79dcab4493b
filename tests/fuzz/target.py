"""What is asked of every input, and what an input shows that others do not."""

import re

from service.domain.command import EnsureCommand, Origin
from service.domain.events import MAX_REASON_LENGTH, Arrival, EventParser, Finding, Headers
from tests.events import custom_parser

_ARRIVAL = Arrival(1_772_442_847_000, Origin("trail", 3, 4711))
_HEADERS: tuple[Headers, ...] = (
    (),
    (("ce_specversion", b"1.0"), ("ce_type", b"com.acme.trail")),
    (("content-type", b"application/cloudevents+json"),),
)
_VARYING = re.compile(r"'(?:[^'\\]|\\.)*(?:'|$)|\d+|(?:ensure|contradicts|object with) .*")
_PARSERS = (EventParser(), custom_parser())


def check(value: bytes) -> None:
    """Raise for an input for which a promise of the parser does not hold: AssertionError, or what the parser should not have raised."""
    headers = _HEADERS[len(value) % len(_HEADERS)]
    for parser in _PARSERS:
        parsed = parser.parse(value, headers, arrival=_ARRIVAL)
        assert not (parsed.commands and parser.is_surely_irrelevant(value)), (
            "the first look drops what the parser accepts"
        )
        for command in parsed.commands:
            assert EnsureCommand.from_bytes(command.to_bytes()) == command, "a command does not read back"
        for problem in parsed.problems:
            assert problem.field
            assert len(problem.reason) <= MAX_REASON_LENGTH
        parsed.reason.encode(errors="backslashreplace")


def behaviours(value: bytes) -> frozenset[tuple[Finding, str]]:
    """What is found in an input, without the names and numbers in it: two inputs with the same go the same ways."""
    headers = _HEADERS[len(value) % len(_HEADERS)]
    steps = [step for parser in _PARSERS for step in parser.explain(value, headers)]
    return frozenset((step.finding, _VARYING.sub("_", step.text)) for step in steps)
