"""What a replica shows of itself, over its real parts in virtual time; none of them is connected to anything."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry, generate_latest

from service.core.control import Control
from service.core.dispatcher import Dispatcher
from service.core.fence import Fence
from service.core.forwarding import Forwarding
from service.core.turn import Held, Turn
from service.domain.command import EnsureCommand
from service.domain.control import KEY, Paused
from service.domain.dead_letter import DeadLetterLimit
from service.domain.held import HeldLane, HeldLanes, key_of
from service.domain.outcome import FailureClass
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.http.tokens import TokenFile
from service.http.trigger import Waits
from service.registry.file import FileDirectory
from service.settings import Settings
from service.stream.assignment import Assignment
from service.stream.consumer import Consumer, ConsumerLimits
from service.stream.publisher import KafkaPublisher
from service.view import ReplicaView
from tests.support.fakes import LANE, Deliveries, ensure, new_lane
from tests.support.http import caught_up_already
from tests.support.virtual_time import VirtualClock, virtual_time

TENANTS = """
version: 1
tenants:
  - id: tenant-a
    keys: {eu-west-1: "arn:aws:kms:eu-west-1:111122223333:key/0d9ac4b8"}
    rules: [{accounts: ["111122223333"]}]
"""


class Handler(Forwarding):
    def handle(self, record: Any, delivery: Any) -> None:
        raise NotImplementedError


class Replica:
    """A view over parts that a test can move; `held` makes every command fail for it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = VirtualClock()
        self.publisher = KafkaPublisher({})
        self.consumers: list[Consumer] = []
        self.limits: list[DeadLetterLimit] = []
        self.not_ready: str | None = None
        self.held: FailureClass | None = None
        self.all_held = HeldLanes()
        self.control = Control(publisher=self.publisher, clock=self.clock, topic="control", caught_up=caught_up_already)
        chosen = Settings(**settings)
        self.view = ReplicaView(
            settings=chosen,
            replica="logwarden-0",
            clock=self.clock,
            publisher=self.publisher,
            consumers=self.consumers,
            limits=self.limits,
            control=self.control,
            held=self.all_held,
            tokens=TokenFile(chosen.api_token_file),
            not_ready_reason=lambda: self.not_ready,
        )
        self.fence = Fence(clock=self.clock, lasts_s=1_000_000.0, session_s=1_000_010.0)
        self.dispatcher = Dispatcher(
            schedule=Schedule(
                new_lane=new_lane,
                max_under_way=16,
            ),
            work=self._work,
            clock=self.clock,
            hold_s=5.0,
            max_hold_s=60.0,
            may_call=self.fence.may_call,
        )
        self.fence.attach(self.dispatcher)
        self.too_new: list[str] = []

    async def _work(self, command: EnsureCommand, turn: Turn) -> Held | None:
        async with turn.call(Quota.ASSOCIATE):
            await asyncio.sleep(0.1)
        return None if self.held is None else Held(self.held, "as told")

    def works(self, folder: Path) -> FileDirectory:
        (folder / "tenants.yaml").write_text(TENANTS)
        directory = FileDirectory(folder / "tenants.yaml", clock=self.clock)
        self.fence.proven(self.clock.now())
        self.view.works(self.dispatcher, directory, fence=self.fence, too_new=lambda: self.too_new)
        return directory

    def consumer(self) -> Consumer:
        limits = ConsumerLimits(
            max_pending=10, commit_interval_s=1, commit_timeout_s=1, rebalance_drain_s=1, fetch_max_wait_ms=1
        )
        consumer = Consumer(
            name="worker",
            group="g",
            topics=["work"],
            arguments={},
            handler=Handler(),
            limits=limits,
            clock=self.clock,
        )
        self.consumers.append(consumer)
        return consumer

    def metrics(self) -> str:
        registry = CollectorRegistry()
        for collector in self.view.collectors():
            registry.register(collector)
        return generate_latest(registry).decode()


@virtual_time
async def test_a_replica_that_waits_for_kafka_has_a_status_already():
    replica = Replica(dry_run=True)
    replica.not_ready = "starting"
    status = replica.view.status()
    assert (status.replica, status.mode, status.not_ready) == ("logwarden-0", "dry-run", "starting")
    assert status.roles == ["http", "ingest", "worker"]
    assert (status.registry, status.consumers, status.last_progress_s, status.lanes_held) == (None, [], None, {})
    assert "logwarden_lanes 0.0" in replica.metrics()


