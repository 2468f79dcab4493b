"""With exactly the policies of k8s/iam installed, everything that one ensure asks of AWS is allowed; with one right less, something is not."""

from contextlib import asynccontextmanager
from copy import deepcopy

import pytest
from aiobotocore.session import AioSession

from service.aws.clients import AwsClients
from service.aws.credentials import AccountCredentials, OwnCredentials
from service.aws.keys import AwsKeys
from service.aws.log_groups import AwsLogGroups
from service.clock import LoopClock
from service.domain.key import UnknownKey, UsableKey
from service.domain.log_group import AccountId, KeyArn, LogGroup, partition_of
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.tenancy import IGNORE_TAG
from service.registry.dynamodb import DynamoDbSource
from service.registry.dynamodb_store import store
from service.registry.source import SourceUnavailableError
from service.sandbox.aws.policy import default_key_policy
from tests.support.aws_server import set_own_environment
from tests.support.iam import EXTERNAL_ID, LOGWARDENS_ACCOUNT, TENANTS_ACCOUNT, document, listed, statements
from tests.support.registries import TABLE, TENANT_FILE, parsed

GROUP = LogGroup.of(TENANTS_ACCOUNT, "eu-west-1", "/app/a")
KEYS_ACCOUNT = "444455556666"


def without(policy, action):
    """The policy with one action less."""
    poorer = deepcopy(policy)
    poorer["Statement"] = [
        statement | {"Action": kept}
        for statement in statements(policy)
        if (kept := [each for each in listed(statement["Action"]) if each != action])
    ]
    return poorer


def actions_of(name):
    return [action for statement in statements(document(name)) for action in listed(statement["Action"])]


async def become(aws, monkeypatch, role, *, region=GROUP.region):
    """Run as a role from here on."""
    set_own_environment(monkeypatch)
    async with AioSession().create_client("sts", region_name=region, endpoint_url=aws.endpoint) as sts:
        session = (await sts.assume_role(RoleArn=role, RoleSessionName="pod"))["Credentials"]
    set_own_environment(
        monkeypatch,
        AWS_ACCESS_KEY_ID=session["AccessKeyId"],
        AWS_SECRET_ACCESS_KEY=session["SecretAccessKey"],
        AWS_SESSION_TOKEN=session["SessionToken"],
    )


@asynccontextmanager
async def installed(
    aws, monkeypatch, *, region=GROUP.region, service_role=None, trust=None, member_role=None, session_tags=None
):
    """Logwarden's side of AWS, run as its own role, with the policies installed in its and a tenant's account."""
    partition = partition_of(region)
    pods_role = await aws.create_role(
        LOGWARDENS_ACCOUNT,
        "logwarden-service",
        partition=partition,
        policy=service_role or document("service-role", region=region),
    )
    await aws.create_role(
        TENANTS_ACCOUNT,
        "logwarden",
        partition=partition,
        trust=trust or document("member-role-trust", region=region),
        policy=member_role or document("member-role", region=region),
    )
    await become(aws, monkeypatch, pods_role, region=region)
    clock = LoopClock()
    async with AwsClients(
        own_region=region,
        endpoint_url=aws.endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=10.0,
        max_in_flight=8,
        user_agent="logwarden/test",
    ) as clients:
        credentials = AccountCredentials(
            clients=clients,
            own=OwnCredentials(chain=clients.credential_chain, clock=clock),
            clock=clock,
            own_account=None,  # so that STS is asked, too
            role_name="logwarden",
            role_session_name="logwarden",
            role_session_tags=session_tags,
            external_id=EXTERNAL_ID,
            sts_region=region,
        )
        yield (
            AwsKeys(clients=clients, credentials=credentials, clock=clock, fresh_s=300.0, recheck_s=15.0),
            AwsLogGroups(clients=clients, credentials=credentials),
        )


