"""The sandbox's AWS as aiobotocore sees it: every refusal has to arrive as the error that AWS would send."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import Any, Self

import httpx
import pytest
import pytest_asyncio
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from service.sandbox.aws.calls import most_in_any, overlaps, throttled_share
from service.sandbox.aws.policy import log_group_arn
from service.sandbox.aws.sandbox import (
    OWN_ACCOUNT,
    AwsSandbox,
    AwsSandboxError,
    Faults,
    NewLogGroup,
    default_key_policy,
    logs_key_policy,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCOUNT = OWN_ACCOUNT
TENANT = "111122223333"  # an account that is reached by a role
OTHER_ACCOUNT = "444455556666"
REGION = "eu-west-1"
EXTERNAL_ID = "external-1"
GROUP = "/app/a"
SANDBOX = {"AccessKeyId": "sandbox", "SecretAccessKey": "sandbox"}
CONFIG = AioConfig(
    retries={"total_max_attempts": 1, "mode": "standard"}, max_pool_connections=200, parameter_validation=False
)
# aiobotocore's two names for a connection that ends under a call; the second one says, wrongly, that none could be made.
ConnectionLost = (ConnectionClosedError, EndpointConnectionError)

KEY_NOT_FOUND = ("InvalidParameterException", "The specified KMS Key Id could not be found.", 400)
KEY_NOT_ALLOWED = (
    "AccessDeniedException",
    f"The specified KMS key does not exist or is not allowed to be used with Arn '{log_group_arn(ACCOUNT, REGION, GROUP)}'",
    400,
)
GROUP_NOT_FOUND = ("ResourceNotFoundException", "The specified log group does not exist.", 400)
RESERVED_NAME = ("InvalidParameterException", "Log groups starting with AWS/ are reserved for AWS", 400)
THROTTLED = ("ThrottlingException", "Rate exceeded", 400)
NOT_AUTHORIZED = (
    f"User: arn:aws:iam::{ACCOUNT}:user/sandbox is not authorized to perform: logs:AssociateKmsKey "
    f"on resource: {log_group_arn(ACCOUNT, REGION, GROUP)} "
    "because no identity-based policy allows the logs:AssociateKmsKey action"
)
CONFLICT = "A conflicting operation is currently in progress against this resource. Please try again."


async def refusal(call: Awaitable[Any]) -> tuple[str, str, int]:
    """Code, message and HTTP status of a call that AWS refuses."""
    with pytest.raises(ClientError) as raised:
        await call
    response: Any = raised.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


class Clients:
    """aiobotocore clients, kept for the whole module: to make one takes longer than most tests."""

    def __init__(self, endpoint: str, stack: AsyncExitStack) -> None:
        self._endpoint = endpoint
        self._stack = stack
        self._session = AioSession()
        self._clients: dict[tuple[str, str, str], Any] = {}

    async def get(self, service: str, credentials: dict[str, str] = SANDBOX, *, region: str = REGION) -> Any:
        key = (service, credentials["AccessKeyId"] + credentials.get("SessionToken", ""), region)
        if key not in self._clients:
            client = self._session.create_client(
                service,
                endpoint_url=self._endpoint,
                region_name=region,
                aws_access_key_id=credentials["AccessKeyId"],
                aws_secret_access_key=credentials["SecretAccessKey"],
                aws_session_token=credentials.get("SessionToken"),
                config=CONFIG,
            )
            self._clients[key] = await self._stack.enter_async_context(client)
        return self._clients[key]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process() -> AsyncIterator[AwsSandbox]:
    async with AwsSandbox.start() as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(process: AwsSandbox) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(process.endpoint, stack)


@pytest_asyncio.fixture(loop_scope="module")
async def aws(process: AwsSandbox) -> AwsSandbox:
    await process.reset()
    return process


@pytest_asyncio.fixture(loop_scope="module")
async def logs(aws: AwsSandbox, clients: Clients) -> Any:
    """CloudWatch Logs in the sandbox's own account, where there is one log group."""
    await aws.create_log_group(ACCOUNT, REGION, GROUP)
    return await clients.get("logs")


@pytest_asyncio.fixture(loop_scope="module")
async def kms(aws: AwsSandbox, clients: Clients) -> Any:
    return await clients.get("kms")


@pytest_asyncio.fixture(loop_scope="module")
async def sts(aws: AwsSandbox, clients: Clients) -> Any:
    return await clients.get("sts")


@pytest_asyncio.fixture(loop_scope="module")
async def tenant(aws: AwsSandbox, sts: Any) -> dict[str, str]:
    """Credentials of a role session in the tenant's account."""
    role = await aws.create_role(TENANT, "logwarden", EXTERNAL_ID)
    answer = await sts.assume_role(RoleArn=role, RoleSessionName="test", ExternalId=EXTERNAL_ID)
    credentials: dict[str, str] = answer["Credentials"]
    return credentials


@pytest_asyncio.fixture(loop_scope="module")
async def key(aws: AwsSandbox) -> str:
    return await aws.create_key(ACCOUNT, REGION)


# -- keys of log groups


async def test_an_associated_key_shows_and_a_disassociated_one_does_not(logs, key):
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)
    (group,) = (await logs.describe_log_groups(logGroupIdentifiers=[GROUP]))["logGroups"]
    assert group["kmsKeyId"] == key
    assert group["arn"] == f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{GROUP}:*"
    assert group["logGroupArn"] == f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{GROUP}"
    assert group["logGroupClass"] == "STANDARD"

    await logs.disassociate_kms_key(logGroupName=GROUP)
    (group,) = (await logs.describe_log_groups(logGroupIdentifiers=[GROUP]))["logGroups"]
    assert "kmsKeyId" not in group


