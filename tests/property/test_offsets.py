from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.domain.offsets import OffsetLedger


@given(st.sets(st.integers(0, 2**40), min_size=1, max_size=40), st.data())
def test_in_whatever_order_work_ends_the_position_is_the_lowest_open_offset(offsets: set[int], data: Any):
    ledger = OffsetLedger()
    unseen = sorted(offsets, reverse=True)
    open_ = {}
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
