import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.command import EnsureCommand, MalformedCommandError, Origin, Trigger
from service.domain.log_group import LogGroup, TenantId

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)


LOG_GROUPS = st.builds(
    LogGroup.of,
    st.from_regex(r"[0-9]{12}", fullmatch=True),
    st.sampled_from(["eu-west-1", "us-gov-east-1", "cn-north-1"]),
    st.from_regex(r"[.\-_/#A-Za-z0-9]{1,20}", fullmatch=True),
)
ONE_GROUP = st.just(LogGroup.of("111122223333", "eu-west-1", "a"))


def commands(log_groups: st.SearchStrategy[LogGroup] = LOG_GROUPS) -> st.SearchStrategy[EnsureCommand]:
    return st.builds(
        EnsureCommand,
        log_group=log_groups,
        trigger=st.sampled_from(Trigger),
        accepted_at_ms=INT64,
        origin=st.none() | st.builds(Origin, TEXT, INT64, INT64),
        tags=st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
        shown_key=st.none() | TEXT,
        request_ids=st.lists(TEXT, max_size=3, unique=True).map(tuple),
        deferrals=st.integers(0, 2**62),
        strikes=st.integers(0, 2**62),
        caller=st.none() | TEXT,
        only_tenant=st.none() | TEXT.map(TenantId),
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["created", "eu-west-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "v",
    "account",
    "region",
    "log_group",
    "trigger",
    "at",
    "origin",
    "tags",
    "shown_key",
    "requests",
    "deferrals",
    "strikes",
    "caller",
    "tenant",
]


@given(commands())
def test_a_command_reads_back_as_it_was_written(command: EnsureCommand):
    assert EnsureCommand.from_bytes(command.to_bytes()) == command


@given(st.binary())
@example(b"\xef\xbb\xbf{}")
@example(b"{\x00}\x00")
def test_bytes_are_a_command_or_malformed(value: bytes):
    with pytest.raises(MalformedCommandError):
        EnsureCommand.from_bytes(value)


@given(commands(), st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
def test_what_is_accepted_can_be_worked_deferred_and_written_again(command: EnsureCommand, changes: dict[str, Any]):
    body = json.dumps(json.loads(command.to_bytes()) | changes).encode()
    try:
        read = EnsureCommand.from_bytes(body)
    except MalformedCommandError:
        return
    assert EnsureCommand.from_bytes(read.to_bytes()) == read
    for again in (read.deferred(is_strike=False), read.deferred(is_strike=True)):
        assert EnsureCommand.from_bytes(again.to_bytes()) == again
    assert (2**62 - read.accepted_at_ms) / 1000  # an age can be reckoned
    assert str(read.origin).encode()
    assert all(request_id.encode() is not None for request_id in read.request_ids)


@given(commands(ONE_GROUP), commands(ONE_GROUP))
def test_two_commands_are_as_urgent_as_the_more_urgent_one(first: EnsureCommand, later: EnsureCommand):
    merged = first.merged(later)
    assert merged.priority == min(first.priority, later.priority)
    assert merged.accepted_at_ms == min(first.accepted_at_ms, later.accepted_at_ms)
    assert set(merged.request_ids) == {*first.request_ids, *later.request_ids}
    assert merged.only_tenant in (None, first.only_tenant)
    assert merged.only_tenant in (None, later.only_tenant)
    assert merged.shown_key in (None, first.shown_key)
    assert merged.shown_key in (None, later.shown_key)


@given(commands(ONE_GROUP), commands(ONE_GROUP), commands(ONE_GROUP))
def test_it_does_not_matter_which_two_of_three_meet_first(a: EnsureCommand, b: EnsureCommand, c: EnsureCommand):
    left, right = a.merged(b).merged(c), a.merged(b.merged(c))
    assert (left.priority, left.deferrals, left.accepted_at_ms) == (
        right.priority,
        right.deferrals,
        right.accepted_at_ms,
    )
    assert (left.tags, left.request_ids) == (right.tags, right.request_ids)


@given(commands())
def test_a_command_that_meets_itself_stays_what_it_is(command: EnsureCommand):
    assert command.merged(command) == command
