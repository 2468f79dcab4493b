import json
import re
from collections.abc import Sequence

import pytest

from service.domain.log_group import KeyArn, LogGroup, TenantId
from service.domain.outcome import CallFailedError, Defer, End, FailureClass, Fault, Outcome, Recourse, State, next_step

DELAYS_S = (30.0, 120.0, 600.0)
GROUP = LogGroup.of("111122223333", "eu-west-1", "/app/a")

# Spelt out on purpose: what becomes of a failure is a promise to operators, and no row changes by accident.
WHAT_BECOMES_OF_IT = {
    FailureClass.THROTTLED: (Fault.AWS, True, Recourse.DEFER_ALWAYS, 0),
    FailureClass.OPERATION_ABORTED: (Fault.RACE, True, Recourse.DEFER_ALWAYS, 0),
    FailureClass.SERVICE_UNAVAILABLE: (Fault.AWS, True, Recourse.DEFER_ALWAYS, 0),
    FailureClass.UNREACHABLE: (Fault.PLATFORM, True, Recourse.HOLD, 0),
    FailureClass.CREDENTIALS_MISSING: (Fault.PLATFORM, False, Recourse.HOLD, 0),
    FailureClass.CREDENTIALS_REJECTED: (Fault.PLATFORM, True, Recourse.HOLD, 0),
    FailureClass.ROLE_NOT_ASSUMABLE: (Fault.PLATFORM, False, Recourse.HOLD, 120),
    FailureClass.NOT_AUTHORIZED: (Fault.PLATFORM, False, Recourse.DEFER, 120),
    FailureClass.TAGS_NOT_READABLE: (Fault.PLATFORM, False, Recourse.HOLD, 120),
    FailureClass.KEY_NOT_USABLE: (Fault.TENANT, False, Recourse.DEFER, 0),
    FailureClass.KEY_NOT_FOUND: (Fault.TENANT, False, Recourse.DEFER, 0),
    FailureClass.LOG_GROUP_NOT_FOUND: (Fault.RACE, False, Recourse.DEFER_ONCE_THEN_VANISHED, 0),
    FailureClass.RESERVED_NAME: (Fault.AWS, False, Recourse.EXCLUDE, 0),
    FailureClass.INVALID_REQUEST: (Fault.PLATFORM, False, Recourse.DEAD_LETTER, 0),
    FailureClass.LIMIT_EXCEEDED: (Fault.PLATFORM, False, Recourse.DEFER, 3600),
    FailureClass.UNRECOGNISED: (Fault.AWS, False, Recourse.DEFER, 0),
    FailureClass.UNKNOWN_TENANT: (Fault.PLATFORM, False, Recourse.DEFER, 120),
    FailureClass.AMBIGUOUS_TENANT: (Fault.PLATFORM, False, Recourse.DEFER, 120),
    FailureClass.ACCOUNT_NOT_LISTED: (Fault.PLATFORM, False, Recourse.DEFER, 120),
    FailureClass.NO_KEY_IN_REGION: (Fault.TENANT, False, Recourse.DEFER, 120),
    FailureClass.REGISTRY_UNAVAILABLE: (Fault.PLATFORM, False, Recourse.HOLD, 0),
    FailureClass.CONTESTED: (Fault.TENANT, False, Recourse.DEFER_ALWAYS, 0),
    FailureClass.MALFORMED_EVENT: (Fault.PLATFORM, False, Recourse.DEAD_LETTER, 0),
    FailureClass.MALFORMED_COMMAND: (Fault.PLATFORM, False, Recourse.DEAD_LETTER, 0),
}


def of(recourse: Recourse) -> list[FailureClass]:
    return [failure for failure in FailureClass if failure.recourse is recourse]


@pytest.mark.parametrize("failure", FailureClass)
def test_every_failure_has_its_fault_its_recourse_and_its_shortest_delay(failure: FailureClass):
    row = (failure.fault, failure.is_retried_in_place, failure.recourse, failure.shortest_delay_s)
    assert row == WHAT_BECOMES_OF_IT[failure]


@pytest.mark.parametrize("failure", FailureClass)
def test_every_failure_tells_an_operator_what_to_do(failure: FailureClass):
    assert len(failure.hint) > 30
    assert failure.hint == failure.hint.strip()
    assert failure.hint.endswith(".")


def test_every_failure_has_a_label_of_its_own_fit_for_a_metric():
    labels = [failure.label for failure in FailureClass]
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", label) for label in labels)
    assert len(set(labels)) == len(labels)
    assert len(labels) == len(FailureClass.__members__)  # fewer: two rows alike, which an Enum makes one


def test_every_recourse_is_somebodys():
    assert {failure.recourse for failure in FailureClass} == set(Recourse)


# -- what happens next


@pytest.mark.parametrize("delays_s", [(), DELAYS_S[:1], DELAYS_S])
@pytest.mark.parametrize("deferrals", [0, 1, 2, 3, 4, 1000])
@pytest.mark.parametrize("failure", FailureClass)
def test_something_happens_after_every_failure(failure: FailureClass, deferrals: int, delays_s: Sequence[float]):
    step = next_step(failure, deferrals=deferrals, strikes=deferrals, delays_s=delays_s)
    if isinstance(step, Defer):
        assert step.delay_s == delays_s[step.step]