async def test_an_association_replaces_the_one_before(aws, logs, key):
    other_key = await aws.create_key(ACCOUNT, REGION)
    for k in (key, other_key):
        await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=k)

    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: other_key}


async def test_a_log_group_can_be_named_by_its_arn(aws, logs, key):
    arn = log_group_arn(ACCOUNT, REGION, GROUP)
    await logs.associate_kms_key(resourceIdentifier=arn, kmsKeyId=key)
    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: key}

    await logs.disassociate_kms_key(resourceIdentifier=arn)
    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: None}


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"logGroupName": GROUP, "resourceIdentifier": log_group_arn(ACCOUNT, REGION, GROUP)},
        {"logGroupName": "a" * 513},
        {"logGroupName": "with space"},
        {"resourceIdentifier": GROUP},
        {"resourceIdentifier": log_group_arn(ACCOUNT, REGION, GROUP) + ":*"},
        {"resourceIdentifier": log_group_arn(OTHER_ACCOUNT, REGION, GROUP)},
        {"resourceIdentifier": log_group_arn(ACCOUNT, "us-east-1", GROUP)},
        {"resourceIdentifier": f"arn:aws:logs:{REGION}:{ACCOUNT}:query-result:*"},
    ],
)
async def test_a_request_must_name_one_log_group_in_good_form(logs, key, target):
    assert (await refusal(logs.associate_kms_key(kmsKeyId=key, **target)))[::2] == ("InvalidParameterException", 400)
    assert (await refusal(logs.disassociate_kms_key(**target)))[::2] == ("InvalidParameterException", 400)


async def test_a_member_that_the_model_does_not_have_is_refused(aws):
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential=sandbox/20260101/{REGION}/logs/aws4_request",
        "X-Amz-Target": "Logs_20140328.AssociateKmsKey",
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(aws.endpoint, headers=headers, json={"logGroupName": GROUP, "kmsKeyID": "x"})

    assert response.status_code == 400
    assert response.json()["__type"] == "InvalidParameterException"
    assert "at 'kmsKeyID'" in response.json()["message"]
    assert response.headers["x-amzn-RequestId"]


async def test_an_absent_log_group(logs, key):
    assert await refusal(logs.associate_kms_key(logGroupName="/app", kmsKeyId=key)) == GROUP_NOT_FOUND
    assert await refusal(logs.disassociate_kms_key(logGroupName="/app")) == GROUP_NOT_FOUND


async def test_a_deleted_log_group(aws, logs, key):
    await aws.delete_log_group(ACCOUNT, REGION, GROUP)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == GROUP_NOT_FOUND


@pytest.mark.parametrize("name", ["aws/app", "AWS/app", "Aws/"])
async def test_names_that_aws_keeps_for_itself(aws, logs, key, name):
    await aws.create_log_group(ACCOUNT, REGION, name)

    assert await refusal(logs.associate_kms_key(logGroupName=name, kmsKeyId=key)) == RESERVED_NAME
    assert await refusal(logs.create_log_group(logGroupName=name)) == RESERVED_NAME


async def test_names_below_a_slash_are_not_reserved(aws, logs, key):
    await logs.create_log_group(logGroupName="/aws/lambda/f", kmsKeyId=key)
    assert await aws.keys_of(ACCOUNT, REGION, ["/aws/lambda/f"]) == {"/aws/lambda/f": key}


# -- keys that AWS refuses


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion", "PendingImport", "Unavailable"])
async def test_a_key_that_is_not_enabled(aws, logs, key, state):
    await aws.set_key_state(key, state)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_FOUND

    await aws.set_key_state(key, "Enabled")
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)


async def test_a_key_that_was_created_disabled(aws, logs):
    key = await aws.create_key(ACCOUNT, REGION, enabled=False)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_FOUND


async def test_an_absent_key(logs):
    absent = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=absent)) == KEY_NOT_ALLOWED


async def test_a_key_of_another_region(aws, logs):
    key = await aws.create_key(ACCOUNT, "us-east-1")
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_FOUND


@pytest.mark.parametrize(
    ("spec", "usage"),
    [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")],
)
async def test_a_key_that_is_not_for_symmetric_encryption(aws, logs, spec, usage):
    key = await aws.create_key(ACCOUNT, REGION, spec=spec, usage=usage)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_FOUND


async def test_a_key_by_its_id_or_alias(kms, logs, key):
    await kms.create_alias(AliasName="alias/logs", TargetKeyId=key)

    for name in (key.rpartition("/")[2], "alias/logs", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/logs"):
        assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=name)) == KEY_NOT_FOUND


async def test_a_key_that_has_the_policy_kms_gave_it(aws, kms, logs):
    key = (await kms.create_key())["KeyMetadata"]["Arn"]
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_ALLOWED

    await aws.put_key_policy(key, logs_key_policy(ACCOUNT, REGION))
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)


@pytest.mark.parametrize(
    "policy",
    [
        default_key_policy(ACCOUNT, REGION),
        logs_key_policy(ACCOUNT, "us-east-1"),
        logs_key_policy(OTHER_ACCOUNT, REGION),
        {
            "Statement": [
                *logs_key_policy(ACCOUNT, REGION)["Statement"],
                {"Effect": "Deny", "Principal": "*", "Action": "kms:*"},
            ]
        },
    ],
    ids=["default", "another Region's Logs", "another account's log groups", "deny"],
)
async def test_a_key_whose_policy_does_not_let_logs_use_it(aws, logs, policy):
    key = await aws.create_key(ACCOUNT, REGION, policy=policy)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_ALLOWED


