"""Which partitions of an assignment are fetched: what is in hand, and what is remembered, stay bounded for all of them together."""

from aiokafka import TopicPartition

from service.stream.assignment import Assignment

MAX = 100_000
PARTITIONS = [TopicPartition("work", number) for number in range(48)]


def work_with_the_first_left_open(assignment: Assignment, *, stuck: list[TopicPartition], rounds: int) -> None:
    """Read a thousand records of each partition that has room, again and again; of a stuck one the first never ends."""
    for _ in range(rounds):
        fetched, _ = assignment.with_room(MAX, max_window=MAX, max_records=1000)
        for tp in fetched:
            ledger = assignment.ledgers[tp]
            for offset in range(ledger.next or 0, (ledger.next or 0) + 1000):
                delivery = ledger.see(offset)
                if offset or tp not in stuck:
                    delivery.finish()


def test_one_position_that_does_not_move_may_have_half_of_all_that_is_remembered():
    assignment = Assignment(PARTITIONS)
    work_with_the_first_left_open(assignment, stuck=PARTITIONS[:1], rounds=200)
    assert MAX / 2 <= assignment.ledgers[PARTITIONS[0]].window <= MAX / 2 + 1000
    assert assignment.ledgers[PARTITIONS[1]].next == 200_000, "the others go on"


def test_where_no_position_moves_all_partitions_together_remember_no_more_than_is_allowed():
    assignment = Assignment(PARTITIONS)
    work_with_the_first_left_open(assignment, stuck=PARTITIONS, rounds=200)
    windows = [ledger.window for ledger in assignment.ledgers.values()]
    assert sum(windows) <= MAX + 48 * 1000
    assert max(windows) - min(windows) <= 1000
