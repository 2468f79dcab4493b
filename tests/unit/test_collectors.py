"""The metrics that are read when somebody scrapes, and the rules that all metrics keep."""

import re
import shutil
import subprocess
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.domain.command import Priority
from service.domain.outcome import FailureClass, Outcome, State
from service.domain.status import ConsumerStatus, Hold, LanesStatus, LaneStatus, PartitionStatus, Trouble
from service.telemetry.collectors import (
    REPLICA_GAUGES,
    LaneCollector,
    ReplicaCollector,
    StreamCollector,
    WritesCollector,
)
from service.telemetry.metrics import Metrics
from tests.support.fakes import ensure, group, lane_number
from tests.support.metrics import everything_once

Labels = frozenset[tuple[str, str]]


def lane(number: int, *, waiting: int = 0, in_flight: int = 0, hold: Hold | None = None, **more) -> LaneStatus:
    return LaneStatus(
        lane=lane_number(number),
        waiting=dict.fromkeys(Priority, 0) | {Priority.RETRY: waiting},
        in_flight=in_flight,
        rate_per_s=2.5,
        ceiling_per_s=5.0,
        oldest_waiting_s=float(number) if waiting else None,
        hold=hold,
        **more,
    )


def scraped(*collectors: Collector) -> dict[str, dict[Labels, float]]:
    """Each metric's values by their labels, out of the text that Prometheus reads."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {f.name: {frozenset(s.labels.items()): s.value for s in f.samples} for f in families}


def scraped_lanes(lanes: Iterable[LaneStatus], *, max_lanes: int = 50) -> dict[str, dict[Labels, float]]:
    return scraped(LaneCollector(lambda: LanesStatus.of(lanes), max_lanes=max_lanes))


def labels(**values: str) -> Labels:
    return frozenset(values.items())


def of(number: int) -> Labels:
    return labels(account=lane_number(number).account, region=lane_number(number).region)


NONE: Labels = frozenset()


def urgent(series: dict[Labels, float]) -> dict[Labels, float]:
    """One of the series of each lane that has one for each priority."""
    return {
        labels(account=dict(key)["account"], region=dict(key)["region"]): value
        for key, value in series.items()
        if dict(key)["priority"] == "urgent"
    }


# -- lanes


def test_a_replica_without_work_shows_zeros_and_no_lane():
    values = scraped_lanes([lane(1)])
    assert values["logwarden_lanes"] == {NONE: 1}
    assert values["logwarden_waiting_commands"] == {labels(priority=p): 0 for p in ("urgent", "retry", "sweep")}
    for name in ("in_flight_commands", "oldest_waiting_seconds", "largest_lane_commands"):
        assert values[f"logwarden_{name}"] == {NONE: 0}
    assert values["logwarden_lane_waiting_commands"] == {}


def test_totals_are_over_all_lanes_also_those_without_series_of_their_own():
    values = scraped_lanes([lane(n, waiting=n, in_flight=1) for n in range(1, 101)], max_lanes=2)
    assert values["logwarden_lanes"] == {NONE: 100}
    assert values["logwarden_waiting_commands"][labels(priority="retry")] == 5050
    assert values["logwarden_in_flight_commands"] == {NONE: 100}
    assert values["logwarden_oldest_waiting_seconds"] == {NONE: 100}
    assert values["logwarden_largest_lane_commands"] == {NONE: 100}


def test_the_fullest_lanes_have_series_of_their_own_and_no_more_than_the_setting_says():
    lanes = [lane(n, waiting=n) for n in range(100)]
    for count in (0, 1, 3):
        values = scraped_lanes(lanes, max_lanes=count)
        expected = {of(n): n for n in range(99, 99 - count, -1)}
        assert urgent(values["logwarden_lane_waiting_commands"]).keys() == expected.keys()
        assert values["logwarden_lane_rate"].keys() == values["logwarden_lane_held"].keys() == expected.keys()


def test_a_held_lane_has_series_however_little_waits_there_and_held_ones_have_no_more_than_the_setting_says():
    hold = Hold("role-not-assumable", 3.0)
    lanes = [lane(n, waiting=100) for n in range(60)] + [lane(99, waiting=2, hold=hold)]
    values = scraped_lanes(lanes)["logwarden_lane_held"]
    assert (values[of(99)], len(values)) == (1, 50)
    values = scraped_lanes([lane(n, waiting=1, hold=hold) for n in range(60)])["logwarden_lane_held"]
    assert len(values) == 50


def test_a_lane_has_series_while_it_has_work():
    values = scraped_lanes([lane(1, waiting=7), lane(2, in_flight=1), lane(3)])
    assert values["logwarden_lane_in_flight_commands"] == {of(1): 0, of(2): 1}
    assert values["logwarden_lane_rate"] == {of(1): 2.5, of(2): 2.5}


def test_a_lane_with_series_of_its_own_says_all_that_the_api_says_of_it():
    values = scraped_lanes([lane(7, waiting=10, in_flight=3, throttled_ago_s=2.0), lane(2, waiting=1, is_paused=True)])
    shown = {name.removeprefix("logwarden_lane_"): series for name, series in values.items() if "lane_" in name}
    del shown["logwarden_largest_lane_commands"]
    waiting = {
        (dict(key)["account"], dict(key)["priority"]): n for key, n in shown.pop("waiting_commands").items() if n
    }
    assert waiting == {(lane_number(7).account, "retry"): 10, (lane_number(2).account, "retry"): 1}
    assert shown == {
        "in_flight_commands": {of(7): 3, of(2): 0},
        "rate": {of(7): 2.5, of(2): 2.5},
        "rate_ceiling": {of(7): 5, of(2): 5},
        "throttled_ago_seconds": {of(7): 2},
        "oldest_waiting_seconds": {of(7): 7, of(2): 2},
        "estimated_end_seconds": {of(7): 4},
        "held": {of(7): 0, of(2): 0},
    }


def test_held_lanes_are_counted_by_failure_class_and_a_class_that_holds_none_is_zero():
    values = scraped_lanes([lane(1, waiting=1, hold=Hold("unreachable", 3.0)), lane(2, waiting=1)])
    assert values["logwarden_lanes_held"] == {
        labels(failure=failure): int(failure == "unreachable")
        for failure in (
            "unreachable",
            "credentials-missing",
            "credentials-rejected",
            "role-not-assumable",
            "tags-not-readable",
            "registry-unavailable",
        )
    }
    assert values["logwarden_lane_held"] == {of(1): 1, of(2): 0}


def test_lanes_whose_calls_come_to_nothing_are_counted_by_failure_class_before_they_are_held():
    values = scraped_lanes([lane(1, waiting=1, trouble=Trouble("unreachable", "no answer", 0.0)), lane(2, waiting=1)])
    assert values["logwarden_lanes_retrying"] == {
        labels(failure=failure): int(failure == "unreachable")
        for failure in ("service-unavailable", "unreachable", "credentials-rejected")
    }
    assert values["logwarden_lane_estimated_end_seconds"] == {of(2): 0.4}


# -- consumers and progress


def test_consumers_show_membership_and_each_partition_how_far_it_is_and_whether_it_moves():
    worker = ConsumerStatus(
        "worker",
        True,
        [
            PartitionStatus("work", 0, 3, 10, 9, 5, unmoved_s=42.0, is_held_back=True),
            PartitionStatus("work", 1, 0, None, None, None),
        ],
    )
    values = scraped(StreamCollector(lambda: [worker, ConsumerStatus("ingest", False, [])]))
    assert values["logwarden_consumer_joined"] == {labels(consumer="worker"): 1, labels(consumer="ingest"): 0}
    first, second = (labels(consumer="worker", topic="work", partition=p) for p in "01")
    assert values["logwarden_pending_records"] == {first: 3, second: 0}
    assert values["logwarden_lag_records"] == {first: 5}, "what is not known is not guessed"
    assert values["logwarden_partition_unmoved_seconds"] == {first: 42, second: 0}
    assert values["logwarden_partition_held_back"] == {first: 1, second: 0}


@pytest.mark.parametrize("name", REPLICA_GAUGES)
def test_a_number_of_the_replica_is_shown_and_absent_where_it_is_not_known(name):
    assert scraped(ReplicaCollector({name: lambda: 12.5})) == {f"logwarden_{name}": {NONE: 12.5}}
    assert scraped(ReplicaCollector({name: lambda: 0})) == {f"logwarden_{name}": {NONE: 0}}
    assert scraped(ReplicaCollector({name: lambda: None})) == {}


def test_a_topic_that_cannot_be_written_has_an_age_and_the_others_none():
    values = scraped(WritesCollector(lambda: {"work": 0.0, "outcomes": 3.0}))
    assert values == {"logwarden_publish_failing_seconds": {labels(topic="work"): 0, labels(topic="outcomes"): 3}}


# -- all metrics


def test_topics_that_are_weak_are_shown_and_others_are_not():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.topics_looked_at(weak=[])
    assert "logwarden_topic_weak{" not in generate_latest(registry).decode()
    metrics.topics_looked_at(weak=["logwarden.work"])
    assert 'logwarden_topic_weak{topic="logwarden.work"} 1.0' in generate_latest(registry).decode()


@pytest.fixture
def everything() -> str:
    return everything_once()


def test_every_metric_is_named_as_prometheus_wants_it_and_explained(everything):
    families = [f for f in text_string_to_metric_families(everything) if not f.name.endswith("_created")]
    names = [f.name for f in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert re.fullmatch(r"logwarden(_[a-z]+)+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert family.samples, f"{family.name} has not happened in this test"
        assert not re.search(r"_(milliseconds|ms|minutes|hours|gauge|counter)(_|$)", family.name), family.name
        if family.type == "counter":
            assert all(s.name.endswith("_total") for s in family.samples if not s.name.endswith("_created"))
        elif family.type == "gauge":
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket")), family.name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of the package prometheus, is not here")
def test_promtool_finds_nothing_to_complain_of(everything):
    checked = subprocess.run(
        ["promtool", "check", "metrics"], check=False, input=everything, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_how_long_a_command_took_is_apart_for_those_that_are_sealed_and_those_that_wait():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.command_done(ensure(), Outcome(log_group=group(), state=State.SEALED), seconds=0.2)
    waits = Outcome(log_group=group(), state=State.DEFERRED, failure=FailureClass.UNKNOWN_TENANT)
    for seconds in (100.0, 200.0):
        metrics.command_done(ensure(), waits, seconds=seconds)
    for state, count in (("sealed", 1), ("deferred", 2)):
        counted = registry.get_sample_value(
            "logwarden_command_seconds_count", {"trigger": ensure().trigger.value, "state": state}
        )
        assert counted == count


def test_no_metric_names_a_log_group_or_a_tenant(everything):
    for family in text_string_to_metric_families(everything):
        for sample in family.samples:
            assert not sample.labels.keys() & {"log_group", "tenant", "key"}, sample.name


def test_the_version_that_runs_is_shown(everything):
    assert re.search(r'^logwarden_build_info\{python="3\.[^"]+",version="[^"]+"\} 1\.0$', everything, re.MULTILINE)
