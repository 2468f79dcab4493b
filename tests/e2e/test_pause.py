"""Pause and resume on the real process: nothing is called while paused, a restart stays paused, nothing is lost."""

import asyncio
import json
import os
import sys

from service.domain.control import KEY
from service.sandbox.process import as_environment
from service.settings import Role
from tests.support.deployment import Deployment, client
from tests.support.organisation import Organisation, created

ORGANISATION = Organisation(accounts=("111122223333", "444455556666"), regions=("eu-west-1", "us-east-1"))


async def mode(http):
    return (await http.get("/v1/status")).json()["mode"]


async def until(condition, timeout_s=20.0):
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)


async def command(deployment, *arguments):
    """Run `logwarden` with the deployment's settings; its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "service", *arguments),
        env=dict(os.environ) | as_environment(deployment.settings),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return json.loads(out[out.index(b"{") :])


async def test_a_paused_service_takes_everything_in_calls_nobody_and_stays_paused_after_kill_9(
    best_kafka, aws, tmp_path
):
    deployment = await Deployment.create(best_kafka, aws, ORGANISATION, tmp_path)
    groups = ORGANISATION.groups(40)
    await ORGANISATION.create_groups(aws, groups)
    async with deployment.replica() as service, client(service) as http:
        paused = (await http.put("/v1/pause", json={"reason": "keys are being replaced"})).json()
        assert (paused["paused"], paused["by"]) == (True, "tests")
        assert (await http.get("/v1/pause")).json() == paused
        await deployment.publish([created(g) for g in groups])
        one = groups[0]
        body = {"log_groups": [{"account": one.account, "region": one.region, "name": one.name}]}
        asked = await http.post("/v1/requests", json=body)
        assert asked.status_code == 202, "REST goes on taking in"
        await until(all_wait_of(http))
        status = (await http.get("/v1/status")).json()
        assert (status["mode"], status["dry_run"], status["pause"]) == ("paused", False, paused)
        assert (await http.get("/v1/lanes")).json()["totals"]["estimated_end_s"] is None
        metrics = (await http.get("/metrics")).text
        assert "\nlogwarden_paused 1.0" in metrics
        assert "\nlogwarden_last_progress_seconds" not in metrics
        for probe in ("/readyz", "/livez"):
            assert (await http.get(probe)).status_code == 200
        await service.kill()
    async with deployment.replica() as service, client(service) as http:
        await until(all_wait_of(http))
        await asyncio.sleep(2)
        assert (await http.get("/v1/status")).json()["pause"] == paused
        assert await aws.calls("AssociateKmsKey") == []
        assert await aws.calls("DescribeLogGroups") == []
        assert '"service_paused"' in service.log.read_text()
        resumed = (await http.delete("/v1/pause")).json()
        assert (resumed["paused"], resumed["by"], resumed["reason"]) == (False, "tests", None)
        await deployment.final_outcomes(groups)
        assert await mode(http) == "enforcing"
        assert '"service_resumed"' in service.log.read_text()
        answered = await http.get(asked.headers["Location"], headers={"Prefer": "wait=10"})
        assert answered.json()["state"] == "done"
        assert await service.terminate() == 0
    assert await ORGANISATION.wrong(aws, groups) == {}
    assert await deployment.all_on(deployment.settings.dead_letter_topic) == []


def all_wait_of(http):
    async def all_wait():
        lanes = (await http.get("/v1/lanes")).json()
        assert lanes["totals"]["in_flight"] == 0
        return sum(lanes["totals"]["waiting"].values()) == 40

    return all_wait


async def test_the_command_line_pauses_split_roles_too_and_a_deleted_or_broken_record_ends_or_changes_nothing(
    best_kafka, aws, tmp_path
):
    deployment = await Deployment.create(best_kafka, aws, ORGANISATION, tmp_path)
    groups = ORGANISATION.groups(8)
    await ORGANISATION.create_groups(aws, groups)
    said = await command(deployment, "pause", "--reason", "before the first start")
    assert said["paused"] is True
    front, back = frozenset({Role.INGEST, Role.HTTP}), frozenset({Role.WORKER})
    async with (
        deployment.replica(roles=front) as one,
        deployment.replica(roles=back) as two,
        deployment.replica(roles=back) as three,
        client(one) as http,
        client(two) as worker,
        client(three) as other_worker,
    ):
        assert (await http.get("/v1/pause")).json() == said
        assert (await worker.get("/v1/pause")).status_code == 404, "its role is another"
        assert {await mode(each) for each in (http, worker, other_worker)} == {"paused"}
        await deployment.publish([created(g) for g in groups])
        control = deployment.settings.control_topic
        await deployment.write(control, KEY, b'{"v": 1, "state": "resumed"')
        await deployment.write(control, KEY, b"x" * 100_000)
        await deployment.write(control, b"other", None)
        await asyncio.sleep(2)
        assert two.log.read_text().count('"control_record_skipped"') == 3
        assert (await http.get("/v1/pause")).json() == said
        assert await aws.calls("AssociateKmsKey") == []
        await deployment.write(control, KEY, None)
        await deployment.final_outcomes(groups)
        assert (await http.get("/v1/pause")).json()["paused"] is False
        await command(
            deployment, "pause", "--reason", "again", "--url", one.url, "--token-file", str(tmp_path / "tokens")
        )

        async def is_paused():
            return {await mode(worker), await mode(other_worker)} == {"paused"}

        await until(is_paused)
        await command(deployment, "resume", "--force")

        async def is_enforcing():
            return {await mode(worker), await mode(other_worker)} == {"enforcing"}

        await until(is_enforcing)
    assert await ORGANISATION.wrong(aws, groups) == {}
