"""Sweeps as they are written and read, and what is known of them, whatever the order of the records."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.command import EnsureCommand, MalformedCommandError
from service.domain.log_group import KeyArn, LogGroup, TenantId
from service.domain.request import MalformedRequestRecordError, record_from_bytes
from service.domain.sweep import (
    LaneReport,
    MalformedSweepRecordError,
    SweepAsked,
    SweepCommand,
    is_sweep,
    is_sweep_record,
    new_sweep_id,
    repeated_sweep_id,
    sweep_record_from_bytes,
)
from service.domain.sweep_book import SweepBook
from tests.support.fakes import LANE, OTHER_LANE, ensure

ID = new_sweep_id(1_750_000_000_000, bytes(10))
COMMAND = SweepCommand(lane=LANE, sweep_id=ID, asked_at_ms=7, tenant=TenantId("acme"), key=KeyArn("arn:key"))
ASKED = SweepAsked(id=ID, asked_at_ms=7, caller="alice", lanes=(LANE, OTHER_LANE), tenant=TenantId("acme"), keys="k")
REPORT = LaneReport(
    id=ID, lane=LANE, at_ms=9, is_done=True, counts={"sealed": 3}, old_keys={"arn:old": 3}, failure=("a", "b")
)


def changed(record: SweepCommand | SweepAsked | LaneReport, **fields: object) -> bytes:
    return json.dumps({**json.loads(record.to_bytes()), **fields}, separators=(",", ":")).encode()


def book_of(*records: SweepAsked | LaneReport, capacity: int = 100) -> SweepBook:
    book = SweepBook(capacity=capacity)
    for record in records:
        book.apply(record)
    return book


@pytest.mark.parametrize("command", [COMMAND, replace(COMMAND, tenant=None, key=None)])
def test_a_command_is_read_as_it_was_written(command):
    assert is_sweep(command.to_bytes())
    assert SweepCommand.from_bytes(command.to_bytes()) == command


def test_a_command_for_one_log_group_is_no_sweep():
    assert not is_sweep(ensure().to_bytes())
    assert not is_sweep(None)


def test_a_release_without_sweeps_calls_the_command_too_new():
    with pytest.raises(MalformedCommandError, match="release reads") as raised:
        EnsureCommand.from_bytes(COMMAND.to_bytes())
    assert raised.value.field == "v"
    with pytest.raises(MalformedRequestRecordError, match="release reads"):
        record_from_bytes(ASKED.to_bytes())


def test_no_log_group_can_be_taken_for_a_sweep_in_the_lane():
    with pytest.raises(ValueError, match="log group name"):
        LogGroup.of(LANE.account, LANE.region, COMMAND.queue_key)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'{"kind":"sweep",',
        b'{"kind":"sweep",' + b"[" * 100_000,
        changed(COMMAND, v=1),
        changed(COMMAND, account="1"),
        changed(COMMAND, region=None),
        changed(COMMAND, id="req-1"),
        changed(COMMAND, at=True),
        changed(COMMAND, at=-1),
        changed(COMMAND, tenant=[]),
        changed(COMMAND, tenant="\ud800"),
        changed(COMMAND, key={}),
        changed(COMMAND, key="k" * 5000),
    ],
)
def test_what_is_no_command_is_called_malformed(value):
    with pytest.raises(MalformedCommandError):
        SweepCommand.from_bytes(value)


@pytest.mark.parametrize("record", [ASKED, REPORT, replace(ASKED, tenant=None), replace(REPORT, failure=None)])
def test_a_record_is_read_as_it_was_written(record):
    assert is_sweep_record(record.to_bytes())
    assert sweep_record_from_bytes(record.to_bytes()) == record


@pytest.mark.parametrize(
    "value",
    [
        changed(ASKED, v=1),
        changed(ASKED, kind="sweep-other"),
        changed(ASKED, lanes=[]),
        changed(ASKED, lanes={"eu-west-1": "111122223333"}),
        changed(ASKED, lanes={"eu-west-1": [1]}),
        changed(ASKED, by=None),
        changed(REPORT, done=1),
        changed(REPORT, counts={"sealed": -1}),
        changed(REPORT, counts={"sealed": True}),
        changed(REPORT, failure="a"),
        changed(REPORT, at=10**18),
    ],
)
def test_what_is_no_record_is_called_malformed(value):
    with pytest.raises(MalformedSweepRecordError):
        sweep_record_from_bytes(value)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(value):
    for head in (b"", b'{"kind":"sweep-asked",'):
        with pytest.raises(MalformedSweepRecordError):
            sweep_record_from_bytes(head + value)
        with pytest.raises(MalformedCommandError):
            SweepCommand.from_bytes(head + value)


def test_one_occasion_has_one_id_and_two_have_two():
    assert repeated_sweep_id("logwarden", "a") == repeated_sweep_id("logwarden", "a")
    assert repeated_sweep_id("logwarden", "a") != repeated_sweep_id("logwarden", "b")


# -- the book


def test_a_sweep_is_done_when_every_lane_has_said_so():
    other = replace(REPORT, lane=OTHER_LANE, is_done=False, failure=None, counts={"sealed": 2}, old_keys={})
    book = book_of(ASKED, REPORT, other)
    status = book.find(ID)
    assert status is not None
    assert (status.is_done, book.is_done(ID), status.pending) == (False, False, [OTHER_LANE])
    book.apply(replace(other, is_done=True, at_ms=10))
    status = book.find(ID)
    assert status is not None
    assert (status.is_done, book.is_done(ID)) == (True, True)
    document = status.as_dict()
    assert document["counts"] == {"sealed": 5}
    assert document["old_keys"] == {"arn:old": 3}
    assert document["lanes"] == {"total": 2, "pending": 0, "failed": 1}
    assert document["failed_lanes"] == [{"lane": str(LANE), "class": "a", "detail": "b"}]


def test_a_lane_that_begins_again_after_its_end_is_done_all_the_same():
    book = book_of(ASKED, REPORT, replace(REPORT, at_ms=20, is_done=False, counts={}))
    status = book.find(ID)
    assert status is not None
    assert status.counts == {"sealed": 3}


RECORDS = st.one_of(
    st.builds(replace, st.just(ASKED), asked_at_ms=st.integers(5, 7), lanes=st.sampled_from([(LANE,), ASKED.lanes])),
    st.builds(
        replace,
        st.just(REPORT),
        lane=st.sampled_from(ASKED.lanes),
        at_ms=st.integers(1, 4),
        is_done=st.booleans(),
    ),
)


@given(st.lists(RECORDS, max_size=12), st.randoms(use_true_random=False))
def test_the_book_depends_on_which_records_came_not_on_their_order_or_number(records, random):
    again = records + random.sample(records, k=len(records) // 2)
    random.shuffle(again)
    one, other = book_of(*again), book_of(*records)
    assert one.find(ID) == other.find(ID)
    assert one.is_done(ID) == other.is_done(ID)


def test_a_full_book_forgets_the_sweep_that_it_knew_first():
    sweeps = [replace(ASKED, id=new_sweep_id(n, bytes(10)), asked_at_ms=n) for n in range(3)]
    book = book_of(*sweeps, capacity=4)
    assert [book.find(each.id) is not None for each in sweeps] == [False, True, True]
    assert book.latest("alice") == sweeps[2]
    assert book.latest("bob") is None
