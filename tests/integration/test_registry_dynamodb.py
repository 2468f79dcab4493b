"""Tenants in DynamoDB: pages, throttles, a table that is being changed, and what a writer may get wrong."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from service.domain.log_group import AccountId, LogGroup, TenantId
from service.domain.outcome import CallFailedError
from service.domain.tenancy import Owned
from service.registry.cache import CacheLimits
from service.registry.dynamodb import TABLE_OPTIONS, VERSION_KEY, DynamoDbSource
from service.registry.dynamodb_store import TableInUseError, store
from service.registry.source import SourceDataError, SourceError, SourceUnavailableError
from service.sandbox.aws.faults import Faults
from service.sandbox.aws.sandbox import AwsSandbox
from tests.support.aws_server import set_own_environment
from tests.support.manifests import REPOSITORY
from tests.support.registries import TABLE, DynamoDbScene, opened, parsed

ACCOUNT = AccountId("111122223333")


def tenants(count: int, *, padding: int = 0) -> str:
    lines = ["version: 1", "tenants:"]
    for n in range(count):
        names = ", ".join(f'"/t{n}/{i:04}-{"x" * 200}"' for i in range(padding))
        lines += [
            f"  - id: t{n}",
            f'    keys: {{eu-west-1: "arn:aws:kms:eu-west-1:111122223333:key/{n}"}}',
            f'    rules: [{{accounts: ["{ACCOUNT}"], names: ["/t{n}/*"{", " if names else ""}{names}]}}]',
        ]
    return "\n".join(lines)


@pytest.fixture
async def scene(aws: AwsSandbox, monkeypatch) -> AsyncIterator[DynamoDbScene]:
    set_own_environment(monkeypatch)
    async with DynamoDbScene.open(aws) as scene:
        yield scene


@pytest.fixture
async def source(scene: DynamoDbScene) -> AsyncIterator[DynamoDbSource]:
    async with scene.source(timeout_s=20) as source:
        yield source


async def owner(source: DynamoDbSource, name: str) -> str:
    answer = await source.on_account(ACCOUNT, None)
    decision = answer.rules.decide(LogGroup.of(ACCOUNT, "eu-west-1", name), None)
    assert isinstance(decision, Owned), decision
    return decision.tenant


async def test_an_account_of_several_pages_is_read_to_the_end(scene, source, tmp_path, aws):
    await scene.store(parsed(tenants(12, padding=600), tmp_path))  # a page ends at 1 MB
    await aws.clear_calls()
    assert [await owner(source, f"/t{n}/x") for n in (0, 11)] == ["t0", "t11"]
    assert len(await aws.calls("Query")) > 4, "for the registry's partition, and more than one for the account's"


async def test_throttles_are_waited_out_within_the_time_limit(scene, source, tmp_path, aws):
    await scene.store(parsed(tenants(1), tmp_path))
    await aws.inject(Faults(service="dynamodb", operation="Query", throttled=0.5), seed=1)
    assert await owner(source, "/t0/x") == "t0"
    throttled = [call for call in await aws.calls("Query") if call.result != "ok"]
    assert throttled, "there was something to wait out"


async def test_a_table_that_is_being_changed_gives_no_answer_until_the_change_is_done(scene, source, tmp_path):
    await scene.store(parsed(tenants(1), tmp_path))
    await scene.table.call(
        "update_item",
        Key=VERSION_KEY,
        UpdateExpression="SET is_changing = :t",
        ExpressionAttributeValues={":t": {"BOOL": True}},
    )
    with pytest.raises(SourceUnavailableError, match="being changed"):
        await source.on_account(ACCOUNT, None)
    with pytest.raises(TableInUseError):
        await scene.store(parsed(tenants(1), tmp_path))
    await store(parsed(tenants(2), tmp_path), table=scene.table, is_forced=True)
    assert await owner(source, "/t1/x") == "t1"


async def test_no_answer_mixes_two_versions_however_often_the_table_changes(scene, source, tmp_path):
    """Tenants swap their names all the time: half of a change would give a name to two tenants, or to none."""
    there = tenants(2)
    back = there.replace("/t0/*", "/swap/*").replace("/t1/*", "/t0/*").replace("/swap/*", "/t1/*")
    versions = [parsed(there, tmp_path), parsed(back, tmp_path)]
    await scene.store(versions[0])
    done = asyncio.Event()

    async def change() -> None:
        for n in range(12):
            await scene.store(versions[n % 2])
        done.set()

    changing = asyncio.create_task(change())
    answers, refusals = 0, 0
    while not done.is_set():
        try:
            owners = {await owner(source, "/t0/x"), await owner(source, "/t1/x")}
        except SourceError:
            refusals += 1
        else:
            answers += 1
            assert owners <= {"t0", "t1"}
    await changing
    assert {await owner(source, "/t0/x"), await owner(source, "/t1/x")} == {"t0", "t1"}
    assert answers + refusals > 0


async def test_a_store_takes_away_what_is_not_in_the_file(scene, source, tmp_path):
    await scene.store(parsed(tenants(40), tmp_path))  # more than one batch
    assert await owner(source, "/t39/x") == "t39"
    await scene.store(parsed(tenants(1), tmp_path))
    assert len((await source.on_account(ACCOUNT, None)).rules) == 1


async def test_a_table_in_which_nothing_was_stored_is_not_an_empty_registry(scene, source):
    with pytest.raises(SourceDataError, match="no item REGISTRY/VERSION"):
        await source.on_account(ACCOUNT, None)


async def test_a_table_that_is_not_there_is_said_to_be_missing(aws, monkeypatch):
    set_own_environment(monkeypatch)
    async with DynamoDbSource(
        table="nowhere", region="eu-west-1", endpoint_url=aws.endpoint, timeout_s=20, poll_interval_s=1
    ) as source:
        with pytest.raises(SourceUnavailableError, match="ResourceNotFoundException") as raised:
            await source.on_account(ACCOUNT, None)
    assert "no table nowhere in eu-west-1 with the string keys pk (partition) and sk (sort)" in str(raised.value)


async def test_a_table_of_another_shape_is_said_to_be_one(aws, monkeypatch, tmp_path):
    set_own_environment(monkeypatch)
    async with DynamoDbSource(
        table="other", region="eu-west-1", endpoint_url=aws.endpoint, timeout_s=20, poll_interval_s=1
    ) as source:
        attribute = {"AttributeName": "id", "AttributeType": "S"}
        await source.call(
            "create_table",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[attribute],
            BillingMode="PAY_PER_REQUEST",
        )
        with pytest.raises(SourceUnavailableError, match=r"string keys pk .partition. and sk"):
            await store(parsed(tenants(1), tmp_path), table=source)


async def test_the_table_that_the_readme_and_the_error_tell_to_make_is_the_one_that_the_tests_use():
    readme = " ".join((REPOSITORY / "service" / "registry" / "README.md").read_text().replace("\\\n", "").split())
    assert all(option in readme for option in re.split(r" (?=--)", TABLE_OPTIONS))
    for key in TABLE["KeySchema"]:
        assert f"AttributeName={key['AttributeName']},KeyType={key['KeyType']}" in TABLE_OPTIONS
    for attribute in TABLE["AttributeDefinitions"]:
        assert f"AttributeName={attribute['AttributeName']},AttributeType={attribute['AttributeType']}" in TABLE_OPTIONS


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({}, "ACCOUNT#111122223333/TENANT#odd has no attribute tenant"),
        ({"tenant": {"S": "acme"}}, r"tenants\[0\]: has to be a mapping"),
        ({"tenant": {"M": {"id": {"B": b"x"}}}}, "DynamoDB's type B"),
        ({"tenant": {"M": {"id": {"S": "odd"}}}}, r"tenants\[0\].keys: is missing"),
        ({"tenant": {"M": {}}, "position": {"S": "first"}}, "position that is no number"),
    ],
)
async def test_an_item_that_is_no_tenant_refuses_the_account(scene, source, tmp_path, item, problem):
    await scene.store(parsed(tenants(1), tmp_path))
    await scene.table.call("put_item", Item={"pk": {"S": f"ACCOUNT#{ACCOUNT}"}, "sk": {"S": "TENANT#odd"}} | item)
    with pytest.raises(SourceDataError, match=problem):
        await source.on_account(ACCOUNT, None)


async def test_sets_of_texts_are_lists(scene, source, tmp_path):
    await scene.store(parsed(tenants(1), tmp_path))
    [item] = (await scene.table.call("query", **_account_query()))["Items"]
    item["tenant"]["M"]["rules"]["L"][0]["M"]["accounts"] = {"SS": [ACCOUNT]}
    await scene.table.call("put_item", Item=item)
    assert await owner(source, "/t0/x") == "t0"


async def test_a_default_tenant_that_is_not_the_same_everywhere_refuses_the_account(scene, source, tmp_path):
    await scene.store(parsed(f"{tenants(1)}\ndefault_tenant: t0\n", tmp_path))
    assert await owner(source, "/other") == "t0"
    await scene.store_wrong(ACCOUNT)
    with pytest.raises(SourceDataError, match="t0 is already the id of"):
        await source.on_account(ACCOUNT, None)


async def test_without_credentials_it_says_so_and_uses_them_when_they_come(scene, source, tmp_path, monkeypatch):
    await scene.store(parsed(tenants(1), tmp_path))
    access, secret = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    for name in (access, secret):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SourceUnavailableError, match="credentials"):
        await source.on_account(ACCOUNT, None)
    for name in (access, secret):
        monkeypatch.setenv(name, "later")
    assert await owner(source, "/t0/x") == "t0"


async def test_tenants_are_listed_by_consistent_reads(scene, source, tmp_path, monkeypatch):
    await scene.store(parsed(tenants(1), tmp_path))
    asked = []
    call = source.call

    async def noted(operation, **params):
        asked.append((operation, params.get("ConsistentRead")))
        return await call(operation, **params)

    monkeypatch.setattr(source, "call", noted)
    async with aclosing(source.tenants()) as pages:
        assert [tenant["id"] async for page in pages for tenant in page.tenants] == ["t0"]
    assert asked == [("query", True), ("scan", True)]


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({}, "has no attribute tenant"),
        ({"tenant": {"S": "odd"}}, "has to be a mapping"),
        ({"tenant": {"M": {"id": {"S": "odd"}, "keys": {"NS": ["1"]}}}}, "DynamoDB's type NS"),
        ({"tenant": {"M": {"id": {"S": "odd"}, "keys": {"B": b"x"}}}}, "DynamoDB's type B"),
    ],
)
async def test_an_item_that_is_no_tenant_is_left_out_of_the_list_and_spoils_nobody_elses(
    scene, tmp_path, attributes, problem
):
    await scene.store(parsed(tenants(1), tmp_path))
    await scene.table.call("put_item", Item={"pk": {"S": f"ACCOUNT#{ACCOUNT}"}, "sk": {"S": "TENANT#odd"}} | attributes)
    async with opened(scene, CacheLimits()) as registry:
        assert set(await registry.directory.keys() or ()) == {"t0"}
        with pytest.raises(CallFailedError, match=f"tenant odd: .*{problem}"):
            await registry.directory.lanes_of([TenantId("odd")])


def _account_query():
    return {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": {"S": f"ACCOUNT#{ACCOUNT}"}}}
