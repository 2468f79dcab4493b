"""The main job on the real process: events in, log groups under their own tenant's key, nothing lost, whatever happens meanwhile."""

import asyncio
import json
import random
import signal
from collections import Counter

import httpx
import pytest
import yaml

from service.domain.log_group import AccountId, Lane, Region
from service.sandbox.aws.calls import overlaps
from service.sandbox.aws.faults import Faults
from service.sandbox.kafka.apache import start_apache
from tests.support.deployment import Deployment, client
from tests.support.fakes import ensure
from tests.support.organisation import Organisation, created

ACCOUNTS = ("111122223333", "444455556666", "777788889999")


def organisation(lanes=2):
    return Organisation(accounts=ACCOUNTS[:lanes], regions=("eu-west-1", "us-east-1"))


async def test_five_lanes_end_sealed_while_a_fifth_of_the_calls_fails_and_the_quota_is_five_a_second(
    best_kafka, aws, tmp_path
):
    everything = organisation(3)
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path)
    groups = [g for g in everything.groups(600) if g.lane != (ACCOUNTS[2], "us-east-1")]
    assert (len(groups), len({g.lane for g in groups})) == (500, 5)
    await everything.create_groups(aws, groups)
    await aws.inject(
        Faults(operation="AssociateKmsKey", service_unavailable=0.08, operation_aborted=0.08, connection_reset=0.04),
        seed=1,
    )
    async with deployment.replica() as service:
        await deployment.publish([created(g) for g in groups])
        outcomes = await deployment.final_outcomes(groups, timeout_s=90)
        assert await service.terminate() == 0
    assert Counter(o["state"] for o in outcomes.values()) == {"sealed": 500}
    assert await everything.wrong(aws, groups) == {}
    assert await deployment.all_on(deployment.settings.dead_letter_topic) == []
    calls = await aws.calls("AssociateKmsKey")
    assert overlaps(calls) == []
    assert sum(call.is_throttled for call in calls) <= 0.01 * len(calls)


async def test_kill_9_in_the_middle_of_two_thousand_events_loses_none(best_kafka, aws, tmp_path):
    everything = organisation()
    await aws.set_quota("AssociateKmsKey", per_second=100)
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path, rate_per_s=100.0)
    groups = everything.groups(2000)
    await everything.create_groups(aws, groups)
    async with deployment.replica() as service:
        await deployment.publish([created(g) for g in groups])
        async with asyncio.timeout(60):
            while len(await aws.calls("AssociateKmsKey")) < 700:
                await asyncio.sleep(0.1)
        await service.kill()
    assert len(await everything.wrong(aws, groups)) > 500, "it was killed in the middle"
    async with deployment.replica():
        await deployment.final_outcomes(groups, timeout_s=90)
    assert await everything.wrong(aws, groups) == {}


def malformed(good: bytes, count: int) -> list[bytes | None]:
    """Records that are no events, of every kind, none of them twice."""
    dice = random.Random(5)

    def number(i):
        return json.dumps({"n": i}).encode()

    kinds = [
        lambda i: bytes([0xFF]) + dice.randbytes(dice.randrange(1, 400)),
        lambda i: good[: 40 + i % (len(good) - 60)] + b"~%d" % i,
        lambda i: json.dumps([i, None]).encode(),
        lambda i: json.dumps({"detail": i, "source": ["aws.logs"], "eventSource": {}}).encode(),
        lambda i: json.dumps(f"CreateLogGroup {i}").encode(),
        lambda i: good.replace(b'"111122223333"', b"%d" % (10**11 + i)).replace(
            b"recipientAccountId", b"recipientAccountId"
        ),
        number,
        lambda i: b" " * i + b"null",
    ]
    values: list[bytes | None] = [kinds[i % len(kinds)](i) for i in range(count - 6)]
    values += [b"\x00" * 900_000, b"{" * 900_000, b'{"a":"' + b"x" * 900_000]
    return [*values, None, None, None]


