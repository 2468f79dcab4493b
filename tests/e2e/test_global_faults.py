"""Faults that are no log group's own, and a restart while something waits for its time: nothing is lost, work goes on by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from prometheus_client.parser import text_string_to_metric_families

from service.core.worker import DUE_HEADER
from service.domain.outcome import FailureClass
from service.sandbox.aws.sandbox import OWN_ACCOUNT
from tests.support.deployment import Deployment, client
from tests.support.guarded_kafka import allow, forbid, guarded_kafka, user_settings
from tests.support.kafka_rights import Right, rights_by_role
from tests.support.organisation import Organisation, created

WRITE_OUTCOMES = Right("topic", "logwarden.outcomes", "Write")


async def until(is_so: Callable[[], Awaitable[bool]], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await is_so():
            await asyncio.sleep(0.1)


async def _is_committed(deployment) -> bool:
    """Whether all that is on the work topic is finished."""
    return bool(await deployment.work_committed() == await deployment.work_ends())


async def _outcomes_are(deployment, counts: Mapping[str, int]) -> bool:
    return dict(await deployment.outcome_counts()) == counts


async def test_what_is_deferred_keeps_its_time_when_the_process_is_killed(best_kafka, aws, tmp_path):
    everything = Organisation(accounts=("111122223333",), regions=("eu-west-1",))
    # A lost member is in its groups for 10 s: the next one has the record in hand well before its time, and it has no second try.
    deployment = await Deployment.create(
        best_kafka, aws, everything, tmp_path, retry_delays_s=[15.0], commit_interval_s=0.2
    )
    [retry_topic] = deployment.settings.retry_topics
    [group] = everything.groups(1)
    await everything.create_groups(aws, [group])
    await aws.set_key_state(everything.key_of(group), "Disabled")

    async with deployment.replica() as service:
        await deployment.publish([created(group)])
        await until(lambda: _outcomes_are(deployment, {"deferred": 1}))
        await until(lambda: _is_committed(deployment))
        await service.kill()
    await aws.set_key_state(everything.key_of(group), "Enabled")
    await aws.clear_calls()
    [record] = await deployment.all_on(retry_topic)
    due_s = int(dict(record.headers)[DUE_HEADER]) / 1000

    async with deployment.replica() as service, client(service) as http:

        async def is_in_hand() -> bool:
            consumers = (await http.get("/v1/status")).json()["consumers"]
            return any(consumer["name"] == "retry" and consumer["pending"] == 1 for consumer in consumers)

        await until(is_in_hand)
        left_s = due_s - time.time()
        due_at_s = time.monotonic() + left_s
        assert left_s > 0, "it is in hand before its time"
        outcomes = await deployment.final_outcomes([group], timeout_s=30)
    assert [outcome["state"] for outcome in outcomes.values()] == ["sealed"]
    [call] = await aws.calls("AssociateKmsKey")
    assert 0 <= call.started_s - due_at_s < 3
    assert await deployment.all_on(retry_topic) == [record]
    assert await deployment.outcome_counts() == {"deferred": 1, "sealed": 1}
    assert await deployment.all_on(deployment.settings.dead_letter_topic) == []
    assert await everything.wrong(aws, [group]) == {}


@pytest.mark.apache_kafka
async def test_without_the_right_to_write_outcomes_nothing_is_finished_and_with_it_all_goes_on(aws, tmp_path):
    everything = Organisation(accounts=("111122223333", "444455556666"), regions=("eu-west-1", "us-east-1"))
    async with guarded_kafka() as (broker, address):
        deployment = await Deployment.create(broker, aws, everything, tmp_path)
        user, names = "worker", deployment.settings.kafka_group_prefix
        allow(broker, user, set().union(*rights_by_role().values()) - {WRITE_OUTCOMES}, names)
        groups = everything.groups(32)
        await everything.create_groups(aws, groups)
        async with deployment.replica(**user_settings(address, user)) as service, client(service) as http:
            at_first, later = groups[:16], groups[16:]
            await _is_stuck_and_says_so(deployment, http, at_first)
            allow(broker, user, {WRITE_OUTCOMES}, names)
            await _goes_on(deployment, http, at_first)
            forbid(broker, user, {WRITE_OUTCOMES}, names)
            await _is_stuck_and_says_so(deployment, http, later)
            allow(broker, user, {WRITE_OUTCOMES}, names)
            await _goes_on(deployment, http, groups)
            assert service.is_running
            assert await service.terminate() == 0
        assert await deployment.all_on(deployment.settings.dead_letter_topic) == []
        assert (await deployment.outcome_counts())["sealed"] == 32


@pytest.mark.apache_kafka
async def test_outcomes_that_their_topic_has_no_room_for_wait_until_it_has(apache_kafka, aws, tmp_path):
    everything = Organisation(accounts=("111122223333", "444455556666"), regions=("eu-west-1", "us-east-1"))
    deployment = await Deployment.create(apache_kafka, aws, everything, tmp_path)
    admin = AIOKafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)

    async def take_at_most(size_bytes: int) -> None:
        settings = {"max.message.bytes": str(size_bytes)}
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, deployment.settings.outcomes_topic, settings)]
        )

    groups = everything.groups(16)
    await everything.create_groups(aws, groups)
    await admin.start()
    try:
        await take_at_most(200)
        async with deployment.replica() as service, client(service) as http:
            await _is_stuck_and_says_so(deployment, http, groups, why="MessageSizeTooLarge")
            await take_at_most(1_048_588)
            await _goes_on(deployment, http, groups)
            assert service.is_running
    finally:
        await admin.close()
    assert await deployment.all_on(deployment.settings.dead_letter_topic) == []


async def _is_stuck_and_says_so(deployment, http, groups, *, why="TopicAuthorizationFailed") -> None:
    """Work the groups while their outcomes cannot be written."""
    settings, everything, aws = deployment.settings, deployment.organisation, deployment.aws
    finished = await deployment.work_ends()
    await deployment.publish([created(g) for g in groups])

    async def is_called() -> bool:
        return not await everything.wrong(aws, groups)

    await until(is_called)
    asked = {"account": groups[0].account, "region": groups[0].region, "name": groups[0].name}
    answer = await http.post("/v1/requests", json={"log_groups": [asked]}, headers={"Prefer": "wait=3"})
    assert answer.status_code == 202, answer.text
    status = (await http.get("/v1/status")).json()
    [failing] = status["publish_failing"]
    assert failing["topic"] == settings.outcomes_topic
    assert why in failing["error"]
    assert failing["for_s"] > 2
    [request] = (await http.get(answer.headers["Location"])).json()["log_groups"]
    assert request["state"] == "pending"
    assert request["waits"]["detail"] == f"{failing['topic']}: {failing['error']}"
    failing_s = await _failing_s(http)
    assert failing_s.pop(settings.outcomes_topic) > 2
    assert set(failing_s.values()) == {0.0}
    [worker] = [consumer for consumer in status["consumers"] if consumer["name"] == "worker"]
    assert worker["pending"] == len(groups) + 1
    committed = await deployment.work_committed()
    assert all(at <= finished.get(partition, 0) for partition, at in committed.items()), (committed, finished)
    assert await deployment.all_on(settings.dead_letter_topic) == []


async def _goes_on(deployment, http, groups) -> None:
    """Wait until all has its outcome, and is committed."""
    outcomes = await deployment.final_outcomes(groups, timeout_s=20)
    assert {o["state"] for o in outcomes.values()} <= {"sealed", "already-sealed"}

    await until(lambda: _is_committed(deployment))
    assert (await http.get("/v1/status")).json()["publish_failing"] == []
    assert set((await _failing_s(http)).values()) == {0.0}


async def _failing_s(http) -> dict[str, float]:
    """`logwarden_publish_failing_seconds` by topic."""
    return {
        sample.labels["topic"]: sample.value
        for family in text_string_to_metric_families((await http.get("/metrics")).text)
        for sample in family.samples
        if sample.name == "logwarden_publish_failing_seconds"
    }


async def test_credentials_that_come_late_or_are_refused_hold_every_lane_until_there_are_good_ones(
    best_kafka, aws, tmp_path
):
    everything = Organisation(accounts=("111122223333", OWN_ACCOUNT), regions=("eu-west-1", "us-east-1"))
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path, in_place_attempts=2)
    groups = everything.groups(12)
    await everything.create_groups(aws, groups)
    file = tmp_path / "credentials"
    environment = {name: value for name, value in aws.environment("eu-west-1").items() if "ACCESS_KEY" not in name}
    environment |= {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_CONFIG_FILE": str(tmp_path / "config")}

    def write(key_id: str) -> None:
        new = tmp_path / "new"
        new.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = sandbox\n")
        new.rename(file)  # at once, as the kubelet does

    async with deployment.replica(environment=environment) as service, client(service) as http:

        async def is_held_for(failure: FailureClass) -> bool:
            status = (await http.get("/v1/status")).json()
            return bool(status["lanes_held"] == {failure.label: 4})

        async def says_why(failure: FailureClass) -> None:
            await until(lambda: is_held_for(failure))
            for lane in (await http.get("/v1/lanes")).json()["lanes"]:
                assert (lane["held"]["reason"], lane["held"]["hint"]) == (failure.label, failure.hint)
                assert lane["held"]["detail"]

        await deployment.publish([created(g) for g in groups])
        await says_why(FailureClass.CREDENTIALS_MISSING)
        write("ASIANOBODYKNOWSTHIS0")
        await says_why(FailureClass.CREDENTIALS_REJECTED)
        assert len(await everything.wrong(aws, groups)) == 12
        write("AKIAOFTHESANDBOX0000")
        outcomes = await deployment.final_outcomes(groups, timeout_s=30)
        assert {outcome["state"] for outcome in outcomes.values()} == {"sealed"}
        await until(lambda: _nothing_is_held(http))
        assert service.is_running
    assert await everything.wrong(aws, groups) == {}
    assert await deployment.all_on(deployment.settings.dead_letter_topic) == []


async def _nothing_is_held(http) -> bool:
    return bool((await http.get("/v1/status")).json()["lanes_held"] == {})