async def test_a_refused_key_changes_nothing(aws, logs, key):
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)
    bad_key = await aws.create_key(ACCOUNT, REGION, enabled=False)
    await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=bad_key))

    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: key}


async def test_a_key_of_another_account_works_if_its_policy_names_logs_and_the_caller(aws, logs):
    policy = logs_key_policy(ACCOUNT, REGION, key_account=OTHER_ACCOUNT)
    key = await aws.create_key(OTHER_ACCOUNT, REGION, policy=policy)
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)

    closed_key = await aws.create_key(OTHER_ACCOUNT, REGION, policy={"Statement": policy["Statement"][-1:]})
    code, message, _ = await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=closed_key))
    assert code == "AccessDeniedException"
    assert "no resource-based policy allows the kms:Encrypt action" in message

    foreign_key = await aws.create_key(OTHER_ACCOUNT, REGION)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=foreign_key)) == KEY_NOT_ALLOWED


async def test_a_log_group_is_not_created_under_an_unusable_key(aws, logs):
    key = await aws.create_key(ACCOUNT, REGION, enabled=False)

    assert await refusal(logs.create_log_group(logGroupName="/new", kmsKeyId=key)) == KEY_NOT_FOUND
    assert await aws.keys_of(ACCOUNT, REGION, ["/new"]) == {}


# -- looking up


async def test_identifiers_are_exact_and_absent_ones_left_out(aws, logs):
    await aws.create_log_groups(ACCOUNT, REGION, ["/app/ab", "/app/a/b"])

    answer = await logs.describe_log_groups(logGroupIdentifiers=[GROUP, "/app/absent"])
    assert [group["logGroupName"] for group in answer["logGroups"]] == [GROUP]


@pytest.mark.parametrize(
    "filters",
    [
        {"logGroupIdentifiers": [f"/{n}" for n in range(51)]},
        {"logGroupIdentifiers": []},
        {"logGroupIdentifiers": [GROUP], "logGroupNamePrefix": "/"},
        {"logGroupIdentifiers": [GROUP], "logGroupNamePattern": "app"},
        {"logGroupIdentifiers": [GROUP], "logGroupClass": "STANDARD"},
        {"logGroupIdentifiers": [log_group_arn(ACCOUNT, REGION, GROUP)]},
        {"logGroupNamePrefix": "/", "logGroupNamePattern": "app"},
        {"logGroupNamePrefix": "with space"},
        {"nextToken": "%"},
        {"limit": 51},
    ],
)
async def test_filters_that_aws_refuses(logs, filters):
    assert (await refusal(logs.describe_log_groups(**filters)))[::2] == ("InvalidParameterException", 400)


async def test_fifty_identifiers_come_back_in_one_page(aws, logs):
    names = [f"/fifty/{n:02}" for n in range(50)]
    await aws.create_log_groups(ACCOUNT, REGION, names)

    answer = await logs.describe_log_groups(logGroupIdentifiers=names)
    assert [group["logGroupName"] for group in answer["logGroups"]] == names
    assert "nextToken" not in answer


async def test_pages_by_prefix_hold_every_log_group_once_and_in_order(aws, logs):
    names = [f"/page/{n:03}" for n in range(120)]
    await aws.create_log_groups(ACCOUNT, REGION, reversed(names))

    pages = [page async for page in logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix="/page/")]
    assert [len(page["logGroups"]) for page in pages] == [50, 50, 20]
    assert [group["logGroupName"] for page in pages for group in page["logGroups"]] == names


async def test_a_pattern_finds_parts_of_names_and_shows_no_key(logs, key):
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)

    (group,) = (await logs.describe_log_groups(logGroupNamePattern="pp/"))["logGroups"]
    assert group["logGroupName"] == GROUP
    assert "kmsKeyId" not in group


async def test_log_groups_are_listed_by_pattern_tag_and_class_without_key(aws, logs, key):
    await aws.create_log_groups(
        ACCOUNT,
        REGION,
        [
            NewLogGroup(name="/list/a", tags={"tenant": "acme", "stage": "live"}, kms_key_id=key),
            NewLogGroup(name="/list/b", tags={"tenant": "globex"}),
        ],
    )
    await logs.create_log_group(logGroupName="/rare/c", logGroupClass="INFREQUENT_ACCESS", tags={"tenant": "acme"})

    async def listed(**filters: Any) -> list[str]:
        return [group["logGroupName"] for group in (await logs.list_log_groups(**filters))["logGroups"]]

    assert await listed(logGroupNamePattern="^/list") == ["/list/a", "/list/b"]
    assert await listed(logGroupTags=[{"key": "tenant"}]) == ["/list/a", "/list/b", "/rare/c"]
    assert await listed(logGroupTags=[{"key": "tenant", "values": ["acme"]}, {"key": "stage"}]) == ["/list/a"]
    assert await listed(logGroupClass="INFREQUENT_ACCESS") == ["/rare/c"]
    assert (await logs.list_log_groups(logGroupNamePattern="/list/a"))["logGroups"] == [
        {
            "logGroupName": "/list/a",
            "logGroupArn": log_group_arn(ACCOUNT, REGION, "/list/a"),
            "logGroupClass": "STANDARD",
        }
    ]


