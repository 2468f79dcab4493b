"""Event files, one for each shape and variation, and what is expected of them.

`*` are AWS's envelopes and our own event, `custom/*` those of `service/formats.example.yaml`, with what they ask for in `expected/*`:
the commands as they go on the wire, without version and time, and the fields that are malformed. Neither is an irrelevant event.
`regressions/*` are inputs that once went wrong or that fuzzing found worth keeping: for these only the parser's promises are checked.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.domain.command import EnsureCommand
from service.domain.events import EventParser
from service.formats import load_event_formats

EVENTS = Path(__file__).parent
REGRESSIONS = EVENTS / "regressions"
EXAMPLE_FORMATS = Path(__file__).parents[2] / "service" / "formats.example.yaml"


@dataclass(frozen=True)
class EventFile:
    """One file: the record's value and headers, and what is expected."""

    path: Path
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    commands: Sequence[dict[str, Any]] = ()
    malformed: Sequence[str] = ()

    @property
    def value(self) -> bytes:
        return self.path.read_bytes()

    @property
    def is_custom(self) -> bool:
        return self.path.parent != EVENTS

    def __str__(self) -> str:
        return self.path.name


def event_files() -> list[EventFile]:
    return [*_expected(EVENTS, "built_in"), *_expected(EVENTS / "custom", "custom")]


def custom_parser() -> EventParser:
    return EventParser(formats=load_event_formats(EXAMPLE_FORMATS))


def on_the_wire(command: EnsureCommand) -> dict[str, Any]:
    """A command as `expected/*` has it."""
    wire = json.loads(command.to_bytes())
    return {name: value for name, value in wire.items() if name not in {"v", "at", "origin"}}


def _expected(folder: Path, name: str) -> list[EventFile]:
    expected = json.loads((EVENTS / "expected" / f"{name}.json").read_bytes())
    return [
        EventFile(
            folder / file,
            [(header, value.encode()) for header, value in entry.get("headers", {}).items()],
            entry.get("commands", ()),
            entry.get("malformed", ()),
        )
        for file, entry in expected.items()
    ]
