"""Sweeps and re-keys on the real process: what events have missed, and a tenant whose key changes."""

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import replace

import httpx
import pytest

from service.sandbox.aws.policy import logs_key_policy
from service.sandbox.aws.sandbox import NewLogGroup
from service.sandbox.process import as_environment
from tests.support.deployment import TOKEN, Deployment, client
from tests.support.organisation import Organisation

ACCOUNTS = ("111122223333", "444455556666")
REGIONS = ("eu-west-1", "us-east-1")


async def deploy(broker, aws, folder, **settings):
    everything = Organisation(accounts=ACCOUNTS, regions=REGIONS)
    return await Deployment.create(broker, aws, everything, folder, **settings), everything


async def add_sealed(aws, everything, count):
    """Log groups that are under their own tenant's key already."""
    groups = everything.groups(count)
    for account, region in everything.lanes:
        here = [group for group in groups if group.lane == (account, region)]
        await aws.create_log_groups(
            account, region, [NewLogGroup(name=g.name, tags={}, kms_key_id=everything.key_of(g)) for g in here]
        )
    return groups


async def change_key(aws, everything, deployment, tenant, region):
    """Give a tenant another key in a Region, and write that to the tenant file; the old key and the new one."""
    old = everything.keys[tenant, region]
    policy = logs_key_policy(ACCOUNTS[0], region, others=ACCOUNTS[1:])
    new = everything.keys[tenant, region] = await aws.create_key(ACCOUNTS[0], region, policy=policy)
    deployment.settings.tenants_file.write_text(everything.tenant_file())
    return old, new


async def until_done(http: httpx.AsyncClient, location: str, timeout_s: float = 60):
    async with asyncio.timeout(timeout_s):
        while True:
            answer = await http.get(location, headers={"Prefer": "wait=5"})
            assert answer.status_code in {200, 503}, answer.text
            if answer.status_code == 200 and answer.json()["state"] == "done":
                return answer.json()


