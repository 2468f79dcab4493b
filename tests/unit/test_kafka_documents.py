"""The statements for MSK with IAM allow what the table of Kafka's rights lists, and nothing more."""

import fnmatch
import json

import pytest

from service.settings import Settings
from service.stream.topics import topic_specs
from tests.support.kafka_rights import Right, rights_by_role
from tests.support.manifests import REPOSITORY

ACTIONS = {
    ("topic", "Describe"): {"kafka-cluster:DescribeTopic"},
    ("topic", "Read"): {"kafka-cluster:ReadData"},
    ("topic", "Write"): {"kafka-cluster:WriteData"},
    ("group", "Read"): {"kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"},
}
# For a look at how topics are set up, which no role needs.
OPTIONAL = {"kafka-cluster:DescribeTopicDynamicConfiguration"}
STATEMENTS = json.loads((REPOSITORY / "k8s" / "iam" / "kafka-msk.json").read_text())["Statement"]


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allowed(resource: str, name: str) -> set[str]:
    arn = f"arn:aws:kafka:eu-west-1:999900001111:{resource}/platform/0d9ac4b8/{name}"
    return {
        action
        for statement in STATEMENTS
        if any(fnmatch.fnmatchcase(arn, pattern) for pattern in as_list(statement["Resource"]))
        for action in as_list(statement["Action"])
    }


@pytest.mark.parametrize("right", sorted(set().union(*rights_by_role().values())), ids=str)
def test_every_right_of_the_table_is_allowed(right: Right):
    assert ACTIONS[right.resource, right.operation] <= allowed(right.resource, right.name.replace("*", "0"))


def test_no_topic_and_no_group_has_more():
    listed: dict[tuple[str, str], set[str]] = {}
    for right in set().union(*rights_by_role().values()):
        place = right.resource, right.name.replace("*", "0")
        listed.setdefault(place, set()).update(ACTIONS[right.resource, right.operation])
    for (resource, name), actions in listed.items():
        assert allowed(resource, name) - OPTIONAL == actions


def test_the_table_has_every_topic_and_group_of_the_default_settings_and_no_other():
    named = {(right.resource, right.name) for rights in rights_by_role().values() for right in rights}
    topics = {spec.name for spec in topic_specs(Settings())}
    patterns = {name for resource, name in named if resource == "topic"}
    assert [topic for topic in topics if not any(fnmatch.fnmatchcase(topic, name) for name in patterns)] == []
    assert [name for name in patterns if not any(fnmatch.fnmatchcase(topic, name) for topic in topics)] == []
    groups = {name for resource, name in named if resource == "group"}
    assert groups == {f"{Settings().kafka_group_prefix}-{each}" for each in ("ingest", "worker", "retry")}