async def test_a_thousand_malformed_records_among_good_ones_become_dead_letters_byte_for_byte(
    best_kafka, aws, tmp_path
):
    everything = organisation()
    await aws.set_quota("AssociateKmsKey", per_second=100)
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path, rate_per_s=100.0)
    groups = everything.groups(200)
    await everything.create_groups(aws, groups)
    good = [created(g) for g in groups]
    bad = malformed(good[0], 1000)
    values = [*good, *bad]
    random.Random(6).shuffle(values)
    async with deployment.replica() as service:
        await deployment.publish(values)
        await deployment.final_outcomes(groups)
        letters = await deployment.dead_letters(1000)
        assert service.is_running
        assert await service.terminate() == 0
    assert await everything.wrong(aws, groups) == {}
    assert len(await deployment.all_on(deployment.settings.dead_letter_topic)) == 1000
    assert Counter(letter.value for letter in letters) == Counter(bad)
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["logwarden-class"] == b"malformed-event"
        assert headers["logwarden-original-topic"].decode() == deployment.settings.source_topics[0]
        assert headers["logwarden-reason"]
        assert headers["logwarden-original-offset"].isdigit()


async def test_sigterm_finishes_what_has_started_commits_and_leaves(best_kafka, aws, tmp_path):
    everything = organisation()
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path)
    groups = everything.groups(80)
    await everything.create_groups(aws, groups)
    await aws.inject(Faults(operation="AssociateKmsKey", latency_s=(1.0, 1.0)))
    async with deployment.replica() as service:
        await deployment.publish([created(g) for g in groups])
        async with asyncio.timeout(30):
            while len(await aws.calls("AssociateKmsKey")) < 8:
                await asyncio.sleep(0.05)
        async with client(service) as http:
            ending = asyncio.create_task(service.terminate())
            statuses = set()
            while not ending.done():
                try:
                    statuses.add((await http.get("/readyz")).status_code)
                except httpx.TransportError:
                    break
                await asyncio.sleep(0.02)
            assert 503 in statuses, "the side-port says that it is not ready while it drains"
        assert await ending == 0
    called = {(c.account, c.region, c.log_group) for c in await aws.calls("AssociateKmsKey") if c.is_ok}
    reported = Counter(
        (o["account"], o["region"], o["log_group"])
        for record in await deployment.all_on(deployment.settings.outcomes_topic)
        if (o := json.loads(record.value))["state"] == "sealed"
    )
    assert set(reported) == called, "every call that was made is an outcome that was reported"
    await aws.clear_faults()
    async with deployment.replica():
        await deployment.final_outcomes(groups)
    assert await everything.wrong(aws, groups) == {}
    assert overlaps(await aws.calls("AssociateKmsKey")) == []


@pytest.mark.apache_kafka
async def test_a_stop_with_a_broker_that_does_not_answer_ends_in_time(aws, tmp_path):
    everything = organisation()
    async with start_apache() as broker:
        deployment = await Deployment.create(broker, aws, everything, tmp_path, shutdown_drain_s=5.0)
        groups = everything.groups(40)
        await everything.create_groups(aws, groups)
        async with deployment.replica() as service:
            await deployment.publish([created(g) for g in groups])
            async with asyncio.timeout(20):
                while len(await aws.calls("AssociateKmsKey")) < 4:
                    await asyncio.sleep(0.05)
            assert broker._process is not None
            broker._process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(1)  # outcomes are on their way, and none is acknowledged
                began = asyncio.get_running_loop().time()
                assert await service.terminate() == 0
                assert asyncio.get_running_loop().time() - began < 5 + 3
            finally:
                broker._process.send_signal(signal.SIGCONT)


async def test_what_is_on_a_retry_topic_that_the_settings_know_no_more_is_worked(best_kafka, aws, tmp_path):
    everything = organisation()
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path, retry_delays_s=[1.0, 2.0])
    [group] = everything.groups(1)
    await everything.create_groups(aws, [group])
    command = ensure(group.name, lane=Lane(AccountId(group.account), Region(group.region)), deferrals=2)
    await deployment.write(deployment.settings.retry_topics[1], command.partition_key, command.to_bytes())
    async with deployment.replica(retry_delays_s=[1.0]):
        await deployment.final_outcomes([group])
    assert await everything.wrong(aws, [group]) == {}