@virtual_time
async def test_progress_counts_from_the_start_of_work_and_then_from_the_last_command_that_ended(tmp_path):
    replica = Replica()
    replica.works(tmp_path)
    await asyncio.sleep(50)
    assert replica.view.progress_s() == 50
    running = asyncio.create_task(replica.dispatcher.run())
    await asyncio.sleep(0)
    replica.dispatcher.submit(ensure(), Deliveries().next())
    await asyncio.sleep(10)
    assert replica.view.status().last_progress_s == pytest.approx(10 - 0.1), "the call"
    assert "logwarden_last_progress_seconds 9.9" in replica.metrics()
    running.cancel()
    await asyncio.wait([running])


@virtual_time
async def test_a_global_fault_is_shown_with_its_class_while_its_commands_wait(tmp_path):
    replica = Replica()
    replica.works(tmp_path)
    replica.held = FailureClass.UNREACHABLE
    running = asyncio.create_task(replica.dispatcher.run())
    await asyncio.sleep(0)
    replica.dispatcher.submit(ensure(), Deliveries().next())
    await asyncio.sleep(2)
    assert replica.view.status().lanes_held == {"unreachable": 1}
    (lane,) = replica.view.lanes().lanes
    assert (lane.total_waiting, lane.oldest_waiting_s) == (1, 2.0)
    assert 'logwarden_lanes_held{failure="unreachable"} 1.0' in replica.metrics()
    replica.held = None
    await asyncio.sleep(60)
    assert replica.view.status().lanes_held == {}
    running.cancel()
    await asyncio.wait([running])


async def test_a_registry_that_is_refused_shows_the_version_in_force_and_why(tmp_path):
    replica = Replica()
    directory = replica.works(tmp_path)
    good = replica.view.status().registry
    assert "logwarden_registry_refused 0.0" in replica.metrics()
    assert good is not None
    assert good.last_error is None
    (tmp_path / "tenants.yaml").write_text("version: 2\n")
    directory._seen = None
    await directory.refresh()
    bad = replica.view.status().registry
    assert "logwarden_registry_refused 1.0" in replica.metrics()
    [loaded] = re.findall(r"^logwarden_registry_loaded_timestamp_seconds (.+)$", replica.metrics(), re.MULTILINE)
    assert float(loaded) == directory.loaded_at_ms / 1000
    assert bad is not None
    assert (bad.version, bad.loaded_at) == (good.version, good.loaded_at)
    assert bad.last_error is not None
    assert "tenants" in bad.last_error


@virtual_time
async def test_a_topic_that_cannot_be_written_is_named_with_since_when_and_why():
    replica = Replica()
    assert replica.view.status().publish_failing == []
    assert 'logwarden_publish_failing_seconds{topic="logwarden.outcomes"} 0.0' in replica.metrics()
    outcomes, retries = (replica.publisher._writes[f"logwarden.{topic}"] for topic in ("outcomes", "retry.1"))
    outcome = outcomes.begin(replica.clock.now())
    outcomes.failed(outcome, "NotEnoughReplicas", replica.clock.now())
    await asyncio.sleep(5)
    retries.failed(retries.begin(replica.clock.now()), "TopicAuthorizationFailed", replica.clock.now())
    outcomes.failed(outcome, "NotEnoughReplicasAfterAppend", replica.clock.now())
    await asyncio.sleep(2)
    assert [f.model_dump() for f in replica.view.status().publish_failing] == [
        {"topic": "logwarden.outcomes", "for_s": 7, "error": "NotEnoughReplicasAfterAppend"},
        {"topic": "logwarden.retry.1", "for_s": 2, "error": "TopicAuthorizationFailed"},
    ]
    shown = replica.metrics()
    assert 'logwarden_publish_failing_seconds{topic="logwarden.outcomes"} 7.0' in shown
    assert 'logwarden_publish_failing_seconds{topic="logwarden.retry.1"} 2.0' in shown
    assert 'logwarden_publish_failing_seconds{topic="logwarden.work"} 0.0' in shown


@virtual_time
async def test_while_no_outcome_can_be_written_no_lane_says_when_it_will_end(tmp_path):
    replica = Replica()
    replica.works(tmp_path)
    replica.dispatcher.submit(ensure(), Deliveries().next())
    assert replica.view.lanes().estimated_end_s == 0.2
    outcomes = replica.publisher._writes["logwarden.outcomes"]
    outcome = outcomes.begin(replica.clock.now())
    outcomes.failed(outcome, "NotEnoughReplicas", replica.clock.now())
    assert replica.view.lanes().estimated_end_s is None
    outcomes.acknowledged(outcome, replica.clock.now())
    assert replica.view.lanes().estimated_end_s == 0.2