def prompt(recourse: Recourse) -> list[FailureClass]:
    """Those of a recourse that may come back as soon as any."""
    return [failure for failure in of(recourse) if not failure.shortest_delay_s]


@pytest.mark.parametrize("failure", prompt(Recourse.DEFER))
def test_what_somebody_can_mend_takes_every_delay_once_and_then_dies(failure: FailureClass):
    for deferrals in (0, 7):  # those for what passes by itself do not count
        steps = [next_step(failure, deferrals=n + deferrals, strikes=n, delays_s=DELAYS_S) for n in range(5)]
        assert steps == [Defer(0, 30.0), Defer(1, 120.0), Defer(2, 600.0), End.DEAD_LETTER, End.DEAD_LETTER]


def test_what_nobody_mends_in_half_a_minute_begins_with_a_longer_delay_and_is_tried_as_often():
    steps = [next_step(FailureClass.UNKNOWN_TENANT, deferrals=n, strikes=n, delays_s=DELAYS_S) for n in range(4)]
    assert steps == [Defer(1, 120.0), Defer(1, 120.0), Defer(2, 600.0), End.DEAD_LETTER]


def test_where_no_delay_is_as_long_as_a_failure_needs_the_longest_is_taken():
    steps = [next_step(FailureClass.LIMIT_EXCEEDED, deferrals=n, strikes=n, delays_s=DELAYS_S) for n in range(4)]
    assert steps == [Defer(2, 600.0), Defer(2, 600.0), Defer(2, 600.0), End.DEAD_LETTER]


def test_a_strike_for_something_prompt_does_not_make_another_failure_come_back_sooner():
    assert next_step(FailureClass.NOT_AUTHORIZED, deferrals=1, strikes=0, delays_s=DELAYS_S) == Defer(1, 120.0)
    assert next_step(FailureClass.KEY_NOT_USABLE, deferrals=2, strikes=2, delays_s=DELAYS_S) == Defer(2, 600.0)


@pytest.mark.parametrize("failure", of(Recourse.DEFER_ALWAYS))
def test_what_only_aws_can_mend_never_dies(failure: FailureClass):
    steps = [next_step(failure, deferrals=n, strikes=n, delays_s=DELAYS_S) for n in (0, 1, 2, 3, 1000)]
    assert steps == [Defer(0, 30.0), Defer(1, 120.0), Defer(2, 600.0), Defer(2, 600.0), Defer(2, 600.0)]
    assert next_step(failure, deferrals=0, strikes=0, delays_s=()) is End.HOLD


@pytest.mark.parametrize("failure", of(Recourse.HOLD))
@pytest.mark.parametrize("deferrals", [0, 1, 1000])
def test_what_is_no_commands_own_fault_never_moves_it(failure: FailureClass, deferrals: int):
    assert next_step(failure, deferrals=deferrals, strikes=deferrals, delays_s=DELAYS_S) is End.HOLD


@pytest.mark.parametrize("failure", of(Recourse.DEFER_ONCE_THEN_VANISHED))
def test_a_group_that_cannot_be_seen_gets_a_second_look_and_no_third(failure: FailureClass):
    steps = [next_step(failure, deferrals=n, strikes=n, delays_s=DELAYS_S) for n in range(3)]
    assert steps == [Defer(0, 30.0), End.VANISHED, End.VANISHED]
    assert next_step(failure, deferrals=0, strikes=0, delays_s=()) is End.VANISHED


# -- the outcome


def test_an_outcome_shows_what_is_known_and_nothing_else():
    sealed = Outcome(log_group=GROUP, state=State.SEALED, tenant=TenantId("a"), key=KeyArn("arn:k"), attempts=2)
    assert sealed.as_dict() == {
        "account": "111122223333",
        "region": "eu-west-1",
        "log_group": "/app/a",
        "state": "sealed",
        "tenant": "a",
        "key": "arn:k",
        "attempts": 2,
    }


def test_a_failed_outcome_says_whose_fault_it_is_and_what_to_do():
    failed = Outcome(
        log_group=GROUP, state=State.DEFERRED, failure=FailureClass.KEY_NOT_FOUND, detail="x", retry_in_s=30.0
    )
    shown = failed.as_dict()
    assert shown["failure"] == {"class": "key-not-found", "fault": "tenant", "hint": FailureClass.KEY_NOT_FOUND.hint}
    assert (shown["detail"], shown["retry_in_s"], shown["attempts"]) == ("x", 30.0, 0)
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize("state", State)
def test_only_a_deferred_command_comes_back(state: State):
    assert Outcome(log_group=GROUP, state=state).is_final is (state is not State.DEFERRED)


def test_a_failed_call_tells_its_class_and_what_aws_said():
    error = CallFailedError(FailureClass.THROTTLED, "Rate exceeded")
    assert (error.failure, error.detail, str(error)) == (
        FailureClass.THROTTLED,
        "Rate exceeded",
        "throttled: Rate exceeded",
    )
