"""Which topics are called weak, and with how many replicas they are created."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from service.settings import Settings
from service.stream.comparison import Comparison
from service.stream.durability import MEND, Weaknesses
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


def test_msk_serverless_is_asked_for_nothing_that_is_not_to_be_chosen_there():
    serverless = Settings(kafka_bootstrap_servers="boot-abc.c2.kafka-serverless.eu-west-1.amazonaws.com:9098")
    chosen = {spec.name: spec.config for spec in topic_specs(serverless)}
    assert set().union(*chosen.values()) == {"cleanup.policy", "retention.ms", "max.message.bytes"}
    for spec in topic_specs(Settings()):
        assert chosen[spec.name].items() <= spec.config.items()
        assert spec.config.keys() - chosen[spec.name].keys() <= {"min.insync.replicas", "segment.ms"}


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


def found(settings: Settings, changes: dict[str, dict]) -> Weaknesses:
    """What is found where the topics are as they were created, but for these changes."""
    comparisons = []
    for spec in topic_specs(settings):
        existing = ExistingTopic(name=spec.name, partitions=spec.partitions, replicas=3, config=spec.config)
        change = dict(changes.get(spec.name, {}))
        config = {**spec.config, **change.pop("config", {})}
        is_ours = spec.name not in settings.source_topics
        comparisons.append(Comparison(spec, replace(existing, config=config, **change), 3, is_ours))
    return Weaknesses.of(comparisons)


@pytest.mark.parametrize("spec", topic_specs(Settings()), ids=lambda spec: spec.name)
@pytest.mark.parametrize("name", ["cleanup.policy", "retention.ms", "max.message.bytes", "partitions"])
def test_each_setting_that_loses_records_is_named_with_what_is_there_and_wanted_and_what_comes_of_it(spec, name):
    is_compacted = spec.config["cleanup.policy"] == "compact"
    wrong = {
        "cleanup.policy": "delete" if is_compacted else "compact",
        "retention.ms": "60000",
        "max.message.bytes": "1",
    }
    change = {"partitions": spec.partitions + 1} if name == "partitions" else {"config": {name: wrong[name]}}
    weak = found(Settings(), {spec.name: change})
    is_said = spec.name not in Settings().source_topics and (
        is_compacted if name == "partitions" else name in spec.config
    )
    assert [(topic, prop.name) for topic, prop in weak.wrong] == ([(spec.name, name)] if is_said else [])
    assert weak.topics == ([spec.name] if is_said else [])
    for (_, prop), line in zip(weak.wrong, weak.advice, strict=True):
        assert prop.hint
        assert line.startswith(f"{spec.name}: {name}={prop.actual} (wanted {prop.wanted}): ")


def test_a_thin_topic_is_said_once_and_not_as_settings_of_its_own():
    weak = found(Settings(), {"logwarden.work": {"replicas": 1, "config": {"min.insync.replicas": "1"}}})
    assert [topic.name for topic in weak.thin] == weak.topics == ["logwarden.work"]
    assert weak.wrong == []
    assert weak.advice == [MEND]


def test_topics_as_they_are_created_are_not_weak():
    assert found(Settings(), {}) == Weaknesses(thin=[], wrong=[])


def test_by_default_no_topic_is_weak():
    assert Settings().topic_replication >= 3
