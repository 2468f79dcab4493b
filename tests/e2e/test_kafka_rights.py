"""With exactly the rights that k8s/README.md lists, each role does all that it does on a broker that forbids everything else."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from service.settings import Role
from service.stream.topics import TopicError, TopicSpec, create_topics
from tests.support.deployment import Deployment, client
from tests.support.guarded_kafka import PASSWORD, allow, guarded_kafka, user_settings
from tests.support.kafka_rights import rights_by_role
from tests.support.organisation import Group, Organisation, created


@asynccontextmanager
async def replica(deployment, address, role, **settings):
    """A process with one role, and with a user of its own."""
    chosen = user_settings(address, role.value) | settings
    async with deployment.replica(roles=frozenset({role}), **chosen) as service:
        yield service


@pytest.mark.apache_kafka
async def test_each_role_does_all_that_it_does_with_the_rights_of_its_rows(aws, tmp_path):
    everything = Organisation(accounts=("111122223333",), regions=("eu-west-1",))
    async with guarded_kafka() as (broker, address):
        deployment = await Deployment.create(broker, aws, everything, tmp_path, retry_delays_s=[0.5, 1.0])
        for role, rights in rights_by_role().items():
            allow(broker, role.value, rights, deployment.settings.kafka_group_prefix)
        groups = everything.groups(6)
        by_event, by_request, by_sweep = groups[:2], groups[2], groups[3:]
        await everything.create_groups(aws, groups)
        nobodys = Group("111122223333", "eu-west-1", "/nobody/x")
        async with (
            replica(deployment, address, Role.INGEST),
            replica(deployment, address, Role.WORKER, sweep_interval_s=86_400.0),
            replica(deployment, address, Role.HTTP) as service,
            client(service) as http,
        ):
            await deployment.publish([*(created(g) for g in by_event), b"no event", created(nobodys)])
            await deployment.final_outcomes([*by_event, nobodys])  # by the retry topics, to the dead letters
            letters = await deployment.dead_letters(2)
            asked = {"account": by_request.account, "region": by_request.region, "name": by_request.name}
            everywhere = {"accounts": list(everything.accounts), "regions": list(everything.regions)}
            answer = await http.post("/v1/requests", json={"log_groups": [asked]}, headers={"Prefer": "wait=30"})
            assert answer.status_code == 200, answer.text
            assert (await http.post("/v1/events", content=b"no event")).status_code == 400
            assert (await http.put("/v1/pause", json={"reason": "a test"})).status_code == 200
            assert (await http.delete("/v1/pause")).status_code == 200
            sweep = await http.post("/v1/sweeps", json=everywhere, headers={"Prefer": "wait=30"})
            assert sweep.status_code in {200, 202}, sweep.text
            await deployment.final_outcomes(by_sweep)
            while (await http.get(f"/v1/sweeps/{sweep.json()['id']}")).json()["state"] != "done":
                await asyncio.sleep(0.2)
            assert len(letters) == 2
        assert await everything.wrong(aws, groups) == {}


@pytest.mark.apache_kafka
async def test_a_broker_that_forbids_everything_is_what_is_tested_on():
    async with guarded_kafka() as (_, address):
        arguments = {
            "bootstrap_servers": address,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": "http",
            "sasl_plain_password": PASSWORD,
        }
        with pytest.raises(TopicError, match="Authorization failed"):
            await create_topics(arguments, [TopicSpec("records", 1)], replication=1)