async def test_state_is_shared_with_motos_own_operations(aws, logs, key):
    await logs.create_log_group(logGroupName="/new", kmsKeyId=key, tags={"tenant": "acme"})
    await logs.put_retention_policy(logGroupName="/new", retentionInDays=30)

    (group,) = (await logs.describe_log_groups(logGroupIdentifiers=["/new"]))["logGroups"]
    assert (group["kmsKeyId"], group["retentionInDays"]) == (key, 30)
    tags = await logs.list_tags_for_resource(resourceArn=log_group_arn(ACCOUNT, REGION, "/new"))
    assert tags["tags"] == {"tenant": "acme"}
    assert await refusal(logs.create_log_group(logGroupName="/new")) == (
        "ResourceAlreadyExistsException",
        "The specified log group already exists",
        400,
    )


async def test_a_log_group_of_the_same_name_inherits_nothing(logs, key):
    await logs.create_log_group(logGroupName="/new", kmsKeyId=key, tags={"tenant": "acme"})
    await logs.delete_log_group(logGroupName="/new")
    await logs.create_log_group(logGroupName="/new")

    (group,) = (await logs.describe_log_groups(logGroupIdentifiers=["/new"]))["logGroups"]
    assert "kmsKeyId" not in group
    tags = await logs.list_tags_for_resource(resourceArn=log_group_arn(ACCOUNT, REGION, "/new"))
    assert tags["tags"] == {}


async def test_an_operation_that_is_not_there_does_not_look_transient(clients, logs):
    code, message, status = await refusal(logs.get_log_group_fields(logGroupName=GROUP))
    assert (code, status) == ("UnknownOperationException", 400)
    assert "get_log_group_fields" in message

    sqs = await clients.get("sqs")
    assert (await refusal(sqs.list_queues()))[2] == 400


# -- quotas


async def test_associations_above_five_a_second_are_throttled(aws, logs, key):
    refusals = await asyncio.gather(
        *(refusal(logs.associate_kms_key(logGroupName=f"/{n}", kmsKeyId=key)) for n in range(20))
    )

    codes = [code for code, _, _ in refusals]
    assert 5 <= codes.count("ResourceNotFoundException") <= 7  # refused calls count too; a token or two may come back
    assert codes.count("ThrottlingException") == 20 - codes.count("ResourceNotFoundException")
    assert throttled_share(await aws.calls("AssociateKmsKey")) == codes.count("ThrottlingException") / 20


async def test_a_throttled_call_looks_as_it_does_at_aws(aws, logs, key):
    await aws.set_quota("AssociateKmsKey", per_second=0.001)

    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == THROTTLED


async def test_quotas_are_for_each_account_and_region(aws, clients, logs, tenant):
    await aws.set_quota("DescribeLogGroups", per_second=0.001)
    await logs.describe_log_groups()
    assert await refusal(logs.describe_log_groups()) == THROTTLED

    await (await clients.get("logs", tenant)).describe_log_groups()
    await (await clients.get("logs", region="us-east-1")).describe_log_groups()


async def test_log_groups_are_created_without_a_quota_until_there_is_one(aws, logs):
    for n in range(30):
        await logs.create_log_group(logGroupName=f"/many/{n}")
    await aws.set_quota("CreateLogGroup", per_second=0.001, burst=2)
    for n in range(30, 32):
        await logs.create_log_group(logGroupName=f"/many/{n}")

    assert await refusal(logs.create_log_group(logGroupName="/many/32")) == THROTTLED


async def test_a_lifted_quota_throttles_nobody(aws, logs, key):
    await aws.set_quota("AssociateKmsKey", per_second=None)
    for _ in range(20):
        await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)

    assert throttled_share(await aws.calls()) == 0


async def test_a_quota_of_an_operation_that_does_not_exist_is_a_mistake(aws):
    with pytest.raises(AwsSandboxError, match="AssociateKMSKey"):
        await aws.set_quota("AssociateKMSKey", per_second=1)


# -- roles and sessions


async def test_an_assumed_role_acts_in_its_account_and_nobody_else_does(aws, clients, logs, sts, tenant):
    identity = await (await clients.get("sts", tenant)).get_caller_identity()
    assert identity["Account"] == TENANT
    assert identity["Arn"] == f"arn:aws:sts::{TENANT}:assumed-role/logwarden/test"
    assert (await sts.get_caller_identity())["Account"] == OWN_ACCOUNT

    await aws.create_log_group(TENANT, REGION, "/tenant")
    there = await (await clients.get("logs", tenant)).describe_log_groups()
    here = await logs.describe_log_groups()
    assert [group["logGroupName"] for group in there["logGroups"]] == ["/tenant"]
    assert [group["logGroupName"] for group in here["logGroups"]] == [GROUP]


@pytest.mark.parametrize(
    ("role", "given"),
    [
        ("logwarden", {"ExternalId": "another"}),
        ("logwarden", {}),
        ("absent", {"ExternalId": EXTERNAL_ID}),
        ("path/logwarden", {"ExternalId": EXTERNAL_ID}),
    ],
    ids=["wrong external id", "no external id", "absent role", "another path"],
)
async def test_a_role_that_cannot_be_assumed(aws, sts, role, given):
    await aws.create_role(TENANT, "logwarden", EXTERNAL_ID)
    arn = f"arn:aws:iam::{TENANT}:role/{role}"

    assert await refusal(sts.assume_role(RoleArn=arn, RoleSessionName="test", **given)) == (
        "AccessDenied",
        f"User: arn:aws:iam::{OWN_ACCOUNT}:user/sandbox is not authorized to perform: sts:AssumeRole on resource: {arn}",
        403,
    )


