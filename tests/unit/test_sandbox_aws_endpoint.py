"""The road of a call in virtual time, without HTTP."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from multidict import CIMultiDict

from service.sandbox.aws.endpoint import CALL_LOG_LENGTH, Endpoint
from service.sandbox.aws.errors import Answer
from service.sandbox.aws.faults import Faults
from service.sandbox.aws.identity import create_role
from service.sandbox.aws.kms import create_key
from service.sandbox.aws.policy import logs_key_policy

OWN = "999900001111"
ACCOUNT = "111122223333"
REGION = "eu-west-1"


class VirtualTime:
    """Moves only when somebody sleeps or says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now_s += seconds


class Aws:
    """The endpoint as a client sees it."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.endpoint = Endpoint(account=OWN, now_s=self.time.now, sleep=self.time.sleep)
        self.key = create_key(
            account=OWN,
            region=REGION,
            policy=json.dumps(logs_key_policy(OWN, REGION)),
            usage="ENCRYPT_DECRYPT",
            spec="SYMMETRIC_DEFAULT",
        ).arn
        self.create("/a")

    def create(self, name: str) -> None:
        self.endpoint.log_groups.create(account=OWN, region=REGION, name=name, tags={}, key=None)

    async def call(
        self, operation: str, params: object, *, service: str = "logs", key: str = "sandbox", token: str | None = None
    ) -> Answer | None:
        scope = f"{key}/20260101/{REGION}/{service}/aws4_request"
        headers = CIMultiDict(
            {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=x"}
        )
        if token is not None:
            headers["X-Amz-Security-Token"] = token
        if isinstance(params, bytes):
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=utf-8"
            return await self.endpoint.answer(headers, params)
        headers["X-Amz-Target"] = f"Prefix.{operation}"
        return await self.endpoint.answer(headers, json.dumps(params).encode())

    async def associate(self, name: str = "/a") -> Answer | None:
        return await self.call("AssociateKmsKey", {"logGroupName": name, "kmsKeyId": self.key})

    async def shown_key(self, name: str = "/a") -> Any:
        answer = await self.call("DescribeLogGroups", {"logGroupIdentifiers": [name]})
        return content(answer)["logGroups"][0].get("kmsKeyId")

    async def assume_role(self) -> tuple[str, str]:
        role = create_role(account=ACCOUNT, name="r", external_id=None, trusted_account=OWN, partition="aws")
        body = f"Action=AssumeRole&Version=2011-06-15&RoleArn={role}&RoleSessionName=test&DurationSeconds=900"
        answer = await self.call("AssumeRole", body.encode(), service="sts")
        assert answer is not None
        xml = answer.body.decode()
        return tuple(xml.split(f"<{tag}>")[1].split("<")[0] for tag in ("AccessKeyId", "SessionToken"))  # type: ignore[return-value]


def content(answer: Answer | None) -> Any:
    assert answer is not None
    return json.loads(answer.body)


def code(answer: Answer | None) -> Any:
    return content(answer).get("__type", "ok")


@pytest.fixture
def aws() -> Iterator[Aws]:
    aws = Aws()
    yield aws
    aws.endpoint.reset()


async def test_a_burst_above_the_quota_is_throttled_until_its_tokens_come_back(aws):
    assert [code(await aws.associate()) for _ in range(6)] == ["ok"] * 5 + ["ThrottlingException"]

    aws.time.now_s += 0.2
    assert [code(await aws.associate()) for _ in range(2)] == ["ok", "ThrottlingException"]


async def test_a_slow_effect_shows_after_its_delay_and_the_old_key_until_then(aws):
    aws.endpoint.faults.set([Faults(operation="AssociateKmsKey", effect_delay_s=2.0)], seed=0)
    await aws.associate()

    aws.time.now_s += 1.9
    assert await aws.shown_key() is None
    aws.time.now_s += 0.2
    assert await aws.shown_key() == aws.key


async def test_a_quick_change_ends_a_slow_one(aws):
    aws.endpoint.faults.set([Faults(operation="AssociateKmsKey", effect_delay_s=60.0)], seed=0)
    await aws.associate()
    aws.endpoint.faults.set([], seed=0)
    await aws.associate()

    assert await aws.shown_key() == aws.key


async def test_changes_of_one_log_group_at_once_are_a_conflict_and_of_two_are_not(aws):
    aws.create("/b")
    aws.endpoint.faults.set([Faults(latency_s=(1.0, 1.0))], seed=0)

    answers = await asyncio.gather(aws.associate("/a"), aws.associate("/a"), aws.associate("/b"))

    assert [code(answer) for answer in answers] == ["ok", "OperationAbortedException", "ok"]
    assert code(await aws.associate("/a")) == "ok"


async def test_a_cancelled_change_leaves_the_log_group_free_for_the_next(aws):
    aws.endpoint.faults.set([Faults(latency_s=(1.0, 1.0))], seed=0)
    call = asyncio.ensure_future(aws.associate())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    aws.endpoint.faults.set([], seed=0)
    assert code(await aws.associate()) == "ok"


async def test_latency_is_in_the_call_log(aws):
    aws.endpoint.faults.set([Faults(latency_s=(1.5, 1.5))], seed=0)
    await aws.associate()

    (call,) = aws.endpoint.calls
    assert call.ended_s - call.started_s == 1.5
    assert (call.account, call.region, call.operation, call.log_group, call.key, call.result) == (
        OWN,
        REGION,
        "AssociateKmsKey",
        "/a",
        aws.key,
        "ok",
    )


async def test_a_session_expires_at_its_time(aws):
    key, token = await aws.assume_role()

    aws.time.now_s += 899
    assert code(await aws.call("DescribeLogGroups", {}, key=key, token=token)) == "ok"
    aws.time.now_s += 2
    assert code(await aws.call("DescribeLogGroups", {}, key=key, token=token)) == "ExpiredTokenException"


async def test_a_session_needs_its_own_token(aws):
    key, _ = await aws.assume_role()
    for token in (None, "another"):
        assert code(await aws.call("DescribeLogGroups", {}, key=key, token=token)) == "UnrecognizedClientException"


async def test_the_call_log_forgets_the_oldest_calls(aws):
    aws.endpoint.calls.extend([None] * CALL_LOG_LENGTH)
    await aws.associate()

    assert len(aws.endpoint.calls) == CALL_LOG_LENGTH
    assert aws.endpoint.calls[-1].operation == "AssociateKmsKey"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(aws, body):
    headers = CIMultiDict(
        {
            "Authorization": f"AWS4-HMAC-SHA256 Credential=sandbox/20260101/{REGION}/logs/aws4_request, Signature=x",
            "X-Amz-Target": "Logs_20140328.AssociateKmsKey",
        }
    )
    assert code(await aws.endpoint.answer(headers, body)) == "SerializationException"


async def test_an_unsigned_call_is_refused(aws):
    answer = await aws.endpoint.answer(CIMultiDict({"X-Amz-Target": "Logs_20140328.AssociateKmsKey"}), b"{}")
    assert code(answer) == "MissingAuthenticationTokenException"


async def test_a_reset_leaves_nothing(aws):
    await aws.associate()
    aws.endpoint.faults.set([Faults(throttled=1.0)], seed=0)
    aws.endpoint.reset()

    assert not aws.endpoint.calls
    assert content(await aws.call("DescribeLogGroups", {})) == {"logGroups": []}
