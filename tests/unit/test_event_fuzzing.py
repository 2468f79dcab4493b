"""The parts of `poe fuzz` that need no fuzzer: what it asks of an input, and how it makes inputs smaller."""

import pytest

from service.domain.events import EventParser
from tests.events import EventFile, event_files
from tests.fuzz import target
from tests.fuzz.minimise import minimised
from tests.fuzz.target import behaviours, check


@pytest.mark.parametrize("file", event_files(), ids=str)
def test_the_event_files_keep_the_promises(file: EventFile):
    check(file.value)
    assert behaviours(file.value)


def test_a_first_look_that_drops_too_much_is_found(monkeypatch: pytest.MonkeyPatch):
    class Careless(EventParser):
        def __init__(self) -> None:
            super().__init__()
            self.is_surely_irrelevant = lambda _: True  # type: ignore[misc]

    monkeypatch.setattr(target, "_PARSERS", (Careless(),))
    with pytest.raises(AssertionError, match="drops"):
        check(b'{"type":"log-group-created","account":"111122223333","region":"eu-west-1","log_group":"/a"}')


def test_an_input_is_made_as_small_as_what_it_shows():
    assert minimised(b"abcdefghij" * 50, lambda value: b"c" in value and b"h" in value) == b"ch"
    assert minimised(b"abc", lambda _: True) == b""
    assert minimised(b"", lambda _: True) == b""
    assert minimised(b"abc", lambda value: value == b"abc") == b"abc"