async def test_a_role_trusts_the_sandboxs_own_account_only(aws, clients, tenant):
    role = await aws.create_role(OTHER_ACCOUNT, "logwarden", EXTERNAL_ID)
    chained = await clients.get("sts", tenant)

    code, message, _ = await refusal(chained.assume_role(RoleArn=role, RoleSessionName="x1", ExternalId=EXTERNAL_ID))
    assert code == "AccessDenied"
    assert f"assumed-role/logwarden/test is not authorized to perform: sts:AssumeRole on resource: {role}" in message


async def test_a_role_with_a_path_and_without_an_external_id(aws, sts):
    role = await aws.create_role(TENANT, "team/logwarden")
    assert role == f"arn:aws:iam::{TENANT}:role/team/logwarden"

    answer = await sts.assume_role(RoleArn=role, RoleSessionName="test")
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{TENANT}:assumed-role/logwarden/test"


@pytest.mark.parametrize("wrong", [{"DurationSeconds": 899}, {"DurationSeconds": 3601}, {"RoleSessionName": "a b"}])
async def test_a_session_that_sts_does_not_grant(aws, sts, wrong):
    role = await aws.create_role(TENANT, "logwarden")

    code, _, status = await refusal(sts.assume_role(**({"RoleArn": role, "RoleSessionName": "test"} | wrong)))
    assert (code, status) == ("ValidationError", 400)


async def test_expired_sessions_are_refused_until_the_role_is_assumed_again(aws, clients, sts, tenant):
    logs = await clients.get("logs", tenant)
    await aws.expire_sessions(OTHER_ACCOUNT)
    await logs.describe_log_groups()

    await aws.expire_sessions(TENANT)
    message = "The security token included in the request is expired"
    assert await refusal(logs.describe_log_groups()) == ("ExpiredTokenException", message, 400)
    kms = await clients.get("kms", tenant)
    assert await refusal(kms.list_keys()) == ("ExpiredTokenException", message, 400)
    expired_sts = await clients.get("sts", tenant)
    assert await refusal(expired_sts.get_caller_identity()) == ("ExpiredToken", message, 403)

    role = f"arn:aws:iam::{TENANT}:role/logwarden"
    answer = await sts.assume_role(RoleArn=role, RoleSessionName="again", ExternalId=EXTERNAL_ID)
    await (await clients.get("logs", answer["Credentials"])).describe_log_groups()


async def test_a_session_that_was_never_issued_is_refused(clients, tenant):
    message = "The security token included in the request is invalid."
    logs = await clients.get("logs", tenant | {"SessionToken": "forged"})
    assert await refusal(logs.describe_log_groups()) == ("UnrecognizedClientException", message, 400)

    sts = await clients.get("sts", tenant | {"AccessKeyId": "ASIAUNKNOWNUNKNOWN00"})
    assert await refusal(sts.get_caller_identity()) == ("InvalidClientTokenId", message, 403)


# -- KMS, and what else shares the state


