"""When a topic counts as one that cannot be written."""

import pytest

from service.stream.writes import SLOW_S, Writes


def test_a_topic_fails_once_a_record_has_waited_for_some_seconds_and_no_longer_than_it_does():
    writes = Writes()
    write = writes.begin(100.0)
    assert writes.failing(100 + SLOW_S - 0.1) is None
    assert writes.failing(100 + SLOW_S) == (100.0, "no acknowledgement")
    assert not writes.acknowledged(write, 120.0), "nothing was said of it"
    assert writes.failing(120.0) is None


def test_an_error_is_told_once_and_counts_from_when_the_record_was_first_sent():
    writes = Writes()
    write = writes.begin(100.0)
    assert writes.failed(write, "away", 101.0)
    assert not writes.failed(write, "away", 102.0)
    assert writes.failed(write, "not enough replicas", 103.0)
    assert writes.failing(103.0) == (100.0, "not enough replicas")
    assert writes.acknowledged(write, 104.0)
    assert writes.failing(104.0) is None


def test_a_record_of_another_partition_that_is_written_ends_nothing():
    writes = Writes()
    stuck = writes.begin(100.0)
    writes.failed(stuck, "no leader", 100.1)
    assert not writes.acknowledged(writes.begin(101.0), 101.1)
    assert writes.failing(101.1) == (100.0, "no leader")
    assert writes.acknowledged(stuck, 102.0)


@pytest.mark.parametrize(("after_s", "is_failing"), [(599, True), (601, False)])
def test_what_was_given_up_is_remembered_while_nobody_tries_for_ten_minutes(after_s, is_failing):
    writes = Writes()
    assert writes.given_up(writes.begin(100.0), 110.0)
    assert (writes.failing(110 + after_s) is not None) is is_failing


def test_who_gives_up_one_after_the_other_makes_one_failure_since_the_first():
    writes = Writes()
    assert writes.given_up(writes.begin(100.0), 110.0)
    assert not writes.given_up(writes.begin(400.0), 410.0), "no news"
    assert writes.failing(900.0) == (100.0, "no acknowledgement")
    assert writes.given_up(writes.begin(5000.0), 5010.0), "another outage, for all that is known"
    assert writes.failing(5010.0) == (5000.0, "no acknowledgement")


def test_a_caller_who_leaves_at_once_says_nothing_of_the_broker():
    writes = Writes()
    assert not writes.given_up(writes.begin(100.0), 100.1)
    assert writes.failing(100.1) is None
