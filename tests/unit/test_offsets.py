import pytest

from service.domain.offsets import OffsetLedger, Progress, read_finished, untracked, write_finished


def adopting(committed: Progress) -> OffsetLedger:
    """The ledger of whoever comes after the owner who committed this."""
    ledger = OffsetLedger()
    ledger.adopt(committed)
    return ledger


def test_a_ledger_that_has_seen_nothing_has_nothing_to_commit():
    ledger = OffsetLedger()
    assert (ledger.position, len(ledger)) == (None, 0)


def test_the_position_is_the_lowest_offset_that_is_not_finished():
    ledger = OffsetLedger()
    first, second, third = (ledger.see(offset) for offset in (10, 11, 12))
    assert (ledger.position, len(ledger)) == (10, 3)
    third.finish()
    second.finish()
    assert (ledger.position, len(ledger)) == (10, 1)
    first.finish()
    assert (ledger.position, len(ledger)) == (13, 0)


def test_offsets_that_were_never_seen_do_not_hold_the_position_back():
    ledger = OffsetLedger()
    first, second = ledger.see(10), ledger.see(5000)
    first.finish()
    assert ledger.position == 5000
    second.finish()
    assert ledger.position == 5001


def test_an_offset_that_comes_after_all_are_finished_holds_the_position_again():
    ledger = OffsetLedger()
    ledger.see(1).finish()
    ledger.see(7)
    assert (ledger.position, len(ledger)) == (7, 1)


@pytest.mark.parametrize("again", [9, 10, 0])
def test_an_offset_does_not_come_twice_nor_out_of_order(again: int):
    ledger = OffsetLedger()
    ledger.see(10).finish()
    with pytest.raises(ValueError, match=f"offset {again} after 10"):
        ledger.see(again)
    assert (ledger.position, len(ledger)) == (11, 0)


def test_offset_zero_is_an_offset_like_any_other():
    ledger = OffsetLedger()
    delivery = ledger.see(0)
    assert (ledger.position, len(ledger)) == (0, 1)
    delivery.finish()
    assert (ledger.position, len(ledger)) == (1, 0)


def test_nothing_changes_when_a_closed_ledgers_work_ends():
    ledger = OffsetLedger()
    early, late = ledger.see(1), ledger.see(2)
    early.finish()
    ledger.close()
    late.finish()
    assert len(ledger) == 0


def test_each_offset_that_is_finished_is_told_of_until_the_ledger_is_closed():
    left: list[int] = []
    ledger = OffsetLedger(on_finished=lambda: left.append(len(ledger)))
    first, second, third = (ledger.see(offset) for offset in (1, 2, 3))
    second.finish()
    first.finish()
    ledger.close()
    third.finish()
    assert left == [2, 1]


def test_a_closed_ledger_has_nothing_to_commit():
    # Its open offsets are forgotten: "the one after the last seen" would say that they were finished.
    ledger = OffsetLedger()
    ledger.see(1)
    ledger.see(2).finish()
    ledger.close()
    assert (ledger.position, len(ledger)) == (None, 0)


def test_work_of_a_former_assignment_does_not_finish_the_same_offset_of_this_one():
    former, current = OffsetLedger(), OffsetLedger()
    stale, fresh = former.see(5), current.see(5)
    former.close()
    stale.finish()
    assert current.position == 5
    fresh.finish()
    assert current.position == 6


def test_what_a_former_owner_finished_above_its_position_is_not_new_to_the_next():
    former = OffsetLedger()
    deliveries = [former.see(offset) for offset in range(10, 20)]
    for delivery in (deliveries[1], deliveries[2], deliveries[5]):
        delivery.finish()
    committed = former.progress
    assert committed == Progress(10, "f1:a:1.2,2.1")

    current = adopting(committed)
    assert [current.see(offset).is_new for offset in range(10, 17)] == [True, False, False, True, True, False, True]
    assert (current.position, len(current)) == (10, 4)


def test_what_a_former_owner_finished_is_committed_on_until_it_is_read_again():
    ledger = adopting(Progress(10, "f1:a:5.1"))
    assert ledger.progress is None, "nothing read, nothing to commit"
    ledger.see(10)
    assert ledger.progress == Progress(10, "f1:a:5.1")


@pytest.mark.parametrize("first", [12, 13, 5000])
def test_what_a_former_owner_finished_and_retention_took_is_forgotten(first: int):
    ledger = adopting(Progress(10, "f1:a:1.1"))
    ledger.see(first)
    assert ledger.progress == Progress(first)