async def test_a_key_is_described_by_arn_id_and_alias(kms, key):
    await kms.create_alias(AliasName="alias/logs", TargetKeyId=key)

    for name in (key, key.rpartition("/")[2], "alias/logs", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/logs"):
        metadata = (await kms.describe_key(KeyId=name))["KeyMetadata"]
        assert metadata["Arn"] == key
        assert (metadata["KeyState"], metadata["KeySpec"], metadata["KeyUsage"]) == (
            "Enabled",
            "SYMMETRIC_DEFAULT",
            "ENCRYPT_DECRYPT",
        )


async def test_a_key_of_another_account_is_described_if_its_policy_names_the_caller(aws, clients, tenant):
    kms = await clients.get("kms", tenant)
    policy = logs_key_policy(TENANT, REGION, key_account=OTHER_ACCOUNT)
    shared = await aws.create_key(OTHER_ACCOUNT, REGION, policy=policy)
    private = await aws.create_key(OTHER_ACCOUNT, REGION)

    assert (await kms.describe_key(KeyId=shared))["KeyMetadata"]["AWSAccountId"] == OTHER_ACCOUNT
    for call in (kms.describe_key(KeyId=private), kms.get_key_policy(KeyId=shared)):
        code, message, _ = await refusal(call)
        assert code == "AccessDeniedException"
        assert f"User: arn:aws:sts::{TENANT}:assumed-role/logwarden/test is not authorized to perform: kms:" in message


async def test_a_key_policy_can_lock_its_own_account_out(aws, kms, key):
    assert '"kms:*"' in (await kms.get_key_policy(KeyId=key))["Policy"]

    await aws.put_key_policy(key, {"Statement": logs_key_policy(ACCOUNT, REGION)["Statement"][1:]})
    assert (await refusal(kms.describe_key(KeyId=key)))[0] == "AccessDeniedException"
    assert (await refusal(kms.get_key_policy(KeyId=key)))[0] == "AccessDeniedException"


async def test_an_absent_key_and_one_of_another_region_are_not_found(aws, kms):
    absent = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
    assert (await refusal(kms.describe_key(KeyId=absent)))[0] == "NotFoundException"

    elsewhere = await aws.create_key(ACCOUNT, "us-east-1")
    assert (await refusal(kms.describe_key(KeyId=elsewhere)))[:2] == ("NotFoundException", "Invalid arn us-east-1")


async def test_an_absent_alias_is_not_found_and_an_absent_key_of_another_account_looks_like_a_closed_one(kms):
    alias = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/absent"
    assert (await refusal(kms.describe_key(KeyId=alias)))[:2] == ("NotFoundException", f"Alias {alias} is not found.")

    foreign = f"arn:aws:kms:{REGION}:{OTHER_ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
    code, message, _ = await refusal(kms.describe_key(KeyId=foreign))
    assert code == "AccessDeniedException"
    assert "the resource does not exist in this Region, no resource-based policies allow access" in message


async def test_a_key_policy_is_not_read_by_an_alias(kms, key):
    await kms.create_alias(AliasName="alias/logs", TargetKeyId=key)
    assert (await refusal(kms.get_key_policy(KeyId="alias/logs")))[0] == "InvalidArnException"


async def test_a_replica_has_a_policy_aliases_and_a_state_of_its_own(aws, clients, kms, logs):
    primary = (await kms.create_key(MultiRegion=True, Policy=json.dumps(logs_key_policy(ACCOUNT, REGION))))[
        "KeyMetadata"
    ]
    await kms.create_alias(AliasName="alias/logs", TargetKeyId=primary["KeyId"])
    policy = json.dumps(logs_key_policy(ACCOUNT, "us-east-1"))
    answer = await kms.replicate_key(KeyId=primary["KeyId"], ReplicaRegion="us-east-1", Policy=policy)
    replica = answer["ReplicaKeyMetadata"]
    assert replica["Arn"] == primary["Arn"].replace(REGION, "us-east-1")
    assert replica["MultiRegionConfiguration"]["MultiRegionKeyType"] == "REPLICA"

    await kms.disable_key(KeyId=primary["KeyId"])
    there = await clients.get("kms", region="us-east-1")
    assert (await there.describe_key(KeyId=replica["Arn"]))["KeyMetadata"]["KeyState"] == "Enabled"
    assert (await refusal(there.describe_key(KeyId="alias/logs")))[0] == "NotFoundException"

    await aws.create_log_group(ACCOUNT, "us-east-1", GROUP)
    logs_there = await clients.get("logs", region="us-east-1")
    await logs_there.associate_kms_key(logGroupName=GROUP, kmsKeyId=replica["Arn"])
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=replica["Arn"])) == KEY_NOT_FOUND


async def test_only_a_multi_region_key_is_replicated_and_once_to_a_region(kms, key):
    assert (await refusal(kms.replicate_key(KeyId=key, ReplicaRegion="us-east-1")))[
        0
    ] == "UnsupportedOperationException"
    multi_region = (await kms.create_key(MultiRegion=True))["KeyMetadata"]["Arn"]
    await kms.replicate_key(KeyId=multi_region, ReplicaRegion="us-east-1")
    refused = await refusal(kms.replicate_key(KeyId=multi_region, ReplicaRegion="us-east-1"))
    assert refused[0] == "AlreadyExistsException"


async def test_a_role_with_a_policy_may_do_what_it_says(aws, clients, sts):
    allow = {"Effect": "Allow", "Action": "logs:AssociateKmsKey", "Resource": f"arn:aws:logs:*:*:log-group:{GROUP}"}
    use = {
        "Effect": "Allow",
        "Action": ["kms:*crypt*", "kms:GenerateDataKey"],
        "Resource": "*",
        "Condition": {"StringEquals": {"kms:ViaService": f"logs.{REGION}.amazonaws.com"}},
    }
    describe = {"Effect": "Allow", "Action": "kms:DescribeKey", "Resource": "*"}
    for name, statements in (("all", [allow, use, describe]), ("no-keys", [allow])):
        await aws.create_role(TENANT, name, policy={"Statement": statements})
    await aws.create_log_groups(TENANT, REGION, [GROUP, "/other"])
    key = await aws.create_key(TENANT, REGION)
    sessions = {
        name: (await sts.assume_role(RoleArn=f"arn:aws:iam::{TENANT}:role/{name}", RoleSessionName="test"))[
            "Credentials"
        ]
        for name in ("all", "no-keys")
    }

    logs = await clients.get("logs", sessions["no-keys"])
    _, message, _ = await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key))
    assert f"not authorized to perform: kms:Encrypt on resource: {key} because no identity-based policy" in message
    logs = await clients.get("logs", sessions["all"])
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)
    for call in (logs.associate_kms_key(logGroupName="/other", kmsKeyId=key), logs.describe_log_groups()):
        code, message, _ = await refusal(call)
        assert (code, "not authorized to perform: logs:" in message) == ("AccessDeniedException", True)


async def test_keys_change_through_kms_too(kms, logs, key):
    await kms.disable_key(KeyId=key)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_FOUND

    await kms.enable_key(KeyId=key)
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)
    await kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == KEY_NOT_FOUND
    assert (await refusal(kms.enable_key(KeyId=key)))[0] == "KMSInvalidStateException"
    assert (await kms.describe_key(KeyId=key))["KeyMetadata"]["KeyState"] == "PendingDeletion"

    await kms.cancel_key_deletion(KeyId=key)
    assert (await refusal(kms.cancel_key_deletion(KeyId=key)))[0] == "KMSInvalidStateException"
    await kms.enable_key(KeyId=key)
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)


async def test_a_key_policy_that_is_no_json_is_refused(kms):
    assert (await refusal(kms.create_key(Policy="allow")))[0] == "MalformedPolicyDocumentException"


