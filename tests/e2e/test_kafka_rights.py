"""With exactly the rights that k8s/README.md lists, each role does all that it does on a broker that forbids everything else."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from pydantic import SecretStr

from service.sandbox.kafka.apache import start_apache
from service.sandbox.process import free_port
from service.settings import Role
from service.stream.topics import TopicError, TopicSpec, create_topics
from tests.support.deployment import Deployment, client
from tests.support.kafka_rights import Right, rights_by_role
from tests.support.organisation import Group, Organisation, created

PASSWORD = "correct-horse"
USERS = [role.value for role in Role]
CONFIG = {
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENT:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.client.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    + " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    + ";",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",  # the broker itself, and the tests, by the other listener
}


@asynccontextmanager
async def guarded_kafka():
    """A broker, and the address at which it asks who is there."""
    async with start_apache(config=CONFIG) as broker:
        port = free_port()
        lines = broker._properties_file.read_text().splitlines()
        lines = [f"{line},CLIENT://127.0.0.1:{port}" if "listeners=" in line else line for line in lines]
        broker._properties_file.write_text("\n".join(lines) + "\n")
        await broker.restart()
        yield broker, f"127.0.0.1:{port}"


def allow(broker, user: str, rights: set[Right], names: str) -> None:
    """Let a user do this, and nothing else; `names` is what the names of this test have for `logwarden`."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    kinds = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}
    acls = [
        AclBinding(
            kinds[right.resource],
            right.name.replace("logwarden", names, 1).removesuffix("*"),
            ResourcePatternType.PREFIXED if right.name.endswith("*") else ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation[right.operation.upper()],
            AclPermissionType.ALLOW,
        )
        for right in rights
    ]
    for done in admin.create_acls(acls).values():
        done.result(timeout=20)


@asynccontextmanager
async def replica(deployment, address, role, **settings):
    """A process with one role, and with a user of its own."""
    async with deployment.replica(
        roles=frozenset({role}),
        kafka_bootstrap_servers=address,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username=role.value,
        kafka_sasl_password=SecretStr(PASSWORD),
        **settings,
    ) as service:
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