@asynccontextmanager
async def tenant_table(aws, monkeypatch, *documents):
    """The registry's table, asked by a role that has these documents."""
    set_own_environment(monkeypatch)
    async with table_source(aws) as administrators:
        await administrators.call("create_table", **TABLE)
    role = await aws.create_role(
        LOGWARDENS_ACCOUNT, "reader", policy={"Statement": [s for each in documents for s in statements(each)]}
    )
    await become(aws, monkeypatch, role)
    async with table_source(aws) as source:
        yield source


def table_source(aws):
    return DynamoDbSource(
        table="logwarden-tenants", region="eu-west-1", endpoint_url=aws.endpoint, timeout_s=20, poll_interval_s=1
    )


async def tenants_key(aws, group):
    """A key that its tenant's administrator gave the statement of k8s/iam and nothing else."""
    return await key_with(aws, group.account, group, document("key-policy-statement", region=group.region))


async def key_with(aws, account, group, *policies):
    """A key of an account for a log group, with the statements of these documents."""
    policy = default_key_policy(account, group.region)
    policy["Statement"] += [statement for each in policies for statement in statements(each)]
    return KeyArn(await aws.create_key(account, group.region, policy=policy))


async def ensure_with_key_elsewhere(keys, log_groups, group, key):
    """The same as `ensure`, for a key whose policy nobody shows."""
    finding = await keys.inspect(key, group)
    assert isinstance(finding, UsableKey), finding.detail
    await log_groups.associate(group, key)
    assert await log_groups.describe(group.lane, [group.name]) == {group.name: key}


async def ensure(keys, log_groups, group, key):
    """Everything that the service asks of AWS for one log group, in its order."""
    finding = await keys.inspect(key, group)
    assert isinstance(finding, UsableKey), finding
    assert finding.policy is not None, finding.unread
    await log_groups.with_tag(group.lane, IGNORE_TAG, None)
    await log_groups.tags_of(group)
    await log_groups.describe(group.lane, [group.name])
    await log_groups.associate(group, key)
    assert await log_groups.describe(group.lane, [group.name]) == {group.name: key}


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "cn-north-1"])
async def test_the_policies_as_they_are_allow_one_ensure(aws, monkeypatch, region):
    group = LogGroup.of(TENANTS_ACCOUNT, region, "/app/a")
    await aws.create_log_group(group.account, region, group.name)
    key = await tenants_key(aws, group)
    async with installed(aws, monkeypatch, region=region) as (keys, log_groups):
        await ensure(keys, log_groups, group, key)


@pytest.mark.parametrize("right", actions_of("member-role"))
async def test_with_any_right_of_the_member_role_less_an_ensure_fails(aws, monkeypatch, right):
    await aws.create_log_group(GROUP.account, GROUP.region, GROUP.name)
    key = await tenants_key(aws, GROUP)
    async with installed(aws, monkeypatch, member_role=without(document("member-role"), right)) as (keys, log_groups):
        with pytest.raises((CallFailedError, AssertionError)) as raised:
            await ensure(keys, log_groups, GROUP, key)
    assert f"no identity-based policy allows the {right.rstrip('*')}" in str(raised.value)
    if isinstance(raised.value, CallFailedError):
        assert raised.value.failure is FailureClass.NOT_AUTHORIZED


async def test_a_role_that_may_not_look_at_keys_puts_groups_under_them_unseen(aws, monkeypatch):
    await aws.create_log_group(GROUP.account, GROUP.region, GROUP.name)
    key = await tenants_key(aws, GROUP)
    blind = without(without(document("member-role"), "kms:DescribeKey"), "kms:GetKeyPolicy")
    [through_logs] = [each for each in blind["Statement"] if "Condition" in each]
    through_logs["Action"].append("kms:DescribeKey")
    async with installed(aws, monkeypatch, member_role=blind) as (keys, log_groups):
        assert isinstance(await keys.inspect(key, GROUP), UnknownKey)
        await log_groups.associate(GROUP, key)


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "cn-north-1"])
async def test_the_policies_as_they_are_allow_an_ensure_with_a_key_of_another_account(aws, monkeypatch, region):
    group = LogGroup.of(TENANTS_ACCOUNT, region, "/app/a")
    await aws.create_log_group(group.account, region, group.name)
    policies = [document(name, region=region) for name in ("key-policy-statement", "key-policy-other-account")]
    key = await key_with(aws, KEYS_ACCOUNT, group, *policies)
    async with installed(aws, monkeypatch, region=region) as (keys, log_groups):
        await ensure_with_key_elsewhere(keys, log_groups, group, key)


