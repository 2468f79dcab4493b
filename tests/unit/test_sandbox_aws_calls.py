import pytest

from service.sandbox.aws.calls import Call, most_in_any, overlaps, throttled_share


def call(
    started_s: float,
    ended_s: float | None = None,
    *,
    log_group: str = "/a",
    account: str = "1",
    operation: str = "AssociateKmsKey",
    result: str = "ok",
) -> Call:
    return Call(
        started_s=started_s,
        ended_s=started_s if ended_s is None else ended_s,
        account=account,
        caller="",
        region="eu-west-1",
        service="logs",
        operation=operation,
        log_group=log_group,
        key=None,
        role=None,
        result=result,
    )


def test_calls_for_one_log_group_that_run_at_once_overlap():
    first, second = call(0, 2), call(1, 3)

    assert overlaps([second, first]) == [(first, second)]


def test_a_long_call_overlaps_with_each_that_starts_before_it_ends():
    long, short, late = call(0, 10), call(1, 2), call(3, 4)

    assert overlaps([long, short, late]) == [(long, short), (long, late)]


@pytest.mark.parametrize("other", [{"log_group": "/b"}, {"account": "2"}, {"operation": "DescribeLogGroups"}])
def test_calls_for_different_things_do_not_overlap(other):
    assert overlaps([call(0, 2), call(1, 3, **other)]) == []


def test_calls_one_after_the_other_do_not_overlap():
    assert overlaps([call(0, 1), call(1, 2)]) == []


def test_the_busiest_window_is_half_open():
    calls = [call(t) for t in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.1)]

    assert most_in_any(1.0, calls) == 6
    assert most_in_any(0.2, calls) == 2
    assert most_in_any(1.0, []) == 0


def test_the_throttled_share_counts_both_names_of_a_throttle():
    calls = [call(0), call(0, result="ThrottlingException"), call(0, result="Throttling"), call(0, result="503")]

    assert throttled_share(calls) == 0.5
    assert throttled_share([]) == 0
