"""The real process on every registry elsewhere, while that fails in all the ways it can: no wrong key, no lost event, no help needed."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from service.core.sweep_schedule import REKEY_CALLER
from service.sandbox.aws.faults import Faults
from service.sandbox.aws.policy import logs_key_policy
from service.sandbox.aws.sandbox import AwsSandbox
from tests.support.aws_server import set_own_environment
from tests.support.deployment import Deployment, client
from tests.support.organisation import Group, Organisation, created
from tests.support.postgres import PASSWORD
from tests.support.registries import DynamoDbScene, HttpScene, PostgresqlScene, Scene, parsed

ACCOUNTS = ("111122223333", "444455556666")
REGION = "eu-west-1"
TIMEOUT_S = 1.0
# Old answers are good for longer than the test takes; fresh ones for less than a step of it.
SETTINGS = {
    "registry_ttl_s": 0.5,
    "registry_timeout_s": TIMEOUT_S,
    "registry_poll_interval_s": 0.2,
    "registry_dynamodb_region": REGION,
    "rate_per_s": 50.0,
    "describe_rate_per_s": 50.0,
    "verify_after_s": 0.0,
}


@dataclass
class Elsewhere:
    """A registry that the service is pointed at by `settings`, and its failures."""

    scene: Scene
    aws: AwsSandbox
    settings: dict[str, Any]

    async def vanish(self) -> None:
        if isinstance(self.scene, DynamoDbScene):
            await self.aws.inject(Faults(service="dynamodb", outage="reset"))
        else:
            await self.scene.proxy.vanish()

    async def come_back(self) -> None:
        if isinstance(self.scene, DynamoDbScene):
            await self.aws.clear_faults()
        else:
            await self.scene.proxy.listen()

    async def stall(self) -> None:
        if isinstance(self.scene, DynamoDbScene):
            await self.aws.inject(Faults(service="dynamodb", latency_s=(3 * TIMEOUT_S, 3 * TIMEOUT_S)))
        else:
            self.scene.proxy.stall()

    async def flow(self) -> None:
        if isinstance(self.scene, DynamoDbScene):
            await self.aws.clear_faults()
        else:
            self.scene.proxy.flow()


@pytest.fixture(params=["dynamodb", "postgresql", "http"])
async def elsewhere(request, monkeypatch, aws) -> AsyncIterator[Elsewhere]:
    match request.param:
        case "dynamodb":
            set_own_environment(monkeypatch)
            async with DynamoDbScene.open(aws) as table:
                yield Elsewhere(table, aws, {"registry": SecretStr("dynamodb:tenants")})
        case "postgresql":
            postgres = request.getfixturevalue("postgres")
            async with PostgresqlScene.open(postgres) as database:
                dsn = database.dsn.replace(f":{postgres.port}/", f":{database.proxy.port}/")
                yield Elsewhere(database, aws, {"registry": SecretStr(dsn), "registry_password": SecretStr(PASSWORD)})
        case _:
            async with HttpScene.open() as service:
                url = f"http://127.0.0.1:{service.proxy.port}/tenants"
                yield Elsewhere(service, aws, {"registry": SecretStr(url)})


class Story:
    """Events, what they lead to, and the keys that are a tenant's at some time."""

    def __init__(self, deployment: Deployment, elsewhere: Elsewhere) -> None:
        self.deployment = deployment
        self.elsewhere = elsewhere
        self.everything = deployment.organisation
        self._groups = iter(self.everything.groups(1000))
        self.told: list[Group] = []
        self.keys = {tenant: {self.everything.keys[tenant, REGION]} for tenant in self.everything.tenants}

    async def store(self) -> None:
        await self.elsewhere.scene.store(parsed(self.everything.tenant_file(), self.deployment.folder))

    async def rotate(self, tenant: str) -> None:
        """Give a tenant another key."""
        policy = logs_key_policy(ACCOUNTS[0], REGION, others=ACCOUNTS[1:])
        new = await self.elsewhere.aws.create_key(ACCOUNTS[0], REGION, policy=policy)
        self.everything.keys[tenant, REGION] = new
        self.keys[tenant].add(new)
        await self.store()

    async def tell(self, count: int) -> None:
        """Make so many log groups, and publish their events."""
        groups = [next(self._groups) for _ in range(count)]
        await self.everything.create_groups(self.elsewhere.aws, groups)
        await self.deployment.publish(map(created, groups))
        self.told += groups

    async def all_right(self, timeout_s: float = 30) -> None:
        """Wait until every group is under its tenant's key, as it is by now."""
        async with asyncio.timeout(timeout_s):
            while await self.everything.wrong(self.elsewhere.aws, self.told):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def story(broker, elsewhere: Elsewhere, folder, **settings: Any) -> AsyncIterator[Story]:
    everything = Organisation(accounts=ACCOUNTS, regions=(REGION,))
    for operation in ("AssociateKmsKey", "DescribeLogGroups"):
        await elsewhere.aws.set_quota(operation, per_second=100)
    chosen = SETTINGS | elsewhere.settings | settings
    deployment = await Deployment.create(broker, elsewhere.aws, everything, folder, **chosen)
    yield Story(deployment, elsewhere)