@pytest.mark.parametrize("missing", ["key-policy-statement", "key-policy-other-account"])
async def test_a_key_of_another_account_needs_both_documents(aws, monkeypatch, missing):
    await aws.create_log_group(GROUP.account, GROUP.region, GROUP.name)
    [kept] = {"key-policy-statement", "key-policy-other-account"} - {missing}
    key = await key_with(aws, KEYS_ACCOUNT, GROUP, document(kept))
    async with installed(aws, monkeypatch) as (_, log_groups):
        with pytest.raises(CallFailedError) as raised:
            await log_groups.associate(GROUP, key)
    is_ours = missing == "key-policy-other-account"
    assert raised.value.failure is (FailureClass.NOT_AUTHORIZED if is_ours else FailureClass.KEY_NOT_USABLE)


@pytest.mark.parametrize("right", actions_of("key-policy-other-account"))
async def test_with_any_right_of_such_a_key_less_an_ensure_fails(aws, monkeypatch, right):
    await aws.create_log_group(GROUP.account, GROUP.region, GROUP.name)
    poorer = without(document("key-policy-other-account"), right)
    key = await key_with(aws, KEYS_ACCOUNT, GROUP, document("key-policy-statement"), poorer)
    async with installed(aws, monkeypatch) as (keys, log_groups):
        with pytest.raises((CallFailedError, AssertionError), match=f"not authorized to perform: {right.rstrip('*')}"):
            await ensure_with_key_elsewhere(keys, log_groups, GROUP, key)


TAGS = {"team": "platform", "cost-centre": "12 34"}


async def test_the_policies_as_they_are_allow_session_tags(aws, monkeypatch):
    await aws.create_log_group(GROUP.account, GROUP.region, GROUP.name)
    key = await tenants_key(aws, GROUP)
    tagged = {"StringEquals": {f"aws:PrincipalTag/{name}": value for name, value in TAGS.items()}}
    member_role = document("member-role")
    member_role["Statement"] = [
        statement | {"Condition": statement.get("Condition", {}) | tagged} for statement in statements(member_role)
    ]
    async with installed(aws, monkeypatch, member_role=member_role, session_tags=TAGS) as (keys, log_groups):
        await ensure(keys, log_groups, GROUP, key)


async def test_a_policy_that_asks_for_a_tag_refuses_a_session_without_it(aws, monkeypatch):
    member_role = document("member-role")
    member_role["Statement"][0]["Condition"] = {"StringEquals": {"aws:PrincipalTag/team": "platform"}}
    async with installed(aws, monkeypatch, member_role=member_role, session_tags={"team": "other"}) as (_, log_groups):
        with pytest.raises(CallFailedError, match="logs:DescribeLogGroups"):
            await log_groups.describe(GROUP.lane, [GROUP.name])


@pytest.mark.parametrize("side", ["service_role", "trust"])
async def test_session_tags_take_a_right_on_both_sides(aws, monkeypatch, side):
    name = {"service_role": "service-role", "trust": "member-role-trust"}[side]
    poorer = {side: without(document(name), "sts:TagSession")}
    async with installed(aws, monkeypatch, session_tags=TAGS, **poorer) as (_, log_groups):
        with pytest.raises(CallFailedError, match="not authorized to perform: sts:TagSession") as raised:
            await log_groups.describe(GROUP.lane, [GROUP.name])
    assert raised.value.failure is FailureClass.ROLE_NOT_ASSUMABLE


