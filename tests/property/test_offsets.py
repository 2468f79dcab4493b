from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.domain.offsets import Delivery, OffsetLedger, Progress, read_finished, write_finished


@given(st.sets(st.integers(0, 2**40), min_size=1, max_size=40), st.data())
def test_in_whatever_order_work_ends_the_position_is_the_lowest_open_offset(offsets: set[int], data: Any):
    ledger = OffsetLedger()
    unseen = sorted(offsets, reverse=True)
    open_: dict[int, Delivery] = {}
    last = None
    positions = []
    while unseen or open_:
        if unseen and (not open_ or data.draw(st.booleans(), label="read on")):
            last = unseen.pop()
            open_[last] = ledger.see(last)
        else:
            open_.pop(data.draw(st.sampled_from(sorted(open_)), label="ends")).finish()
        assert last is not None
        assert ledger.position == (min(open_) if open_ else last + 1)
        assert len(ledger) == len(open_)
        positions.append(ledger.position)
    assert positions == sorted(positions)  # a commit never goes back


@given(st.integers(0, 2**40), st.sets(st.integers(1, 300), max_size=200))
def test_finished_offsets_are_read_back_as_they_were_written(position: int, above: set[int]):
    finished = {position + offset for offset in above}
    assert read_finished(Progress(position, write_finished(position, sorted(finished)))) == finished


@given(st.text())
def test_whatever_stands_beside_an_offset_can_be_read(text: str):
    assert read_finished(Progress(5, "f1:5:" + text)) is not None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80), st.integers(1, 40))
def test_over_any_change_of_owner_nothing_is_finished_that_was_not_and_nothing_is_new_twice_after_a_commit(
    steps: Any, count: int
):
    """Owners read from the committed position, finish some, commit, and go."""
    finished: set[int] = set()
    committed = Progress(0)
    ledger = OffsetLedger()
    committed = Progress(0)
    held = [ledger.see(offset) for offset in range(count)]
    for is_handover, pick in steps:
        if is_handover:
            if ledger.progress is not None:
                committed = ledger.progress
            ledger.close()
            ledger = OffsetLedger()
            ledger.adopt(committed)
            held = [delivery for delivery in map(ledger.see, range(committed.position, count)) if delivery.is_new]
            assert {d.offset for d in held} == set(range(count)) - finished
        elif held:
            delivery = held.pop(pick % len(held))
            delivery.finish()
            finished.add(delivery.offset)
