from service.domain.history import History
from tests.support.fakes import group

NOW = 1000.0


def test_a_group_that_was_sealed_is_remembered_and_another_is_not():
    history = History()
    history.sealed(group("a"), NOW, is_flip=False)
    assert history.has(group("a"))
    assert not history.has(group("b"))
    assert history.flips(group("a"), NOW) == history.flips(group("b"), NOW) == 0


def test_flips_are_counted_for_an_hour():
    history = History()
    for minute in (0, 10, 20):
        history.sealed(group(), NOW + 60 * minute, is_flip=True)
    history.sealed(group(), NOW + 1800, is_flip=False)
    assert [history.flips(group(), NOW + 60 * minute) for minute in (20, 59.9, 60, 69.9, 70, 80)] == [3, 3, 2, 2, 1, 0]


def test_the_group_that_was_sealed_longest_ago_is_forgotten_first():
    history = History()
    for number in range(10_000):
        history.sealed(group(str(number)), NOW, is_flip=True)
    history.sealed(group("0"), NOW, is_flip=True)
    history.sealed(group("one more"), NOW, is_flip=True)
    assert history.has(group("0"))
    assert not history.has(group("1"))
    assert history.flips(group("0"), NOW) == 2
