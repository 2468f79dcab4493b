import asyncio
import json
from dataclasses import dataclass

import pytest

from service.aws.clients import AwsClients
from service.aws.credentials import AccountCredentials, OwnCredentials
from service.aws.keys import AwsKeys
from service.domain.key import UnknownKey, UnusableKey, UsableKey
from service.domain.log_group import AccountId, KeyAlias, KeyArn, LogGroup, Region
from service.domain.outcome import FailureClass
from tests.support.aws_server import OWN_ACCOUNT, Answer, json_error, scripted_aws, set_own_environment

GROUP = LogGroup(AccountId("111122223333"), Region("eu-west-1"), "/app/a")
OTHER = LogGroup(AccountId("444455556666"), Region("eu-west-1"), "/app/a")
KEY = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/1")
ALIAS = KeyAlias("arn:aws:kms:eu-west-1:111122223333:alias/acme")
FRESH_S, RECHECK_S = 300.0, 15.0
DENIED = json_error("AccessDeniedException", "User: x is not authorized to perform: kms:DescribeKey on resource: y")


@dataclass
class ManualClock:
    seconds: float = 1000.0

    def now(self) -> float:
        return self.seconds

    def epoch_ms(self) -> int:
        return 1_800_000_000_000 + round(self.seconds * 1000)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def aws(monkeypatch):
    set_own_environment(monkeypatch)
    async with scripted_aws() as aws:
        yield aws


@pytest.fixture
async def build(aws, clock):
    async with AwsClients(
        own_region="eu-central-1",
        endpoint_url=aws.endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=5.0,
        max_in_flight=64,
        user_agent="logwarden/1",
    ) as clients:
        credentials = AccountCredentials(
            clients=clients,
            own=OwnCredentials(chain=clients.credential_chain, clock=clock),
            clock=clock,
            own_account=AccountId(OWN_ACCOUNT),
            role_name="logwarden",
            role_session_name="logwarden",
            external_id=None,
            sts_region="eu-central-1",
        )

        def build(**changes):
            settings = {"fresh_s": FRESH_S, "recheck_s": RECHECK_S} | changes
            return AwsKeys(clients=clients, credentials=credentials, clock=clock, **settings)

        yield build


@pytest.fixture
def keys(build):
    return build()


def described(arn: str = KEY, state: str = "Enabled") -> Answer:
    metadata = {"Arn": arn, "KeyState": state, "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT"}
    return Answer(body=json.dumps({"KeyMetadata": metadata}).encode())


def counted(aws) -> tuple[int, int]:
    return len(aws.requests_of("DescribeKey")), len(aws.requests_of("GetKeyPolicy"))


async def test_a_look_asks_for_the_key_and_then_for_the_policy_of_the_key_it_was_shown(aws, keys):
    aws.script("DescribeKey", described())
    aws.script("GetKeyPolicy", Answer(body=b'{"Policy": "{}"}'))
    assert await keys.inspect(ALIAS, GROUP) == UsableKey(key=KEY, policy="{}")
    assert [request.params for request in aws.requests_of("DescribeKey")] == [{"KeyId": ALIAS}]
    [request] = aws.requests_of("GetKeyPolicy")
    assert request.params == {"KeyId": KEY, "PolicyName": "default"}
    assert (request.token, request.region) == (f"token-{GROUP.account}-1", "eu-west-1")


async def test_a_good_finding_is_kept_for_its_time_and_then_looked_at_again(aws, keys, clock):
    aws.script("DescribeKey", described(), described(state="Disabled"))
    assert isinstance(await keys.inspect(KEY, GROUP), UsableKey)
    clock.seconds += FRESH_S - 1
    assert isinstance(await keys.inspect(KEY, LogGroup(GROUP.account, GROUP.region, "/app/b")), UsableKey)
    assert counted(aws) == (1, 1)
    clock.seconds += 1
    assert isinstance(await keys.inspect(KEY, GROUP), UnusableKey)


async def test_a_bad_finding_is_kept_for_a_shorter_time(aws, keys, clock):
    aws.script("DescribeKey", described(state="Disabled"), described())
    for _ in range(2):
        assert isinstance(await keys.inspect(KEY, GROUP), UnusableKey)
    clock.seconds += RECHECK_S
    assert isinstance(await keys.inspect(KEY, GROUP), UsableKey)
    assert counted(aws) == (2, 1)


async def test_each_account_looks_with_rights_of_its_own(aws, keys):
    aws.script("DescribeKey", described(), DENIED)
    assert isinstance(await keys.inspect(KEY, GROUP), UsableKey)
    assert isinstance(await keys.inspect(KEY, OTHER), UnknownKey)
    tokens = [request.token for request in aws.requests_of("DescribeKey")]
    assert [token.split("-")[1] for token in tokens if token] == [GROUP.account, OTHER.account]


async def test_the_lack_of_a_right_to_look_is_remembered_and_no_call_is_made_for_each_group(aws, keys, clock):
    aws.script("DescribeKey", *[DENIED] * 3)
    for number in range(20):
        clock.seconds += 1
        group = LogGroup(GROUP.account, GROUP.region, f"/app/{number}")
        assert isinstance(await keys.inspect(KEY, group), UnknownKey)
        keys.forget(KEY, group)
    assert counted(aws) == (1, 0)
    clock.seconds += FRESH_S
    await keys.inspect(KEY, GROUP)
    assert counted(aws) == (2, 0)