@virtual_time
async def test_calls_that_are_kept_back_show_for_how_long_and_the_end_of_a_lane_is_open_meanwhile(tmp_path):
    replica = Replica()
    replica.works(tmp_path)
    replica.consumer()._assignment = Assignment({TopicPartition("work", 0)})
    replica.fence.refuted()
    running = asyncio.create_task(replica.dispatcher.run())
    replica.dispatcher.submit(ensure(), Deliveries().next())
    await asyncio.sleep(3)
    assert (replica.view.status().calls_kept_back_s, replica.view.lanes().estimated_end_s) == (3, None)
    assert "logwarden_calls_kept_back_seconds 3.0" in replica.metrics()
    replica.fence.proven(replica.clock.now())
    assert (replica.view.status().calls_kept_back_s, replica.view.lanes().estimated_end_s) == (None, 0.2)
    assert "logwarden_calls_kept_back_seconds 0.0" in replica.metrics()
    running.cancel()
    await asyncio.wait([running])


@virtual_time
async def test_commands_that_are_too_new_are_named(tmp_path):
    replica = Replica()
    assert replica.view.status().commands_too_new == []
    replica.works(tmp_path)
    replica.too_new.append("work/7/42")
    assert replica.view.status().commands_too_new == ["work/7/42"]
    assert "logwarden_commands_too_new 1.0" in replica.metrics()


@virtual_time
async def test_a_dry_run_and_a_wrong_token_file_are_gauges(tmp_path):
    tokens = tmp_path / "tokens"
    replica = Replica(dry_run=True, api_token_file=tokens)
    assert "logwarden_dry_run 1.0" in replica.metrics()
    assert "logwarden_dry_run 0.0" in Replica().metrics()
    assert "logwarden_api_tokens_refused 0.0" in replica.metrics(), "nobody has made one"
    tokens.write_text("short\n")
    assert "logwarden_api_tokens_refused 1.0" in replica.metrics()


@virtual_time
async def test_a_worker_without_a_partition_keeps_nothing_back(tmp_path):
    replica = Replica()
    replica.works(tmp_path)
    replica.consumer()
    replica.fence.refuted()
    assert not replica.fence.may_call()
    await asyncio.sleep(3)
    assert replica.view.status().calls_kept_back_s is None


@virtual_time
async def test_dead_letters_that_are_stopped_show_why():
    replica = Replica()
    replica.limits += [DeadLetterLimit(max_consecutive=1, max_share=1, window=10) for _ in range(2)]
    assert replica.view.status().dead_letters_stopped is None
    replica.limits[1].failed(FailureClass.MALFORMED_EVENT)
    replica.limits[1].failed(FailureClass.MALFORMED_EVENT)
    assert replica.view.status().dead_letters_stopped == replica.limits[1].reason is not None


@virtual_time
async def test_a_consumer_that_does_not_poll_is_stalled_and_one_that_never_has_is_not():
    replica = Replica()
    consumer = replica.consumer()
    await asyncio.sleep(1000)
    assert replica.view.stalled() is None, "Kafka is away: a restart helps nobody"
    consumer.last_poll = replica.clock.now()
    await asyncio.sleep(299)
    assert replica.view.stalled() is None
    await asyncio.sleep(2)
    assert replica.view.stalled() == "consumer worker has not polled for 301 s"
    assert [(c.name, c.joined) for c in replica.view.status().consumers] == [("worker", False)]


@virtual_time
async def test_a_replica_without_the_worker_role_has_no_metrics_of_lanes_and_none_of_progress():
    replica = Replica(roles={"http", "ingest"})
    assert "logwarden_lane" not in replica.metrics()
    assert "last_progress" not in replica.metrics()
    assert "logwarden_publish_failing_seconds" in replica.metrics()


