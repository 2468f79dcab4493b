from service.domain.dead_letter import DeadLetterLimit
from service.domain.outcome import FailureClass

BAD_PARSER = FailureClass.MALFORMED_EVENT


def limit(*, max_consecutive=3, max_share=0.5, window=10):
    return DeadLetterLimit(max_consecutive=max_consecutive, max_share=max_share, window=window)


def test_dead_letters_among_good_records_are_no_reason_to_stop():
    subject = limit()
    for _ in range(100):
        subject.failed(BAD_PARSER)
        subject.passed()
    assert subject.reason is None


def test_too_many_in_a_row_are():
    subject = limit()
    for _ in range(3):
        subject.failed(BAD_PARSER)
    assert subject.reason is None
    subject.failed(BAD_PARSER)
    assert subject.reason == "more than 3 dead letters in a row"


def test_one_good_record_ends_a_row():
    subject = limit()
    for _ in range(3):
        subject.failed(BAD_PARSER)
    subject.passed()
    subject.failed(BAD_PARSER)
    assert subject.reason is None


def test_too_large_a_share_of_a_full_window_is_too():
    subject = limit(max_consecutive=100)
    for _ in range(6):
        subject.failed(BAD_PARSER)
    for _ in range(3):
        subject.passed()
    assert subject.reason is None, "the window is not full"
    subject.failed(BAD_PARSER)
    assert subject.reason == "more than 50% of the last 10 records are dead letters"


def test_what_has_left_the_window_does_not_count():
    subject = limit(max_consecutive=100)
    for _ in range(5):
        subject.failed(BAD_PARSER)
    for _ in range(20):
        subject.passed()
    for _ in range(5):
        subject.failed(BAD_PARSER)
    assert subject.reason is None
    subject.failed(BAD_PARSER)
    assert subject.reason is not None


def test_once_reached_it_stays_and_keeps_its_reason():
    subject = limit()
    for _ in range(4):
        subject.failed(BAD_PARSER)
    for _ in range(100):
        subject.passed()
    assert subject.reason == "more than 3 dead letters in a row"


# -- what a bad deploy does, and what it does not


def test_a_wrong_parser_is_stopped_though_most_of_a_stream_concerns_nobody():
    subject = limit(max_consecutive=20, window=1000)
    for _ in range(20):
        subject.left_alone(199)
        subject.failed(FailureClass.MALFORMED_EVENT)
    assert subject.reason is None
    subject.left_alone(199)
    subject.failed(FailureClass.MALFORMED_EVENT)
    assert subject.reason == "more than 20 dead letters in a row"


def test_a_wrong_tenant_file_wrong_keys_and_lost_rights_are_stopped_since_nothing_succeeds_any_more():
    for failure in (
        FailureClass.UNKNOWN_TENANT,
        FailureClass.ACCOUNT_NOT_LISTED,
        FailureClass.AMBIGUOUS_TENANT,
        FailureClass.NO_KEY_IN_REGION,
        FailureClass.KEY_NOT_FOUND,
        FailureClass.KEY_NOT_USABLE,
        FailureClass.NOT_AUTHORIZED,
    ):
        subject = limit(max_consecutive=20)
        for number in range(21):
            assert subject.reason is None
            subject.failed(failure, account=f"account {number % 3}")
        assert subject.reason == "more than 20 dead letters in a row", failure


def test_one_accounts_own_mistake_stops_nobody_however_many_log_groups_it_has_and_however_quiet_the_others_are():
    subject = limit(max_consecutive=20)
    for _ in range(10_000):
        subject.failed(FailureClass.KEY_NOT_USABLE, account="careless")
    subject.passed()
    for number in range(10_000):
        subject.failed(FailureClass.KEY_NOT_USABLE, account=("careless", "careless too")[number % 2])
    assert subject.reason is None


def test_a_release_that_aws_refuses_is_stopped_in_a_single_account_too():
    subject = limit(max_consecutive=20)
    for _ in range(21):
        subject.failed(FailureClass.INVALID_REQUEST, account="the only one")
    assert subject.reason is not None


def test_a_tenant_file_that_lists_one_account_in_ten_stops_nobody():
    subject = limit(max_consecutive=100, window=100)
    for number in range(10_000):
        if number % 10:
            subject.failed(FailureClass.ACCOUNT_NOT_LISTED, account=f"account {number % 10}")
        else:
            subject.passed()
    assert subject.reason is None