async def command(deployment: Deployment, *arguments: str, **environment: str) -> tuple[int, dict, str]:
    """The `logwarden` command as somebody types it: its exit status, what it prints, and what it says meanwhile."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "service", *arguments),
        env={k: v for k, v in os.environ.items() if not k.startswith(("LOGWARDEN_", "AWS_"))} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out) if out.strip() else {}, err.decode()


async def test_a_sweep_finds_what_no_event_has_told_of(best_kafka, aws, tmp_path):
    deployment, everything = await deploy(best_kafka, aws, tmp_path)
    groups = everything.groups(240)
    ignored = [replace(group, name=f"/north/ignored-{n}") for n, group in enumerate(groups[:3])]
    await everything.create_groups(aws, groups[:40])
    for group in groups[40:]:
        await aws.create_log_group(group.account, group.region, group.name, kms_key_id=everything.key_of(group))
    for group in ignored:
        await aws.create_log_group(group.account, group.region, group.name, {"logwarden:ignore": "true"})
    async with deployment.replica() as service, client(service) as http:
        answer = await http.post("/v1/sweeps", json={})
        assert answer.status_code == 202, answer.text
        assert answer.json()["lanes"]["total"] == 4
        status = await until_done(http, answer.headers["Location"])
    assert status["counts"] == {"sealed": 40, "already-sealed": 200, "excluded": 3}, "the tags are found out"
    assert len(await everything.wrong(aws, ignored)) == 3
    assert status["old_keys"] == {}
    assert await everything.wrong(aws, groups) == {}
    assert len(await aws.calls("AssociateKmsKey")) == 40


@pytest.mark.parametrize("way", ["rest", "kafka"])
async def test_a_tenant_whose_key_changes_is_rekeyed_and_nobody_else_is_touched(best_kafka, aws, tmp_path, way):
    deployment, everything = await deploy(best_kafka, aws, tmp_path)
    groups = await add_sealed(aws, everything, 160)
    async with deployment.replica(), deployment.replica() as service:
        old, new = await change_key(aws, everything, deployment, "north", "eu-west-1")
        arguments = ("rekey", "north", "--wait", "120")
        if way == "rest":
            code, status, said = await command(deployment, *arguments, "--url", service.url, LOGWARDEN_TOKEN=TOKEN)
        else:
            code, status, said = await command(deployment, *arguments, **as_environment(deployment.settings))
        assert code == 0, said
        async with client(service) as http:
            seen = await until_done(http, f"/v1/sweeps/{status['id']}")
    concerned = [g for g in groups if g.name.startswith("/north/")]
    rekeyed = [g for g in concerned if g.region == "eu-west-1"]
    assert seen == status
    assert (status["tenant"], status["state"], status["lanes"]["pending"]) == ("north", "done", 0)
    assert status["counts"] == {
        "sealed": len(rekeyed),
        "already-sealed": len(concerned) - len(rekeyed),
        "other-tenant": len(groups) - len(concerned),
    }
    assert status["old_keys"] == {old: len(rekeyed)}
    assert await everything.wrong(aws, groups) == {}
    calls = await aws.calls("AssociateKmsKey")
    assert len(calls) == len(rekeyed)
    outcomes = [json.loads(record.value) for record in await deployment.all_on(deployment.settings.outcomes_topic)]
    assert Counter((o["state"], o["tenant"], o["key"], o["old_key"]) for o in outcomes) == {
        ("sealed", "north", new, old): len(rekeyed)
    }
    assert all("keep it enabled" in outcome["detail"] for outcome in outcomes)


async def test_a_sweep_goes_on_after_kill_9_and_its_end_is_told_by_another_replica(best_kafka, aws, tmp_path):
    deployment, everything = await deploy(best_kafka, aws, tmp_path)
    groups = everything.groups(200)
    await everything.create_groups(aws, groups)
    async with deployment.replica() as first, client(first) as http:
        answer = await http.post("/v1/sweeps", json={"accounts": list(ACCOUNTS)})
        async with asyncio.timeout(30):
            while len(await aws.calls("AssociateKmsKey")) < 60:
                await asyncio.sleep(0.1)
        await first.kill()
    assert await everything.wrong(aws, groups), "it was killed in the middle"
    async with deployment.replica() as second, client(second) as http:
        status = await until_done(http, answer.headers["Location"])
    assert sum(status["counts"].values()) == 200
    assert set(status["counts"]) == {"sealed", "already-sealed"}
    assert await everything.wrong(aws, groups) == {}


async def test_a_sweep_of_what_no_rule_lists_is_refused_by_every_way(best_kafka, aws, tmp_path):
    deployment, _ = await deploy(best_kafka, aws, tmp_path)
    async with deployment.replica() as service, client(service) as http:
        answer = await http.post("/v1/sweeps", json={"tenant": "west"})
        assert (answer.status_code, answer.json()["type"]) == (400, "/docs#invalid-request")
        assert "west" in answer.json()["errors"][0]["detail"]
        code, _, said = await command(deployment, "rekey", "west", "--url", service.url, LOGWARDEN_TOKEN=TOKEN)
        assert (code, "west" in said) == (2, True), said
    code, _, said = await command(deployment, "rekey", "west", **as_environment(deployment.settings))
    assert (code, "west" in said) == (2, True), said


async def test_a_changed_key_is_noticed_by_the_service_itself_where_that_is_configured(best_kafka, aws, tmp_path):
    deployment, everything = await deploy(best_kafka, aws, tmp_path, rekey_automatically=True)
    groups = await add_sealed(aws, everything, 80)
    async with deployment.replica(), deployment.replica():
        old, _ = await change_key(aws, everything, deployment, "south", "us-east-1")
        async with asyncio.timeout(60):
            while await everything.wrong(aws, groups):
                await asyncio.sleep(0.5)
    outcomes = [json.loads(record.value) for record in await deployment.all_on(deployment.settings.outcomes_topic)]
    assert {(o["tenant"], o["region"], o["old_key"]) for o in outcomes} == {("south", "us-east-1", old)}
    assert len(await aws.calls("AssociateKmsKey")) == len(outcomes) == 20
