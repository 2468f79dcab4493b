from collections import Counter
from typing import Any

import pytest

from service.sandbox.aws.faults import FaultPlan, Faults, Mishap

CALL = {"service": "logs", "operation": "AssociateKmsKey", "account": "111122223333", "region": "eu-west-1"}


def plan(*faults: Faults, seed: int = 0) -> FaultPlan:
    plan = FaultPlan()
    plan.set(faults, seed=seed)
    return plan


def fates(plan: FaultPlan, calls: int = 1000) -> list[Mishap | None]:
    return [plan.mishap(plan.matching(**CALL)) for _ in range(calls)]


def test_without_faults_nothing_happens():
    assert set(fates(plan())) == {None}
    assert plan().latency_s(plan().matching(**CALL)) == 0


@pytest.mark.parametrize("mishap", list(Mishap))
def test_a_certain_mishap_always_happens(mishap):
    probability: dict[str, Any] = {mishap.value: 1.0}
    assert set(fates(plan(Faults(**probability)), calls=100)) == {mishap}


def test_mishaps_happen_about_as_often_as_they_should():
    counts = Counter(fates(plan(Faults(throttled=0.3, answer_lost=0.1)), calls=10_000))

    assert counts[Mishap.THROTTLED] == pytest.approx(3000, rel=0.1)
    assert counts[Mishap.ANSWER_LOST] == pytest.approx(1000, rel=0.15)
    assert counts.keys() == {Mishap.THROTTLED, Mishap.ANSWER_LOST, None}


def test_a_seed_decides_the_fate_of_every_call():
    faults = Faults(service_unavailable=0.5)

    assert fates(plan(faults, seed=7)) == fates(plan(faults, seed=7))
    assert fates(plan(faults, seed=7)) != fates(plan(faults, seed=8))


@pytest.mark.parametrize(
    "elsewhere",
    [{"service": "kms"}, {"operation": "DescribeLogGroups"}, {"account": "444455556666"}, {"region": "us-east-1"}],
)
def test_faults_for_other_calls_do_not_apply(elsewhere):
    assert set(fates(plan(Faults(throttled=1.0, **elsewhere)))) == {None}


def test_the_first_faults_that_match_apply():
    here = Faults(account=CALL["account"])

    assert set(fates(plan(here, Faults(throttled=1.0)))) == {None}
    assert set(fates(plan(Faults(throttled=1.0), here))) == {Mishap.THROTTLED}


def test_latency_lies_between_its_bounds():
    p = plan(Faults(latency_s=(0.1, 0.3)))
    latencies = [p.latency_s(p.matching(**CALL)) for _ in range(1000)]

    assert 0.1 <= min(latencies) < 0.11
    assert 0.29 < max(latencies) <= 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"throttled": -0.1},
        {"throttled": 0.6, "connection_reset": 0.6},
        {"latency_s": (2.0, 1.0)},
        {"latency_s": (-1.0, 1.0)},
        {"effect_delay_s": -1.0},
    ],
)
def test_impossible_faults_are_refused(wrong):
    with pytest.raises(ValueError, match=r"probabilities|times"):
        Faults(**wrong)
