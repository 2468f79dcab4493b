"""The component of k8s for monitoring: rules that promtool accepts, that fire when they should, over metrics that there are."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.manifests import BASE, REPOSITORY, Manifest, container, one, render, require_tool
from tests.support.metrics import everything_once

COMPONENT = BASE.parent / "components" / "monitoring"
RUNBOOK = BASE.parent / "alerts.md"
UNIT_TESTS = Path(__file__).parents[1] / "alerts.yaml"
OF_PROMETHEUS = {"namespace", "pod"}  # labels that scraping adds


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> list[Manifest]:
    """The base with the component; kustomize takes folders by relative paths only."""
    overlay = tmp_path_factory.mktemp("overlay")
    up = "../" * len(overlay.parts[1:])
    parts = {"resources": [f"{up}{str(BASE)[1:]}"], "components": [f"{up}{str(COMPONENT)[1:]}"]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    return render(overlay)


@pytest.fixture(scope="module")
def rule_groups(manifests) -> dict[str, Any]:
    """The rules as Prometheus reads them."""
    spec: dict[str, Any] = one(manifests, "PrometheusRule")["spec"]
    return spec


@pytest.fixture(scope="module")
def rules(rule_groups) -> list[dict[str, Any]]:
    return [rule for group in rule_groups["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def unit_tests() -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
    return tests


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(
        [require_tool("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def exported() -> dict[str, set[str]]:
    """The labels of each series that a replica has, by its name."""
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(everything_once()):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def test_promtool_accepts_the_rules(rule_groups, tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_groups))
    promtool("check", "rules", tmp_path / "rules.yaml")


def test_every_alert_fires_when_it_should_and_not_before(rule_groups, tmp_path):
    silent = {
        "groups": [
            {**group, "rules": [{k: v for k, v in rule.items() if k != "annotations"} for rule in group["rules"]]}
            for group in rule_groups["groups"]
        ]
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(silent))
    (tmp_path / "tests.yaml").write_text(UNIT_TESTS.read_text())
    promtool("test", "rules", tmp_path / "tests.yaml")


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(rules, unit_tests):
    cases = [case for test in unit_tests for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_every_metric_of_a_rule_is_one_that_the_service_exports(rules):
    named = {metric for rule in rules for metric in re.findall(r"logwarden_\w+", rule["expr"])}
    assert named
    assert named <= exported().keys()


def test_the_series_of_the_tests_have_the_labels_of_the_service(unit_tests):
    series = exported()
    for test in unit_tests:
        for given in test["input_series"]:
            name, _, labels = given["series"].partition("{")
            assert set(re.findall(r'(\w+)="', labels)) - OF_PROMETHEUS <= series[name], given["series"]


def test_every_alert_leads_to_a_paragraph_and_every_paragraph_is_of_an_alert(rules):
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules]
    for rule in rules:
        file, anchor = rule["annotations"]["runbook_url"].split("#")
        assert REPOSITORY / file == RUNBOOK
        assert anchor == rule["alert"].lower(), "as Markdown makes anchors of headings"


def test_every_alert_says_how_urgent_it_is_and_what_is_the_case(rules):
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]


def test_the_pods_are_scraped_where_the_service_listens(manifests):
    monitor = one(manifests, "PodMonitor")["spec"]
    pods = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= pods.items()
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container(manifests)["ports"]}
    assert endpoint["path"] == "/metrics"
