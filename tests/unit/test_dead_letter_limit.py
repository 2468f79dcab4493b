from service.domain.dead_letter import DeadLetterLimit


def limit(*, max_consecutive=3, max_share=0.5, window=10):
    return DeadLetterLimit(max_consecutive=max_consecutive, max_share=max_share, window=window)


def test_dead_letters_among_good_records_are_no_reason_to_stop():
    subject = limit()
    for _ in range(100):
        subject.failed()
        subject.passed()
    assert subject.reason is None


def test_too_many_in_a_row_are():
    subject = limit()
    for _ in range(3):
        subject.failed()
    assert subject.reason is None
    subject.failed()
    assert subject.reason == "more than 3 dead letters in a row"


def test_one_good_record_ends_a_row():
    subject = limit()
    for _ in range(3):
        subject.failed()
    subject.passed()
    subject.failed()
    assert subject.reason is None


def test_too_large_a_share_of_a_full_window_is_too():
    subject = limit(max_consecutive=100)
    for _ in range(6):
        subject.failed()
    for _ in range(3):
        subject.passed()
    assert subject.reason is None, "the window is not full"
    subject.failed()
    assert subject.reason == "more than 50% of the last 10 records are dead letters"


def test_what_has_left_the_window_does_not_count():
    subject = limit(max_consecutive=100)
    for _ in range(5):
        subject.failed()
    for _ in range(20):
        subject.passed()
    for _ in range(5):
        subject.failed()
    assert subject.reason is None
    subject.failed()
    assert subject.reason is not None


def test_once_reached_it_stays_and_keeps_its_reason():
    subject = limit()
    for _ in range(4):
        subject.failed()
    for _ in range(100):
        subject.passed()
    assert subject.reason == "more than 3 dead letters in a row"