async def test_dynamodb_and_iam_answer_in_the_callers_account(clients, tenant):
    dynamodb = await clients.get("dynamodb")
    await dynamodb.create_table(
        TableName="tenants",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    await dynamodb.put_item(TableName="tenants", Item={"id": {"S": "acme"}})
    assert (await dynamodb.get_item(TableName="tenants", Key={"id": {"S": "acme"}}))["Item"] == {"id": {"S": "acme"}}

    elsewhere = await clients.get("dynamodb", tenant)
    assert (await elsewhere.list_tables())["TableNames"] == []
    iam = await clients.get("iam", tenant)
    assert (await iam.get_role(RoleName="logwarden"))["Role"]["Arn"] == f"arn:aws:iam::{TENANT}:role/logwarden"


# -- faults


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"throttled": 1.0}, THROTTLED),
        (
            {"service_unavailable": 1.0},
            ("ServiceUnavailableException", "The service is temporarily unavailable. Please try again.", 500),
        ),
        ({"operation_aborted": 1.0}, ("OperationAbortedException", CONFLICT, 400)),
        ({"internal_failure": 1.0}, ("InternalFailure", "An internal error occurred.", 500)),
        ({"not_authorized": 1.0}, ("AccessDeniedException", NOT_AUTHORIZED, 400)),
        ({"outage": "unavailable"}, ("503", "Service Unavailable", 503)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_an_injected_error_arrives_as_aws_sends_it_and_changes_nothing(aws, logs, key, fault, expected):
    await aws.inject(Faults(operation="AssociateKmsKey", **fault))
    assert await refusal(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)) == expected
    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: None}
    assert (await aws.calls("AssociateKmsKey"))[0].result == expected[0]

    await aws.clear_faults()
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)


@pytest.mark.parametrize(
    ("service", "operation", "expected"),
    [
        ("sts", "get_caller_identity", {"Throttling", "ServiceUnavailable", "InternalFailure", "AccessDenied"}),
        (
            "kms",
            "list_keys",
            {"ThrottlingException", "DependencyTimeoutException", "KMSInternalException", "AccessDeniedException"},
        ),
        (
            "dynamodb",
            "list_tables",
            {"ThrottlingException", "ServiceUnavailable", "InternalServerError", "AccessDeniedException"},
        ),
    ],
)
async def test_every_service_names_trouble_in_its_own_way(aws, clients, service, operation, expected):
    client = await clients.get(service)
    codes = set()
    for fault in ("throttled", "service_unavailable", "internal_failure", "not_authorized"):
        faults: dict[str, Any] = {"service": service, fault: 1.0}
        await aws.inject(Faults(**faults))
        codes.add((await refusal(getattr(client, operation)()))[0])

    assert codes == expected


@pytest.mark.parametrize("fault", [{"connection_reset": 1.0}, {"outage": "reset"}])
async def test_a_reset_connection_brings_no_answer_and_no_change(aws, logs, key, fault):
    await aws.inject(Faults(**fault))
    with pytest.raises(ConnectionLost):
        await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)

    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: None}
    assert [call.result for call in await aws.calls("AssociateKmsKey")] == ["connection reset"]


async def test_a_lost_answer_leaves_the_change_made(aws, logs, key):
    await aws.inject(Faults(answer_lost=1.0))
    with pytest.raises(ConnectionLost):
        await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)

    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: key}


async def test_faults_can_be_limited_to_an_account_and_a_region(aws, clients, logs, tenant):
    await aws.inject(Faults(account=ACCOUNT, region=REGION, service_unavailable=1.0))

    await (await clients.get("logs", tenant)).describe_log_groups()
    await (await clients.get("logs", region="us-east-1")).describe_log_groups()
    assert (await refusal(logs.describe_log_groups()))[0] == "ServiceUnavailableException"


async def test_a_fault_for_an_operation_that_does_not_exist_is_a_mistake(aws):
    with pytest.raises(AwsSandboxError, match="AssociateKMSKey"):
        await aws.inject(Faults(operation="AssociateKMSKey", throttled=1.0))


async def test_latency_delays_the_answer(aws, logs):
    await aws.inject(Faults(latency_s=(0.15, 0.2)))
    started = time.monotonic()
    await logs.describe_log_groups()

    assert time.monotonic() - started >= 0.15


async def test_a_slow_effect_is_not_shown_at_once(aws, logs, key):
    await aws.inject(Faults(effect_delay_s=3600.0))
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)

    (group,) = (await logs.describe_log_groups(logGroupIdentifiers=[GROUP]))["logGroups"]
    assert "kmsKeyId" not in group
    assert await aws.keys_of(ACCOUNT, REGION, [GROUP]) == {GROUP: None}


# -- the call log