async def test_the_member_role_cannot_decrypt_by_itself(aws, monkeypatch):
    key = await tenants_key(aws, GROUP)
    async with installed(aws, monkeypatch) as (keys, _):
        clients = keys._clients
        credentials = await keys._credentials.of(AccountId(TENANTS_ACCOUNT))
        parameters = {"CiphertextBlob": "eA==", "KeyId": key}
        with pytest.raises(CallFailedError, match="kms:Decrypt"):
            await clients.call("kms", GROUP.region, "decrypt", credentials=credentials, **parameters)


async def test_nobody_else_may_assume_the_member_role(aws, monkeypatch):
    async with installed(aws, monkeypatch):
        pass
    set_own_environment(monkeypatch)  # another user of Logwarden's own account
    role = f"arn:aws:iam::{TENANTS_ACCOUNT}:role/logwarden"
    async with AioSession().create_client("sts", region_name="eu-west-1", endpoint_url=aws.endpoint) as sts:
        with pytest.raises(sts.exceptions.ClientError, match="not authorized to perform: sts:AssumeRole"):
            await sts.assume_role(RoleArn=role, RoleSessionName="test", ExternalId=EXTERNAL_ID)


async def test_logwardens_role_may_assume_no_other_role_and_none_without_the_external_id(aws, monkeypatch):
    await aws.create_role(TENANTS_ACCOUNT, "administrator")
    async with (
        installed(aws, monkeypatch),
        AioSession().create_client("sts", region_name="eu-west-1", endpoint_url=aws.endpoint) as sts,
    ):
        for name, external_id in (("administrator", {"ExternalId": EXTERNAL_ID}), ("logwarden", {})):
            role = f"arn:aws:iam::{TENANTS_ACCOUNT}:role/{name}"
            with pytest.raises(sts.exceptions.ClientError, match="not authorized to perform: sts:AssumeRole"):
                await sts.assume_role(RoleArn=role, RoleSessionName="test", **external_id)


async def read_everything(source):
    """Everything that the service asks of the table."""
    await source.on_account(TENANTS_ACCOUNT, None)
    assert await source._read_version() == "1"
    assert [page async for page in source.tenants()]


async def test_the_registrys_documents_allow_a_load_and_a_look(aws, monkeypatch, tmp_path):
    both = document("registry-dynamodb"), document("registry-dynamodb-load")
    async with tenant_table(aws, monkeypatch, both[1]) as loader:
        await store(parsed(TENANT_FILE, tmp_path), table=loader)
        reader = await aws.create_role(LOGWARDENS_ACCOUNT, "pods", policy=both[0])
        await become(aws, monkeypatch, reader)
        async with table_source(aws) as source:
            await read_everything(source)
            with pytest.raises(SourceUnavailableError, match="not authorized to perform: dynamodb:UpdateItem"):
                await store(parsed(TENANT_FILE, tmp_path), table=source)


@pytest.mark.parametrize("right", actions_of("registry-dynamodb"))
async def test_with_any_right_of_the_registrys_reader_less_it_cannot_read_everything(aws, monkeypatch, right, tmp_path):
    poorer = without(document("registry-dynamodb"), right)
    async with tenant_table(aws, monkeypatch, document("registry-dynamodb-load")) as loader:
        await store(parsed(TENANT_FILE, tmp_path), table=loader)
    await become(aws, monkeypatch, await aws.create_role(LOGWARDENS_ACCOUNT, "pods", policy=poorer))
    async with table_source(aws) as source:
        with pytest.raises(SourceUnavailableError, match=f"not authorized to perform: {right}"):
            await read_everything(source)


@pytest.mark.parametrize("right", actions_of("registry-dynamodb-load"))
async def test_with_any_right_of_the_registrys_loader_less_it_cannot_load(aws, monkeypatch, right, tmp_path):
    async with tenant_table(aws, monkeypatch, without(document("registry-dynamodb-load"), right)) as loader:
        with pytest.raises(SourceUnavailableError, match=f"not authorized to perform: {right}"):
            await store(parsed(TENANT_FILE, tmp_path), table=loader)