@virtual_time
async def test_a_pause_is_shown_and_neither_its_length_nor_an_end_of_lanes_is_counted(tmp_path):
    replica = Replica(dry_run=True)
    replica.works(tmp_path)
    replica.control.attach(replica.dispatcher)
    assert "logwarden_paused" not in replica.metrics(), "not known yet"
    await replica.control.until_known()
    assert "logwarden_paused 0.0" in replica.metrics()
    running = asyncio.create_task(replica.dispatcher.run())
    replica.control.apply(KEY, Paused(by="alice", at_ms=0, reason="a break").to_bytes())
    replica.dispatcher.submit(ensure(), Deliveries().next())
    await asyncio.sleep(3600)
    status = replica.view.status()
    assert (status.mode, status.dry_run, status.last_progress_s) == ("paused", True, None)
    assert status.pause is not None
    assert status.pause.model_dump() == {
        "paused": True,
        "by": "alice",
        "since": "1970-01-01T00:00:00.000+00:00",
        "reason": "a break",
    }
    assert "logwarden_paused 1.0" in replica.metrics()
    assert "last_progress" not in replica.metrics()
    assert (replica.view.lanes().estimated_end_s, replica.view.stalled()) == (None, None)
    replica.held = FailureClass.UNREACHABLE
    replica.control.apply(KEY, None)
    await asyncio.sleep(2)
    assert (replica.view.status().mode, replica.view.status().pause) == ("dry-run", None)
    assert replica.view.progress_s() == 2, "since it was resumed, though nothing has been finished for an hour"
    assert not replica.view.lanes().lanes[0].is_paused
    running.cancel()
    await asyncio.wait([running])


@virtual_time
async def test_what_waits_anywhere_in_the_fleet_is_explained_a_pause_before_a_hold(tmp_path):
    replica = Replica()
    now_ms = replica.clock.epoch_ms()
    assert replica.view.why_waits(LANE) is None
    said = HeldLane(
        lane=LANE, failure="role-not-assumable", detail="AccessDenied", since_ms=now_ms - 60_000, at_ms=now_ms
    )
    replica.all_held.apply(key_of(LANE), said.to_bytes(), now_ms=now_ms)
    held = replica.view.why_waits(LANE)
    assert held == Waits("role-not-assumable", "AccessDenied", FailureClass.ROLE_NOT_ASSUMABLE.hint, now_ms - 60_000)
    replica.control.apply(KEY, Paused.of(by="alice", at_ms=now_ms, reason="a break").to_bytes())
    paused = replica.view.why_waits(LANE)
    assert paused is not None
    assert (paused.reason, paused.detail, paused.since_ms) == ("paused", "a break", now_ms)
    assert "alice" in paused.hint
    replica.control.apply(KEY, None)
    await asyncio.sleep(600)
    assert replica.view.why_waits(LANE) is None, "whoever said so is gone"


@virtual_time
async def test_what_waits_while_no_outcome_can_be_written_says_so_in_the_words_of_the_status():
    replica = Replica()
    now_ms = replica.clock.epoch_ms()
    said = HeldLane(lane=LANE, failure="unreachable", detail="no route", since_ms=now_ms, at_ms=now_ms)
    replica.all_held.apply(key_of(LANE), said.to_bytes(), now_ms=now_ms)
    retries, outcomes = (replica.publisher._writes[f"logwarden.{topic}"] for topic in ("retry.1", "outcomes"))
    retries.failed(retries.begin(replica.clock.now()), "UnknownTopicOrPartition", replica.clock.now())
    await asyncio.sleep(10)
    held = replica.view.why_waits(LANE)
    assert held is not None
    assert held.reason == "unreachable", "another topic's trouble is not that of every log group"
    outcome = outcomes.begin(replica.clock.now())
    outcomes.failed(outcome, "TopicAuthorizationFailed", replica.clock.now())
    await asyncio.sleep(5)
    waits = replica.view.why_waits(LANE)
    assert waits is not None
    [shown] = [f for f in replica.view.status().publish_failing if f.topic == "logwarden.outcomes"]
    assert waits.detail == f"{shown.topic}: {shown.error}" == "logwarden.outcomes: TopicAuthorizationFailed"
    assert (waits.reason, waits.since_ms) == ("publish-failing", now_ms + 10_000)
    assert "`Write`" in waits.hint
    replica.control.apply(KEY, Paused.of(by="alice", at_ms=now_ms, reason="a break").to_bytes())
    paused = replica.view.why_waits(LANE)
    assert paused is not None
    assert paused.reason == "paused"
    replica.control.apply(KEY, None)
    outcomes.acknowledged(outcome, replica.clock.now())
    again = replica.view.why_waits(LANE)
    assert again is not None
    assert again.reason == "unreachable"
