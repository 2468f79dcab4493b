"""The wait that a caller asks for with a Prefer header."""

import pytest

from service.http.prefer import preferred_wait_s


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ([], None),
        (["wait=10"], 10),
        (["Wait = 10"], 10),
        (['wait="10"'], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=10; why=not"], 10),
        (["wait=10, wait=20"], 10),
        (["wait=0"], 0),
        (["wait=30"], 30),
        (["wait=31"], 30),
        (["wait=999999999"], 30),
        (["wait"], None),
        (["wait="], None),
        (["wait=soon"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=1e3"], None),
        (["await=10"], None),
        (["wait=" + "9" * 5000], None),
    ],
)
def test_a_wait_is_honoured_up_to_the_longest_allowed_and_anything_malformed_is_passed_over(headers, wait_s):
    assert preferred_wait_s(headers, longest_s=30.9) == wait_s


def test_where_waiting_is_not_allowed_no_preference_is_applied():
    assert preferred_wait_s(["wait=10"], longest_s=0) is None