def test_the_position_passes_what_a_former_owner_finished():
    ledger = adopting(Progress(10, "f1:a:1.2"))
    ledger.see(10).finish()
    ledger.see(11)
    ledger.see(12)
    assert ledger.progress == Progress(13)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "by another tool",
        *(f"f1:a:{text}" for text in ("", "1", "1.2.3", "-5.2", "1.0", "1.zzzzzz", "1.2,!.1")),
        "f2:a:1.2",
        "f1:1.2",
    ],
)
def test_a_text_that_is_not_ours_finishes_nothing(text: str):
    assert read_finished(Progress(10, text)) == set()


def test_what_was_finished_is_not_read_at_a_position_that_it_was_not_written_for():
    text = write_finished(100, [105, 106])
    assert read_finished(Progress(100, text)) == {105, 106}
    assert read_finished(Progress(90, text)) == set(), "a mirror translates the offset, and not the text beside it"


def test_what_does_not_fit_into_the_brokers_limit_is_left_out_from_the_far_end():
    finished = set(range(1, 200_000, 7))
    text = write_finished(0, sorted(finished))
    assert len(text) <= 4000
    kept = read_finished(Progress(0, text))
    assert kept == {offset for offset in finished if offset <= max(kept)}
    assert len(kept) > 900


def test_what_a_former_owner_finished_and_the_topic_has_dropped_since_is_forgotten():
    ledger = adopting(Progress(0, write_finished(0, [3, 12])))
    ledger.see(10)
    assert ledger.progress == Progress(10, "f1:a:2.1")


def test_what_is_adopted_late_leaves_alone_what_has_been_seen_meanwhile():
    ledger = OffsetLedger()
    early = ledger.see(10)
    ledger.adopt(Progress(9, write_finished(9, [10, 11])))
    assert (early.is_new, ledger.see(11).is_new) == (True, False)
    assert (ledger.position, len(ledger)) == (10, 1)


def test_progress_is_written_anew_only_where_it_has_changed():
    ledger = OffsetLedger()
    first, second = ledger.see(1), ledger.see(2)
    second.finish()
    before = ledger.progress
    assert ledger.progress is before
    first.finish()
    assert ledger.progress == Progress(3)
    ledger.pass_over(3, 9)
    assert ledger.progress == Progress(10)


def test_the_window_is_what_is_remembered():
    ledger = OffsetLedger()
    first = ledger.see(1)
    for offset in range(2, 100):
        ledger.see(offset).finish()
    assert (ledger.window, len(ledger)) == (99, 1)
    first.finish()
    assert ledger.window == 0


def test_where_reading_begins_below_the_position_other_records_have_these_offsets_now():
    ledger = adopting(Progress(10, write_finished(10, [12])))
    assert [ledger.see(offset).is_new for offset in range(8, 14)] == [True] * 6

    late = OffsetLedger()
    late.see(8)
    late.adopt(Progress(10, write_finished(10, [12])))
    assert late.see(12).is_new


def test_what_is_passed_over_moves_the_position_unless_something_below_is_open():
    ledger = adopting(Progress(10))
    ledger.pass_over(10, 12)
    assert (ledger.position, ledger.next, len(ledger), ledger.window) == (13, 13, 0, 0)
    opened = ledger.see(13)
    ledger.pass_over(14, 20)
    assert (ledger.progress, ledger.next) == (Progress(13), 21)
    ledger.see(21).finish()
    assert ledger.position == 13
    opened.finish()
    assert ledger.position == 22


def test_passing_over_leaves_what_a_former_owner_finished_known():
    former = adopting(Progress(10))
    _, *others = [former.see(offset) for offset in range(10, 14)]
    for delivery in others:
        delivery.finish()
    assert former.progress is not None
    ledger = adopting(former.progress)
    ledger.pass_over(10, 11)
    assert not ledger.see(12).is_new
    assert not ledger.see(13).is_new
    assert ledger.position == 14


def test_passing_over_below_the_committed_position_forgets_what_a_former_owner_finished():
    ledger = adopting(Progress(10, write_finished(10, [12])))
    ledger.pass_over(5, 11)  # the topic was truncated: its offsets mean other records
    assert ledger.see(12).is_new


@pytest.mark.parametrize("offset", [3, 4])
def test_offsets_that_are_passed_over_ascend_too(offset: int):
    ledger = OffsetLedger()
    ledger.pass_over(3, 3)
    ledger.pass_over(4, 4)
    with pytest.raises(ValueError, match=f"offset {offset} after 4"):
        ledger.pass_over(offset, offset)


def test_work_that_no_record_asks_for_shares_a_ledger_in_which_nothing_is_ever_open():
    first, second = untracked(), untracked()
    assert first.ledger is second.ledger
    first.finish()
    second.finish()
    assert (len(second.ledger), second.ledger.window, second.ledger.position) == (0, 0, None)
