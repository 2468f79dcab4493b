"""Who changed a group's key, as a command carries it from the event to whoever wants to know."""

import json
from dataclasses import replace

import pytest

from service.domain.command import MAX_CALLER_LENGTH, EnsureCommand, MalformedCommandError, Trigger
from service.domain.log_group import LogGroup

UNSAID = EnsureCommand(
    log_group=LogGroup.of("111122223333", "eu-west-1", "/app/a"), trigger=Trigger.KEY_DISASSOCIATED, accepted_at_ms=5
)
ADA, BEN = replace(UNSAID, caller="ada"), replace(UNSAID, caller="ben", accepted_at_ms=3)


def test_a_caller_reads_back_as_it_was_written():
    assert json.loads(ADA.to_bytes())["caller"] == "ada"
    assert EnsureCommand.from_bytes(ADA.to_bytes()) == ADA


def test_a_command_of_a_release_that_knew_no_callers_is_read():
    assert "caller" not in json.loads(UNSAID.to_bytes())
    assert EnsureCommand.from_bytes(UNSAID.to_bytes()).caller is None


@pytest.mark.parametrize("caller", [1, ["ada"], "\ud800"])
def test_a_caller_that_is_no_text_is_malformed(caller: object):
    with pytest.raises(MalformedCommandError) as refused:
        EnsureCommand.from_bytes(json.dumps(json.loads(ADA.to_bytes()) | {"caller": caller}).encode())
    assert refused.value.field == "caller"


def test_a_longer_caller_is_cut():
    longer = EnsureCommand.from_bytes(replace(ADA, caller="a" * 300).to_bytes())
    assert longer.caller == "a" * MAX_CALLER_LENGTH


def test_of_two_commands_that_meet_the_later_callers_name_stays():
    assert ADA.merged(BEN).caller == "ben"
    assert BEN.merged(ADA).caller == "ada"
    assert ADA.merged(UNSAID).caller == UNSAID.merged(ADA).caller == "ada"


def test_it_does_not_matter_which_two_of_three_meet_first():
    assert ADA.merged(BEN).merged(UNSAID).caller == ADA.merged(BEN.merged(UNSAID)).caller == "ben"
