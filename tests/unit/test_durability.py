"""Which topics are called weak, and with how many replicas they are created."""

from types import SimpleNamespace

import pytest

from service.settings import Settings
from service.stream.existing import ExistingTopic, _configs
from service.stream.topics import topic_specs


@pytest.mark.parametrize(
    ("replicas", "min_insync", "is_weak"),
    [(3, 2, False), (4, 3, False), (3, None, False), (3, 1, True), (2, 2, True), (2, 1, True), (1, None, True)],
)
def test_a_topic_is_weak_where_the_loss_of_one_broker_loses_records_or_stops_writes(replicas, min_insync, is_weak):
    config = {} if min_insync is None else {"min.insync.replicas": str(min_insync)}
    assert ExistingTopic(name="t", partitions=1, replicas=replicas, config=config).is_weak is is_weak


@pytest.mark.parametrize(("replication", "needed"), [(3, "2"), (5, "2"), (2, None), (1, None), (-1, None)])
def test_a_write_needs_two_of_three_replicas_on_every_topic_and_keeps_its_other_settings(replication, needed):
    specs = topic_specs(Settings(topic_replication=replication))
    assert {spec.config.get("min.insync.replicas") for spec in specs} == {needed}
    assert all("cleanup.policy" in spec.config for spec in specs)


async def test_what_a_broker_does_not_show_is_left_out():
    async def describe_configs(_: object) -> list[SimpleNamespace]:
        shown = [
            ("shown", [("min.insync.replicas", "2", False)]),
            ("denied", []),
            ("hidden", [("min.insync.replicas", None, False)]),
        ]
        return [SimpleNamespace(resources=[(0, "", 2, name, entries) for name, entries in shown])]

    names = ["shown", "denied", "hidden"]
    found = await _configs(SimpleNamespace(describe_configs=describe_configs), names, ["min.insync.replicas"])
    assert found == {"shown": {"min.insync.replicas": "2"}, "denied": {}, "hidden": {}}


def test_by_default_no_topic_is_weak():
    assert Settings().topic_replication >= 3
