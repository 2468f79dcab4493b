"""The kustomize components over the base: valid for the API server, and about the pods that there are."""

import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import latest_version

from service.domain.events import Arrival, EventParser
from tests.support.manifests import BASE, REPOSITORY, Manifest, container, one, render

OLDEST_KUBERNETES = "1.29"
COMPONENTS = ["network-policy", "autoscaling"]
ARRIVAL = Arrival(0, None)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    folder = tmp_path_factory.mktemp("overlay")
    up = "../" * len(folder.parts[1:])
    parts = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "logwarden",
        "resources": [f"{up}{BASE.relative_to('/')}"],
        "components": [f"{up}{(BASE.parent / 'components' / name).relative_to('/')}" for name in COMPONENTS],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    return render(folder)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, latest_version()])
def test_they_are_valid_and_have_no_unknown_field(overlay: list[Manifest], version: str) -> None:
    for manifest in overlay:
        kubernetes_validate.validate(manifest, version, strict=True)
        assert manifest["metadata"]["namespace"] == "logwarden"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "logwarden"


def test_the_policy_is_about_our_pods_alone_and_about_their_port(overlay: list[Manifest]) -> None:
    spec = one(overlay, "NetworkPolicy")["spec"]
    assert spec["podSelector"]["matchLabels"] == one(overlay, "Deployment")["spec"]["selector"]["matchLabels"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    [ingress] = spec["ingress"]
    assert {port["port"] for port in ingress["ports"]} == {port["name"] for port in container(overlay)["ports"]}
    assert all("podSelector" in peer and "namespaceSelector" in peer for peer in ingress["from"]), "one peer, not two"
    opened = {(p["protocol"], p["port"], p.get("endPort")) for rule in spec["egress"] for p in rule["ports"]}
    assert opened == {
        ("UDP", 53, None),
        ("TCP", 53, None),
        ("TCP", 9092, 9098),
        ("TCP", 443, None),
        ("TCP", 80, None),
    }


def test_the_autoscaler_has_the_number_of_replicas_to_itself(overlay: list[Manifest]) -> None:
    deployment, scaler = one(overlay, "Deployment"), one(overlay, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in deployment["spec"]
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert scaler["minReplicas"] > one(overlay, "PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert container(overlay)["resources"]["requests"]["cpu"] == "500m", "which 140% is of"


def test_the_rule_that_is_documented_takes_the_calls_that_events_are_made_of() -> None:
    text = (REPOSITORY / "k8s" / "events-to-kafka.md").read_text()
    rule, policy = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    assert policy["Statement"]
    [source], [kind] = rule["source"], rule["detail-type"]
    for name in rule["detail"]["eventName"]:
        detail = {
            "eventSource": "logs.amazonaws.com",
            "eventName": name,
            "awsRegion": "eu-west-1",
            "recipientAccountId": "111122223333",
            "requestParameters": {
                "logGroupName": "/x",
                "resourceArn": "arn:aws:logs:eu-west-1:111122223333:log-group:/x",
            },
        }
        event = {"source": source, "detail-type": kind, "account": "111122223333", "region": "eu-west-1"}
        parsed = EventParser().parse(json.dumps(event | {"detail": detail}).encode(), [], arrival=ARRIVAL)
        assert len(parsed.commands) == 1, name


@pytest.mark.parametrize("page", ["k8s/events-to-kafka.md", "k8s/README.md"])
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    path: Path = REPOSITORY / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