async def test_a_registry_may_be_away_slow_and_wrong_and_keys_may_change_in_a_burst(elsewhere, best_kafka, tmp_path):
    async with story(best_kafka, elsewhere, tmp_path) as told:
        await told.store()
        await elsewhere.vanish()
        async with told.deployment.replica() as service, client(service) as http:
            await told.tell(8)
            async with asyncio.timeout(20):  # away at the start: the lanes wait, and say for what
                while "registry-unavailable" not in (await http.get("/v1/status")).text:
                    await asyncio.sleep(0.1)
            assert len(await told.everything.wrong(elsewhere.aws, told.told)) == 8
            await elsewhere.come_back()
            await told.all_right()

            await asyncio.gather(told.tell(40), told.rotate("north"))  # changed in the middle of a burst
            await told.tell(20)
            rekey = await http.post("/v1/sweeps", json={"tenant": "north"})
            assert rekey.status_code == 202, rekey.text
            assert rekey.json()["lanes"]["total"] == len(ACCOUNTS), "the registry has told where"
            await told.all_right()

            await elsewhere.vanish()  # away later: what is known stays in force
            await told.tell(8)
            await told.all_right()
            await elsewhere.come_back()

            await elsewhere.stall()
            await told.tell(8)
            await told.all_right()
            await elsewhere.flow()

            await elsewhere.scene.store_wrong(ACCOUNTS[0])
            async with asyncio.timeout(20):
                while "alias/wrong" not in (await http.get("/v1/status")).text:
                    await told.tell(1)
                    await asyncio.sleep(0.3)
            await told.all_right()
            await told.store()
            async with asyncio.timeout(20):
                while (await http.get("/v1/status")).json()["registry"]["last_error"] is not None:
                    await told.tell(1)
                    await asyncio.sleep(0.3)
            await told.all_right()

            for call in await elsewhere.aws.calls("AssociateKmsKey"):
                assert call.log_group
                tenant = call.log_group.split("/")[1]
                assert call.key in told.keys[tenant], "never a key that was not the tenant's own"
            assert await told.deployment.all_on(told.deployment.settings.dead_letter_topic) == []


@pytest.mark.parametrize("elsewhere", ["dynamodb"], indirect=True)
async def test_a_key_that_changes_in_a_registry_elsewhere_is_noticed_by_the_service_itself(
    elsewhere, best_kafka, tmp_path
):
    async with story(best_kafka, elsewhere, tmp_path, rekey_automatically=True) as told:
        await told.store()
        topics = told.deployment.settings
        async with told.deployment.replica():
            await told.tell(40)
            await told.all_right()
            async with asyncio.timeout(20):  # what it finds at its start is what a change is told by
                while not await told.deployment.all_on(topics.requests_topic):
                    await asyncio.sleep(0.2)
            await elsewhere.aws.clear_calls()
            [old] = told.keys["north"]
            await told.rotate("north")
            await told.all_right()
            asked = [json.loads(record.value) for record in await told.deployment.all_on(topics.requests_topic)]
        sweeps = [(each["by"], each["tenant"]) for each in asked if each["kind"] == "sweep-asked"]
        assert sweeps == [(REKEY_CALLER, None), (REKEY_CALLER, "north")]
        assert len(await elsewhere.aws.calls("AssociateKmsKey")) == 20
        outcomes = [json.loads(record.value) for record in await told.deployment.all_on(topics.outcomes_topic)]
        assert Counter(o["tenant"] for o in outcomes if o.get("old_key") == old) == {"north": 20}
