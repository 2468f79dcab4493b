"""What is called weak of a topic that exists, and what only differs from the one that we would create."""

import pytest

from service.settings import Settings
from service.stream.comparison import Comparison, Verdict
from service.stream.existing import ExistingTopic
from service.stream.topics import TopicSpec, topic_specs

SPECS = {spec.name: spec for spec in topic_specs(Settings())}
WORK, DEAD_LETTERS, CONTROL, REQUESTS = (
    SPECS[f"logwarden.{name}"] for name in ("work", "dead-letters", "control", "requests")
)


def like(spec: TopicSpec, *, partitions: int | None = None, replicas: int = 3, **config: str | None) -> ExistingTopic:
    """The topic as it was created, but for these changes; None is what may not be read."""
    changed = {**spec.config, **{name.replace("_", "."): value for name, value in config.items()}}
    shown = {name: value for name, value in changed.items() if value is not None}
    return ExistingTopic(name=spec.name, partitions=partitions or spec.partitions, replicas=replicas, config=shown)


def verdict(spec: TopicSpec, existing: ExistingTopic | None, *, replication: int = 3, is_ours: bool = True) -> Verdict:
    return Comparison(spec, existing, replication, is_ours).verdict


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_topic_as_it_was_created_is_as_wanted_and_none_is_missing(spec: TopicSpec):
    assert verdict(spec, like(spec)) is Verdict.AS_WANTED
    assert verdict(spec, None) is Verdict.MISSING
    assert verdict(spec, None, is_ours=False) is Verdict.MISSING


@pytest.mark.parametrize(
    ("spec", "existing"),
    [
        (WORK, like(WORK, replicas=2)),
        (WORK, like(WORK, min_insync_replicas="1")),
        (WORK, like(WORK, retention_ms="604800000")),
        (WORK, like(WORK, cleanup_policy="compact")),
        (WORK, like(WORK, cleanup_policy="compact,delete")),
        (CONTROL, like(CONTROL, cleanup_policy="delete")),
        (CONTROL, like(CONTROL, partitions=2)),
        (DEAD_LETTERS, like(DEAD_LETTERS, max_message_bytes="1048588")),
    ],
)
def test_what_loses_or_refuses_records_is_weak_unless_the_topic_is_somebody_elses(
    spec: TopicSpec, existing: ExistingTopic
):
    assert verdict(spec, existing) is Verdict.WEAK
    assert verdict(spec, existing, is_ours=False) is Verdict.DIFFERS


@pytest.mark.parametrize(
    ("spec", "existing"),
    [
        (WORK, like(WORK, partitions=12)),
        (WORK, like(WORK, replicas=5)),
        (WORK, like(WORK, min_insync_replicas="3")),
        (WORK, like(WORK, retention_ms="-1")),
        (WORK, like(WORK, retention_ms="9999999999")),
        (DEAD_LETTERS, like(DEAD_LETTERS, max_message_bytes="9999999")),
        (REQUESTS, like(REQUESTS, segment_ms="604800000")),
        (REQUESTS, like(REQUESTS, partitions=2)),
    ],
)
def test_what_may_be_meant_only_differs(spec: TopicSpec, existing: ExistingTopic):
    assert verdict(spec, existing) is Verdict.DIFFERS
    assert " (wanted " in str(Comparison(spec, existing, 3))


def test_what_may_not_be_read_is_unknown_and_not_held_against_the_topic():
    unread = like(WORK, min_insync_replicas=None, cleanup_policy=None, retention_ms=None)
    assert verdict(WORK, unread) is Verdict.AS_WANTED
    assert str(Comparison(WORK, unread, 3)) == (
        "partitions=48  replicas=3  min.insync.replicas=unknown  cleanup.policy=unknown  retention.ms=unknown"
    )


@pytest.mark.parametrize(("replication", "expected"), [(1, Verdict.AS_WANTED), (-1, Verdict.WEAK), (2, Verdict.WEAK)])
def test_one_replica_is_weak_unless_it_is_meant(replication: int, expected: Verdict):
    [spec] = [s for s in topic_specs(Settings(topic_replication=replication)) if s.name == WORK.name]
    assert verdict(spec, like(spec, replicas=1), replication=replication) is expected