async def test_a_kms_that_has_trouble_is_asked_again_soon(aws, keys, clock):
    aws.script("DescribeKey", json_error("ThrottlingException", "Rate exceeded"), described())
    assert isinstance(await keys.inspect(KEY, GROUP), UnknownKey)
    clock.seconds += RECHECK_S
    assert isinstance(await keys.inspect(KEY, GROUP), UsableKey)


async def test_many_groups_at_once_share_one_look(aws, keys):
    aws.released.clear()
    groups = [LogGroup(GROUP.account, GROUP.region, f"/app/{number}") for number in range(50)]
    asking = [asyncio.ensure_future(keys.inspect(KEY, group)) for group in groups]
    await aws.until_in_flight(1)
    aws.script("DescribeKey", described())
    aws.released.set()
    findings = await asyncio.gather(*asking)
    assert {type(finding) for finding in findings} == {UsableKey}
    assert counted(aws) == (1, 1)


async def test_a_cancelled_caller_leaves_the_look_to_the_others(aws, keys):
    aws.released.clear()
    aws.script("DescribeKey", described())
    first, second = (asyncio.ensure_future(keys.inspect(KEY, GROUP)) for _ in range(2))
    await aws.until_in_flight(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    aws.released.set()
    assert isinstance(await second, UsableKey)
    assert counted(aws) == (1, 1)


async def test_a_look_that_nobody_waits_for_any_more_ends_and_the_next_caller_starts_another(aws, keys):
    aws.released.clear()
    lonely = asyncio.ensure_future(keys.inspect(KEY, GROUP))
    await aws.until_in_flight(1)
    lonely.cancel()
    aws.script("DescribeKey", described(), described())
    next_one = asyncio.ensure_future(keys.inspect(KEY, GROUP))
    with pytest.raises(asyncio.CancelledError):
        await lonely
    aws.released.set()
    assert isinstance(await next_one, UsableKey)
    assert not [task for task in asyncio.all_tasks() if "AwsKeys" in repr(task.get_coro())]


async def test_a_refused_key_is_looked_at_anew_but_not_once_for_each_refusal(aws, keys, clock):
    aws.script("DescribeKey", described(), described(state="Disabled"))
    await keys.inspect(KEY, GROUP)
    keys.forget(KEY, GROUP)
    assert isinstance(await keys.inspect(KEY, GROUP), UsableKey)
    assert counted(aws) == (1, 1)
    clock.seconds += 5
    keys.forget(KEY, GROUP)
    assert isinstance(await keys.inspect(KEY, GROUP), UnusableKey)


async def test_forgetting_what_was_never_known_does_nothing(aws, keys):
    keys.forget(KEY, GROUP)
    assert counted(aws) == (0, 0)


async def test_the_least_recently_used_finding_makes_room(aws, build):
    keys = build(max_keys=2)
    arns = [KeyArn(f"{KEY[:-1]}{number}") for number in (1, 2, 3)]
    aws.script("DescribeKey", *(described(arns[number]) for number in (0, 1, 2, 1)))
    for number in (0, 1, 0, 2, 0, 1):
        assert await keys.inspect(arns[number], GROUP) == UsableKey(key=arns[number], policy="")
    asked = [request.params["KeyId"] for request in aws.requests_of("DescribeKey")]
    assert asked == [arns[0], arns[1], arns[2], arns[1]]


async def test_a_kms_that_does_not_answer_holds_nobody_up_for_longer_than_its_time(aws, keys, monkeypatch):
    monkeypatch.setattr("service.aws.keys._LOOK_S", 0.05)
    aws.released.clear()
    finding = await keys.inspect(KEY, GROUP)
    assert isinstance(finding, UnknownKey)
    assert "did not answer within" in finding.detail


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"{}"),
        Answer(body=b'{"KeyMetadata": {"Arn": "nonsense"}}'),
        described("arn:aws:kms:eu-west-1:111122223333:key/2"),
        Answer(body=b"<html>Log in to the guest network</html>"),
    ],
    ids=["empty", "no ARN", "another key", "a portal"],
)
async def test_an_answer_that_is_not_about_the_key_is_no_finding(aws, keys, answer):
    aws.script("DescribeKey", answer)
    assert isinstance(await keys.inspect(KEY, GROUP), UnknownKey)


async def test_an_alias_that_leads_to_another_account_is_not_followed(aws, keys):
    aws.script("DescribeKey", described("arn:aws:kms:eu-west-1:444455556666:key/1"))
    finding = await keys.inspect(ALIAS, GROUP)
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.UNRECOGNISED


async def test_a_session_that_kms_rejects_is_replaced_at_the_next_look(aws, keys, clock, monkeypatch):
    monkeypatch.setattr("service.aws.credentials._MIN_AGE_S", 0.0)
    aws.script("DescribeKey", json_error("ExpiredTokenException"), described())
    assert isinstance(await keys.inspect(KEY, GROUP), UnknownKey)
    clock.seconds += RECHECK_S
    assert isinstance(await keys.inspect(KEY, GROUP), UsableKey)
    assert len(aws.requests_of("AssumeRole")) == 2
