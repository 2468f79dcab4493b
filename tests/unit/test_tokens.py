import pytest

from service.domain.pacing import Pacer
from service.domain.tokens import TokenQueue

START = 1000.0
INTERVAL_S = 0.2


def new_queue() -> TokenQueue[str]:
    """A queue for 5 tokens a second, the first of them at START."""
    return TokenQueue(Pacer(ceiling_per_s=5.0, owned_since=START - INTERVAL_S))


def take_all(queue: TokenQueue[str]) -> list[tuple[str, float]]:
    """Give out a token whenever there is one; to whom, and after how many seconds."""
    taken = []
    while (at := queue.ready_at()) is not None:
        who = queue.take(at)
        assert who is not None
        taken.append((who, round(at - START, 3)))
    return taken


def test_nobody_gets_a_token_where_nobody_waits_and_none_is_spent():
    queue = new_queue()
    assert queue.ready_at() is None
    assert queue.take(START + 60) is None
    assert queue.pacer.due == START


def test_one_token_is_given_out_at_a_time_each_when_it_is_due():
    queue = new_queue()
    for who in "abc":
        queue.add(who, rank=1.0)
    assert take_all(queue) == [("a", 0.0), ("b", 0.2), ("c", 0.4)]
    assert len(queue) == 0


def test_before_it_is_due_nobody_gets_one_and_nothing_changes():
    queue = new_queue()
    queue.add("a", rank=1.0)
    assert queue.take(START - 1e-6) is None
    assert (len(queue), queue.ready_at()) == (1, START)


def test_the_lowest_rank_goes_first_and_among_equals_who_came_first():
    queue = new_queue()
    for who, rank in (("late", 3.0), ("b", 2.0), ("a", 2.0), ("first", 1.0)):
        queue.add(who, rank=rank)
    assert queue.first_rank == 1.0
    assert [who for who, _ in take_all(queue)] == ["first", "b", "a", "late"]


def test_an_empty_queue_is_outranked_by_everybody():
    assert new_queue().first_rank == float("inf")


def test_who_is_promoted_keeps_the_place_that_their_coming_gives_them_among_equals():
    queue = new_queue()
    for who, rank in (("a", 1.0), ("b", 5.0), ("c", 1.0), ("d", 9.0)):
        queue.add(who, rank=rank)
    queue.promote("b", rank=1.0)
    queue.promote("d", rank=0.0)
    assert queue.first_rank == 0.0
    assert [who for who, _ in take_all(queue)] == ["d", "a", "b", "c"]


def test_promoting_or_removing_somebody_who_does_not_wait_changes_nothing():
    queue = new_queue()
    queue.add("a", rank=1.0)
    queue.promote("stranger", rank=0.0)
    queue.remove("stranger")
    assert take_all(queue) == [("a", 0.0)]


@pytest.mark.parametrize("gone", range(7))
def test_who_is_removed_gets_no_token_and_the_rest_stay_in_order(gone: int):
    queue, everybody = new_queue(), list("0123456")
    for number in (3, 1, 6, 0, 5, 2, 4):
        queue.add(everybody[number], rank=number)
    queue.remove(everybody.pop(gone))
    assert len(queue) == 6
    assert [who for who, _ in take_all(queue)] == everybody


def test_whoever_is_removed_the_rest_are_still_in_order():
    queue = new_queue()
    for number in (0, 10, 1, 11, 12, 2, 3):
        queue.add(chr(ord("a") + number), rank=number)
    for gone in "bz":
        queue.remove(next((who for _, _, who in queue._waiting if who == gone), gone))
    assert "".join(who for who, _ in take_all(queue)) == "acdklm"


def test_all_can_be_forgotten_in_the_order_of_their_coming():
    queue = new_queue()
    for who, rank in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        queue.add(who, rank=rank)
    assert queue.clear() == ["a", "b", "c"]
    assert queue.ready_at() is None
    assert queue.clear() == []


def test_those_who_are_neither_ordered_nor_equal_can_wait_at_one_rank():
    queue: TokenQueue[object] = TokenQueue(Pacer(ceiling_per_s=5.0, owned_since=START))
    everybody = [object() for _ in range(5)]
    for who in everybody:
        queue.add(who, rank=1.0)
    queue.promote(everybody[2], rank=1.0)
    assert queue.clear() == everybody