async def test_the_call_log_tells_who_did_what_and_how_it_ended(aws, clients, kms, logs, sts, tenant, key):
    await aws.clear_calls()
    before = time.monotonic()
    await logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key)
    await refusal(logs.associate_kms_key(resourceIdentifier=log_group_arn(ACCOUNT, REGION, "/absent"), kmsKeyId=key))
    await kms.describe_key(KeyId=key)
    role = f"arn:aws:iam::{TENANT}:role/logwarden"
    await sts.assume_role(RoleArn=role, RoleSessionName="test", ExternalId=EXTERNAL_ID)
    await (await clients.get("logs", tenant, region="us-east-1")).describe_log_groups()
    await aws.keys_of(ACCOUNT, REGION, [GROUP])
    after = time.monotonic()

    calls = await aws.calls()
    assert [(c.service, c.operation, c.account, c.region, c.log_group, c.key, c.role, c.result) for c in calls] == [
        ("logs", "AssociateKmsKey", ACCOUNT, REGION, GROUP, key, None, "ok"),
        ("logs", "AssociateKmsKey", ACCOUNT, REGION, "/absent", key, None, "ResourceNotFoundException"),
        ("kms", "DescribeKey", ACCOUNT, REGION, None, key, None, "ok"),
        ("sts", "AssumeRole", ACCOUNT, REGION, None, None, role, "ok"),
        ("logs", "DescribeLogGroups", TENANT, "us-east-1", None, None, None, "ok"),
    ]
    assert calls[0].caller == f"arn:aws:iam::{ACCOUNT}:user/sandbox"
    assert calls[-1].caller == f"arn:aws:sts::{TENANT}:assumed-role/logwarden/test"
    assert before <= calls[0].started_s <= calls[0].ended_s <= calls[1].started_s <= calls[-1].ended_s <= after
    assert [call.operation for call in await aws.calls("DescribeKey")] == ["DescribeKey"]


async def test_the_call_log_shows_calls_that_overlap(aws, logs, key):
    await aws.inject(Faults(operation="AssociateKmsKey", latency_s=(0.1, 0.1)))
    await asyncio.gather(
        *(logs.associate_kms_key(logGroupName=GROUP, kmsKeyId=key) for _ in range(2)), return_exceptions=True
    )

    calls = await aws.calls("AssociateKmsKey")
    assert len(overlaps(calls)) == 1
    assert sorted(call.result for call in calls) == ["OperationAbortedException", "ok"]
    assert most_in_any(1.0, calls) == 2


async def test_a_hundred_connections_at_once_are_served(aws, logs, key):
    await aws.set_quota("AssociateKmsKey", per_second=None)
    names = [f"/load/{n}" for n in range(120)]
    await aws.create_log_groups(ACCOUNT, REGION, names)
    await aws.inject(Faults(operation="AssociateKmsKey", latency_s=(0.3, 0.3)))

    await asyncio.gather(*(logs.associate_kms_key(logGroupName=name, kmsKeyId=key) for name in names))

    calls = await aws.calls("AssociateKmsKey")
    assert max(call.started_s for call in calls) < min(call.ended_s for call in calls)
    assert set((await aws.keys_of(ACCOUNT, REGION, names)).values()) == {key}


async def test_a_scene_of_five_thousand_log_groups_is_set_and_read_back(aws):
    names = [f"/scene/{n}" for n in range(5000)]
    started = time.monotonic()
    await aws.create_log_groups(ACCOUNT, REGION, names)
    keys = await aws.keys_of(ACCOUNT, REGION, names)

    assert keys == dict.fromkeys(names)
    assert time.monotonic() - started < 10
    with pytest.raises(AwsSandboxError, match="ResourceAlreadyExistsException"):
        await aws.create_log_group(ACCOUNT, REGION, names[0])


# -- the process


@pytest.mark.parametrize(
    "command", [b"{", b'{"kind": "fly"}', b'{"kind": "set_faults", "seed": 0, "faults": [{"throttled": 2}]}']
)
async def test_a_command_that_is_not_one_is_refused(aws, command):
    async with httpx.AsyncClient(base_url=aws.endpoint, trust_env=False) as client:
        assert (await client.post("/_sandbox/command", content=command)).status_code == 400


async def test_the_environment_leads_an_sdk_to_the_sandbox(aws, monkeypatch):
    for name, value in aws.environment("us-east-1").items():
        monkeypatch.setenv(name, value)
    async with AioSession().create_client("sts") as sts:
        assert (await sts.get_caller_identity())["Account"] == OWN_ACCOUNT


async def test_a_stopped_sandbox_is_gone_and_says_so():
    async with AwsSandbox.start(account=OTHER_ACCOUNT) as aws:
        await aws.reset()
        await aws.stop()
        with pytest.raises(AwsSandboxError, match="has ended"):
            await aws.reset()
    assert not aws.is_running


async def test_a_sandbox_whose_start_is_cancelled_is_ended():
    launched: list[AwsSandbox] = []

    class Recorded(AwsSandbox):
        @classmethod
        def launch(cls, **settings: Any) -> Self:
            launched.append(sandbox := super().launch(**settings))
            return sandbox

    starting = asyncio.ensure_future(Recorded.start().__aenter__())
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [sandbox.is_running for sandbox in launched] == [False]


async def test_a_taken_port_is_an_error(aws):
    with pytest.raises(AwsSandboxError, match="ended"):
        await asyncio.to_thread(AwsSandbox.launch, port=int(aws.endpoint.rpartition(":")[2]))


async def test_the_sandbox_ends_with_the_process_that_started_it():
    launch = (
        "from service.sandbox.aws.sandbox import AwsSandbox; aws = AwsSandbox.launch(); print(aws.endpoint, flush=True)"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"{launch}; input()", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    endpoint = (await parent.stdout.readline()).decode().strip()
    parent.kill()
    await parent.wait()

    deadline = time.monotonic() + 20
    async with httpx.AsyncClient(base_url=endpoint, trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                await client.post("/_sandbox/command", content=b"")
            except httpx.TransportError:
                return
            await asyncio.sleep(0.05)
    pytest.fail("the sandbox outlived its parent")
