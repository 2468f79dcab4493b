import asyncio
import json
import re
from typing import Any

import pytest

from service.aws.adapters import open_aws
from service.aws.clients import AwsClients
from service.clock import LoopClock
from service.domain.log_group import AccountId, KeyArn, Lane, LogGroup, Region
from service.domain.outcome import CallFailedError, FailureClass
from tests.support.aws_server import OWN_ACCOUNT, Answer, ScriptedAws, json_error, scripted_aws, set_own_environment

LANE = Lane(AccountId("111122223333"), Region("eu-west-1"))
GROUP = LogGroup(LANE.account, LANE.region, "/app/a")
KEY = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/1")


@pytest.fixture
async def aws(monkeypatch):
    set_own_environment(monkeypatch)
    async with scripted_aws() as aws:
        yield aws


@pytest.fixture
async def log_groups(aws):
    async with open_aws(**settings(aws), max_in_flight=4) as opened:
        yield opened.log_groups


def settings(aws: ScriptedAws) -> dict[str, Any]:
    return {
        "clock": LoopClock(),
        "own_account": AccountId(OWN_ACCOUNT),
        "role_name": "logwarden",
        "external_id": None,
        "role_session_name": "logwarden",
        "sts_region": "us-east-1",
        "endpoint_url": aws.endpoint,
        "connect_timeout_s": 5.0,
        "read_timeout_s": 5.0,
        "user_agent": "logwarden/1",
    }


def page(*groups: tuple[str, str | None], token: str | None = None) -> Answer:
    shown = [{"logGroupName": name} | ({"kmsKeyId": key} if key else {}) for name, key in groups]
    return Answer(body=json.dumps({"logGroups": shown} | ({"nextToken": token} if token else {})).encode())


async def test_associate_names_the_group_by_its_arn_so_that_wrong_credentials_cannot_hit_a_namesake(aws, log_groups):
    await log_groups.associate(GROUP, KEY)
    [request] = aws.requests_of("AssociateKmsKey")
    assert request.params == {"resourceIdentifier": GROUP.arn, "kmsKeyId": KEY}
    assert request.token == f"token-{LANE.account}-1"
    assert request.region == LANE.region


async def test_once_ready_a_call_goes_out_at_once(aws, monkeypatch):
    async with open_aws(**settings(aws), max_in_flight=4) as opened:
        await opened.log_groups.ready(LANE)
        assert [request.operation for request in aws.requests] == ["AssumeRole"]
        monkeypatch.setattr(AwsClients, "_looked_up", None)  # no client is made
        await opened.log_groups.associate(GROUP, KEY)
        assert [request.operation for request in aws.requests] == ["AssumeRole", "AssociateKmsKey"]


async def test_a_thousand_accounts_at_once_are_each_called_with_their_own_session(aws):
    groups = [LogGroup.of(f"{111122220000 + number}", LANE.region, "/app/a") for number in range(1000)]
    async with open_aws(**settings(aws), max_in_flight=64) as opened:
        await asyncio.gather(*(opened.log_groups.associate(log_group, KEY) for log_group in groups))
    requests = aws.requests_of("AssociateKmsKey")
    assert {request.params["resourceIdentifier"] for request in requests} == {log_group.arn for log_group in groups}
    for request in requests:
        account = request.params["resourceIdentifier"].split(":")[4]
        assert re.fullmatch(rf"ROLE{account}N[0-9]+", request.access_key)
        assert re.fullmatch(rf"token-{account}-[0-9]+", request.token)
    assert len(requests) == len(aws.requests_of("AssumeRole")) == len(groups)


async def test_describe_asks_for_exact_names_in_one_request(aws, log_groups):
    aws.script("DescribeLogGroups", page(("/app/a", KEY), ("/app/b", None)))
    assert await log_groups.describe(LANE, ["/app/b", "/app/a", "/gone"]) == {"/app/a": KEY, "/app/b": None}
    [request] = aws.requests_of("DescribeLogGroups")
    assert request.params == {"logGroupIdentifiers": ["/app/a", "/app/b", "/gone"]}


async def test_describe_reads_every_page_so_that_no_group_passes_for_absent(aws, log_groups):
    aws.script("DescribeLogGroups", page(("/app/a", KEY), token="more"), page(token="last"), page(("/app/b", None)))
    assert await log_groups.describe(LANE, ["/app/a", "/app/b"]) == {"/app/a": KEY, "/app/b": None}
    assert [request.params.get("nextToken") for request in aws.requests_of("DescribeLogGroups")] == [
        None,
        "more",
        "last",
    ]


async def test_describe_leaves_out_what_was_not_asked_for(aws, log_groups):
    aws.script("DescribeLogGroups", page(("/app/a", KEY), ("/app/a/b", KEY)))
    assert await log_groups.describe(LANE, ["/app/a"]) == {"/app/a": KEY}


@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException"])
async def test_the_attempt_after_a_rejected_session_has_a_new_one(aws, log_groups, monkeypatch, code):
    monkeypatch.setattr("service.aws.credentials._MIN_AGE_S", 0.0)
    aws.script("AssociateKmsKey", json_error(code))
    with pytest.raises(CallFailedError) as raised:
        await log_groups.associate(GROUP, KEY)
    assert raised.value.failure is FailureClass.CREDENTIALS_REJECTED
    await log_groups.associate(GROUP, KEY)
    tokens = [request.token for request in aws.requests_of("AssociateKmsKey")]
    assert tokens == [f"token-{LANE.account}-1", f"token-{LANE.account}-2"]


async def test_another_failure_leaves_the_session_as_it_is(aws, log_groups, monkeypatch):
    monkeypatch.setattr("service.aws.credentials._MIN_AGE_S", 0.0)
    aws.script("AssociateKmsKey", json_error("AccessDeniedException", "is not authorized to perform: logs:x"))
    with pytest.raises(CallFailedError):
        await log_groups.associate(GROUP, KEY)
    await log_groups.associate(GROUP, KEY)
    assert len(aws.requests_of("AssumeRole")) == 1