async def test_a_request_is_answered_by_another_replica_after_its_own_has_gone(best_kafka, aws, tmp_path):
    everything = organisation()
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path)
    groups = everything.groups(4)
    await everything.create_groups(aws, groups)
    body = {"log_groups": [{"account": g.account, "region": g.region, "name": g.name} for g in groups]}
    async with deployment.replica() as first, client(first) as http:
        answer = await http.post("/v1/requests", json=body, headers={"Prefer": "wait=20"})
        assert answer.status_code == 200, answer.text
        assert {g["state"] for g in answer.json()["log_groups"]} == {"sealed"}
        location = answer.headers["Location"]
        assert await first.terminate() == 0
    async with deployment.replica() as second, client(second) as http:
        again = await http.get(location)
        assert again.json() == answer.json()
        assert (await http.get(location[:-1] + ("0" if location[-1] != "0" else "1"))).status_code == 404
    assert await everything.wrong(aws, groups) == {}


async def test_waits_for_a_broker_that_is_away_and_says_so(aws, tmp_path, best_kafka):
    deployment = await Deployment.create(best_kafka, aws, organisation(), tmp_path)
    async with (
        deployment.replica(is_awaited=False, kafka_bootstrap_servers="127.0.0.1:9") as service,
        client(service) as http,
    ):
        async with asyncio.timeout(20):
            while "kafka_not_ready" not in service.log_tail():
                await asyncio.sleep(0.1)
        assert (await http.get("/livez")).status_code == 200
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.headers["content-type"]) == (503, "application/problem+json")
        assert (await http.post("/v1/requests", json={"log_groups": [{"arn": "x"}]})).status_code in {400, 503}
        assert await service.terminate() == 0


@pytest.mark.parametrize("away", ["unavailable", "reset"])
async def test_an_outage_of_aws_dead_letters_nothing_and_work_resumes_by_itself(best_kafka, aws, tmp_path, away):
    everything = organisation()
    deployment = await Deployment.create(
        best_kafka, aws, everything, tmp_path, in_place_attempts=2, in_place_max_wait_s=0.2
    )
    groups = everything.groups(40)
    await everything.create_groups(aws, groups)
    await aws.inject(Faults(outage=away))
    async with deployment.replica():
        await deployment.publish([created(g) for g in groups])
        await asyncio.sleep(5)
        assert len(await everything.wrong(aws, groups)) == 40
        await aws.clear_faults()
        await deployment.final_outcomes(groups, timeout_s=60)
    assert await everything.wrong(aws, groups) == {}
    assert await deployment.all_on(deployment.settings.dead_letter_topic) == []


async def test_a_bad_release_leaves_records_where_they_are_once_the_dead_letter_limit_is_reached(
    best_kafka, aws, tmp_path
):
    everything = organisation()
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path, dead_letter_max_consecutive=20)
    groups = everything.groups(8)
    await everything.create_groups(aws, groups)
    async with deployment.replica() as service:
        await deployment.publish([b"nothing that this release reads %d" % i for i in range(200)])
        async with asyncio.timeout(20):
            while "dead_letters_stopped" not in service.log.read_text():
                await asyncio.sleep(0.1)
        await deployment.publish([created(g) for g in groups])
        await deployment.final_outcomes(groups)
        assert service.is_running, "good records are worked all the same"
        assert await service.terminate() == 0
    assert len(await deployment.all_on(deployment.settings.dead_letter_topic)) == 20
    async with deployment.replica(dead_letter_max_consecutive=1000):
        letters = await deployment.dead_letters(200)
    assert len({letter.value for letter in letters}) == 200, "a better release finds them where they were"


async def test_a_group_that_only_its_tags_tell_apart_is_sealed_on_request(best_kafka, aws, tmp_path):
    everything = organisation(1)
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path)
    tenants = yaml.safe_load(deployment.settings.tenants_file.read_text())
    for tenant in tenants["tenants"]:
        tenant["rules"] = [{"accounts": list(everything.accounts), "tags": {"team": [tenant["id"]]}}]
    deployment.settings.tenants_file.write_text(yaml.safe_dump(tenants))
    group = everything.groups(1)[0]
    await aws.create_log_group(group.account, group.region, group.name, tags={"team": "south"})
    async with deployment.replica() as service, client(service) as http:
        body = {"log_groups": [{"account": group.account, "region": group.region, "name": group.name}]}
        answer = await http.post("/v1/requests", json=body, headers={"Prefer": "wait=20"})
    assert answer.json()["log_groups"][0]["tenant"] == "south", answer.text
    assert await aws.keys_of(*group.lane, [group.name]) == {group.name: everything.keys["south", group.region]}
