"""What the chaos run makes of AWS's call log, and of its dice."""

import random

import pytest

from service.sandbox.aws.calls import Call
from tests.chaos.run import EACH_ONCE, MAX_REPLICAS, Plan, Report, count


def call(started_s: float, ended_s: float, session: str, result: str = "ok") -> Call:
    return Call(
        started_s=started_s,
        ended_s=ended_s,
        account="111122223333",
        caller=f"arn:aws:sts::111122223333:assumed-role/logwarden/{session}",
        region="eu-west-1",
        service="logs",
        operation="AssociateKmsKey",
        log_group="/a",
        key=None,
        role=None,
        result=result,
    )


@pytest.mark.parametrize(
    ("calls", "overlaps", "across_a_kill"),
    [
        pytest.param([call(0, 1, "one"), call(2, 3, "two")], 0, 0, id="one after the other"),
        pytest.param([call(0, 3, "killed"), call(2, 4, "two")], 0, 1, id="begun after the kill"),
        pytest.param([call(0, 3, "killed"), call(0.5, 4, "two")], 1, 0, id="begun before the kill"),
        pytest.param([call(0, 3, "one"), call(2, 4, "two")], 1, 0, id="of a replica that lives on"),
        pytest.param([call(0, 3, "one"), call(2, 4, "killed")], 1, 0, id="by the one that was killed"),
    ],
)
def test_an_overlap_is_forgiven_the_replica_that_was_killed_in_its_first_call_and_nobody_else(
    calls: list[Call], overlaps: int, across_a_kill: int
):
    report = Report(seed=1, groups=1)
    count(report, calls, {"killed": 1.0})
    assert (report.overlaps, report.overlaps_across_a_kill) == (overlaps, across_a_kill)
    assert report.is_right == (overlaps == 0)


def test_a_group_that_is_sealed_again_is_a_duplicate():
    report = Report(seed=1, groups=1)
    count(report, [call(0, 1, "a"), call(2, 3, "a", "ThrottlingException"), call(4, 5, "b"), call(6, 7, "b")], {})
    assert (report.calls, report.duplicates) == (4, 2)


@pytest.mark.parametrize("seed", range(30))
def test_each_kind_of_mishap_comes_once_to_a_fleet_that_works_before_the_dice_have_their_way(seed: int):
    plan, size, met = Plan(random.Random(seed)), 1, []
    while plan.to_come:
        action = plan.next(size, can_hang=True, is_well=True)
        size += {"grow": 1, "kill": -1, "terminate": -1}.get(action, 0)
        assert 1 <= size <= MAX_REPLICAS
        plan.done(action, is_work_left=True)
        met.append(action)
    assert set(met) == {*EACH_ONCE, "grow"}
    assert len(met) <= 2 * len(EACH_ONCE)


def test_a_mishap_that_came_before_there_was_any_work_is_to_come_again():
    plan = Plan(random.Random(1))
    plan.done("broker", is_work_left=False)
    assert "broker" in plan.to_come
