"""What every `Keys` does: the adapter against the sandbox's KMS, and the fake that stands for it in the core's tests."""

import json
from typing import Any, Protocol
from uuid import UUID

import pytest
from aiobotocore.session import AioSession

from service.aws.clients import AwsClients
from service.aws.credentials import AccountCredentials, OwnCredentials
from service.aws.keys import AwsKeys
from service.clock import LoopClock
from service.domain.key import KeyFacts, UnknownKey, UnusableKey, UsableKey
from service.domain.log_group import AccountId, KeyAlias, KeyArn, Lane, LogGroup, Region
from service.domain.outcome import FailureClass
from service.ports import Keys
from service.sandbox.aws.commands import KeyState
from service.sandbox.aws.faults import Faults
from service.sandbox.aws.policy import default_key_policy, logs_key_policy
from service.sandbox.aws.sandbox import AwsSandbox
from tests.support.aws_server import set_own_environment
from tests.support.keys import FakeKeys

LANE = Lane(AccountId("111122223333"), Region("eu-west-1"))
OTHER_REGION = Lane(LANE.account, Region("us-east-1"))
OTHER_ACCOUNT = Lane(AccountId("444455556666"), LANE.region)
OWN_ACCOUNT = AccountId("999900001111")
GROUP = LogGroup(LANE.account, LANE.region, "/app/a")
ROLE = "platform/logwarden"
ABSENT = KeyArn(f"arn:aws:kms:{LANE.region}:{LANE.account}:key/{UUID(int=0)}")
ALIAS = KeyAlias(f"arn:aws:kms:{LANE.region}:{LANE.account}:alias/acme/logs")


class Scene(Protocol):
    """How a test sets the scene, whoever plays KMS."""

    async def add_key(
        self,
        lane: Lane = LANE,
        *,
        spec: str = "SYMMETRIC_DEFAULT",
        usage: str = "ENCRYPT_DECRYPT",
        policy: dict[str, Any] | None = None,
    ) -> KeyArn: ...

    async def set_state(self, key: KeyArn, state: KeyState) -> None: ...

    async def add_alias(self, key: KeyArn) -> None: ...

    async def add_replica(self, lane: Lane) -> KeyArn: ...

    async def fail(self, failure: FailureClass) -> None: ...


class FakeScene:
    def __init__(self, keys: FakeKeys) -> None:
        self.keys = keys

    async def add_key(
        self,
        lane: Lane = LANE,
        *,
        spec: str = "SYMMETRIC_DEFAULT",
        usage: str = "ENCRYPT_DECRYPT",
        policy: dict[str, Any] | None = None,
    ) -> KeyArn:
        key = KeyArn(f"arn:aws:kms:{lane.region}:{lane.account}:key/{UUID(int=1 + len(self.keys.facts))}")
        self.keys.facts[key] = KeyFacts(arn=key, state="Enabled", spec=spec, usage=usage)
        self.keys.policies[key] = json.dumps(policy or logs_key_policy(lane.account, lane.region))
        return key

    async def set_state(self, key: KeyArn, state: KeyState) -> None:
        facts = self.keys.facts[key]
        self.keys.facts[key] = KeyFacts(arn=key, state=state, spec=facts.spec, usage=facts.usage)

    async def add_alias(self, key: KeyArn) -> None:
        self.keys.aliases[ALIAS] = key

    async def add_replica(self, lane: Lane) -> KeyArn:
        return self.keys.add(KeyArn(f"arn:aws:kms:{lane.region}:{lane.account}:key/mrk-{UUID(int=7).hex}"))

    async def fail(self, failure: FailureClass) -> None:
        self.keys.failure = failure


class SandboxScene:
    _FAULTS = {  # noqa: RUF012
        FailureClass.THROTTLED: Faults(service="kms", throttled=1),
        FailureClass.SERVICE_UNAVAILABLE: Faults(service="kms", internal_failure=1),
        FailureClass.UNREACHABLE: Faults(service="kms", outage="reset"),
        FailureClass.NOT_AUTHORIZED: Faults(service="kms", not_authorized=1),
        FailureClass.ROLE_NOT_ASSUMABLE: Faults(service="sts", operation="AssumeRole", not_authorized=1),
    }

    def __init__(self, sandbox: AwsSandbox, kms: Any) -> None:
        self.sandbox = sandbox
        self.kms = kms  # of the tenant's account, in LANE's Region

    async def add_key(
        self,
        lane: Lane = LANE,
        *,
        spec: str = "SYMMETRIC_DEFAULT",
        usage: str = "ENCRYPT_DECRYPT",
        policy: dict[str, Any] | None = None,
    ) -> KeyArn:
        return KeyArn(await self.sandbox.create_key(lane.account, lane.region, spec=spec, usage=usage, policy=policy))

    async def set_state(self, key: KeyArn, state: KeyState) -> None:
        await self.sandbox.set_key_state(key, state)

    async def add_alias(self, key: KeyArn) -> None:
        await self.kms.create_alias(AliasName=ALIAS.split(":")[5], TargetKeyId=key)

    async def add_replica(self, lane: Lane) -> KeyArn:
        primary = (await self.kms.create_key(MultiRegion=True))["KeyMetadata"]["Arn"]
        answer = await self.kms.replicate_key(KeyId=primary, ReplicaRegion=lane.region)
        return KeyArn(answer["ReplicaKeyMetadata"]["Arn"])

    async def fail(self, failure: FailureClass) -> None:
        await self.sandbox.inject(self._FAULTS[failure])


@pytest.fixture(scope="module")
def sandbox_process():
    sandbox = AwsSandbox.launch(account=OWN_ACCOUNT)
    yield sandbox
    sandbox.close()


@pytest.fixture
async def sandbox(sandbox_process, monkeypatch):
    set_own_environment(monkeypatch)
    await sandbox_process.reset()
    for lane in (LANE, OTHER_ACCOUNT):
        await sandbox_process.create_role(lane.account, ROLE)
    return sandbox_process


@pytest.fixture
async def kms(sandbox):
    """KMS as an administrator of the tenant's account calls it."""
    session = AioSession()
    async with session.create_client("sts", region_name=LANE.region, endpoint_url=sandbox.endpoint) as sts:
        role = f"arn:aws:iam::{LANE.account}:role/{ROLE}"
        found = (await sts.assume_role(RoleArn=role, RoleSessionName="administrator"))["Credentials"]
    async with session.create_client(
        "kms",
        region_name=LANE.region,
        endpoint_url=sandbox.endpoint,
        aws_access_key_id=found["AccessKeyId"],
        aws_secret_access_key=found["SecretAccessKey"],
        aws_session_token=found["SessionToken"],
    ) as kms:
        yield kms


@pytest.fixture
async def sandbox_keys(sandbox):
    clock = LoopClock()
    async with AwsClients(
        own_region="eu-central-1",
        endpoint_url=sandbox.endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=10.0,
        max_in_flight=8,
        user_agent="logwarden/test",
    ) as clients:
        credentials = AccountCredentials(
            clients=clients,
            own=OwnCredentials(chain=clients.credential_chain, clock=clock),
            clock=clock,
            own_account=OWN_ACCOUNT,
            role_name=ROLE,
            role_session_name="logwarden",
            external_id=None,
            sts_region="eu-central-1",
        )
        yield AwsKeys(clients=clients, credentials=credentials, clock=clock, fresh_s=300.0, recheck_s=15.0)


@pytest.fixture(params=["fake", "sandbox"])
def stage(request) -> tuple[Keys, Scene]:
    if request.param == "fake":
        fake = FakeKeys()
        return fake, FakeScene(fake)
    keys: Keys = request.getfixturevalue("sandbox_keys")
    return keys, SandboxScene(request.getfixturevalue("sandbox"), request.getfixturevalue("kms"))


@pytest.fixture
def keys(stage) -> Keys:
    found: Keys = stage[0]
    return found


@pytest.fixture
def scene(stage) -> Scene:
    found: Scene = stage[1]
    return found


async def test_an_enabled_key_is_usable_and_its_policy_is_read(keys, scene):
    key = await scene.add_key()
    finding = await keys.inspect(key, GROUP)
    assert isinstance(finding, UsableKey)
    assert finding.key == key
    assert not finding.is_withheld(GROUP)
    assert "allows the key to logs.eu-west-1.amazonaws.com" in finding.explain(GROUP)


async def test_a_key_whose_policy_leaves_logs_out_is_usable_and_foretells_and_explains_a_refusal(keys, scene):
    key = await scene.add_key(policy=default_key_policy(LANE.account, LANE.region))
    finding = await keys.inspect(key, GROUP)
    assert isinstance(finding, UsableKey)
    assert finding.is_withheld(GROUP)
    assert "does not allow kms:Encrypt" in finding.explain(GROUP)
    assert '"Principal": {"Service": "logs.eu-west-1.amazonaws.com"}' in finding.explain(GROUP)


@pytest.mark.parametrize(
    "state", ["Creating", "Disabled", "PendingDeletion", "PendingImport", "PendingReplicaDeletion", "Unavailable"]
)
async def test_a_key_that_is_not_enabled_is_unusable(keys, scene, state):
    key = await scene.add_key()
    await scene.set_state(key, state)
    finding = await keys.inspect(key, GROUP)
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.KEY_NOT_FOUND
    assert f"{key} is {state}: " in finding.detail


async def test_a_key_whose_primary_region_is_being_changed_is_usable(keys, scene):
    key = await scene.add_key()
    await scene.set_state(key, "Updating")
    assert isinstance(await keys.inspect(key, GROUP), UsableKey)


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        ("RSA_2048", "ENCRYPT_DECRYPT"),
        ("RSA_2048", "SIGN_VERIFY"),
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
    ],
)
async def test_a_key_of_another_kind_is_unusable(keys, scene, spec, usage):
    finding = await keys.inspect(await scene.add_key(spec=spec, usage=usage), GROUP)
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.KEY_NOT_USABLE
    assert f"a {spec} key for {usage}" in finding.detail


@pytest.mark.parametrize("ref", [ABSENT, ALIAS], ids=["key", "alias"])
async def test_what_is_absent_is_not_found(keys, scene, ref):
    finding = await keys.inspect(ref, GROUP)
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.KEY_NOT_FOUND
    assert "There is no such" in finding.detail


async def test_a_key_of_another_region_is_unusable_and_nobody_is_asked(keys, scene):
    key = await scene.add_key(OTHER_REGION)
    await scene.fail(FailureClass.UNREACHABLE)
    finding = await keys.inspect(key, GROUP)
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.KEY_NOT_USABLE
    assert "us-east-1" in finding.detail
    assert "eu-west-1" in finding.detail


async def test_an_alias_is_resolved_to_the_key_arn_that_logs_will_show(keys, scene):
    key = await scene.add_key()
    await scene.add_alias(key)
    finding = await keys.inspect(ALIAS, GROUP)
    assert isinstance(finding, UsableKey)
    assert finding.key == key


async def test_a_replica_of_a_multi_region_key_is_a_key_of_its_own_region(keys, scene):
    replica = await scene.add_replica(OTHER_REGION)
    there = LogGroup(LANE.account, OTHER_REGION.region, "/app/a")
    assert ":us-east-1:" in replica
    assert "key/mrk-" in replica
    finding = await keys.inspect(replica, there)
    assert isinstance(finding, UsableKey)
    assert finding.key == replica
    elsewhere = await keys.inspect(replica, GROUP)
    assert isinstance(elsewhere, UnusableKey)
    assert "an ARN of its own in each Region" in elsewhere.detail


async def test_a_key_of_another_account_is_usable_and_its_policy_stays_unread(keys, scene):
    policy = logs_key_policy(LANE.account, LANE.region, key_account=OTHER_ACCOUNT.account)
    finding = await keys.inspect(await scene.add_key(OTHER_ACCOUNT, policy=policy), GROUP)
    assert isinstance(finding, UsableKey)
    assert not finding.is_withheld(GROUP)
    assert "could not be read: the key is in" in finding.explain(GROUP)
    assert "key-policy-other-account.json" in finding.explain(GROUP)


@pytest.mark.parametrize(
    ("failure", "of_an_alias"),
    [
        (FailureClass.THROTTLED, FailureClass.SERVICE_UNAVAILABLE),
        (FailureClass.SERVICE_UNAVAILABLE, FailureClass.SERVICE_UNAVAILABLE),
        (FailureClass.UNREACHABLE, FailureClass.SERVICE_UNAVAILABLE),
        (FailureClass.NOT_AUTHORIZED, FailureClass.NOT_AUTHORIZED),
        (FailureClass.ROLE_NOT_ASSUMABLE, FailureClass.ROLE_NOT_ASSUMABLE),
    ],
    ids=lambda failure: failure.label,
)
async def test_a_key_that_cannot_be_looked_at_is_unknown_and_an_alias_unusable(keys, scene, failure, of_an_alias):
    key = await scene.add_key()
    await scene.fail(failure)
    finding = await keys.inspect(key, GROUP)
    assert isinstance(finding, UnknownKey)
    assert finding.key == key
    unresolved = await keys.inspect(ALIAS, GROUP)
    assert isinstance(unresolved, UnusableKey)
    assert unresolved.failure is of_an_alias
    assert ALIAS in unresolved.detail


# -- the adapter alone


async def test_a_key_of_another_account_that_does_not_let_us_look_is_unknown(sandbox, sandbox_keys):
    key = KeyArn(await sandbox.create_key(OTHER_ACCOUNT.account, LANE.region))
    finding = await sandbox_keys.inspect(key, GROUP)
    assert isinstance(finding, UnknownKey)
    assert "not authorized to perform: kms:DescribeKey" in finding.detail


async def test_a_role_that_may_describe_and_not_read_policies_leaves_the_policy_unread(sandbox, sandbox_keys):
    account = AccountId("777788889999")
    statement = {"Effect": "Allow", "Action": "kms:DescribeKey", "Resource": "*"}
    await sandbox.create_role(account, ROLE, policy={"Statement": [statement]})
    key = KeyArn(await sandbox.create_key(account, LANE.region))
    finding = await sandbox_keys.inspect(key, LogGroup(account, LANE.region, "/app/a"))
    assert isinstance(finding, UsableKey)
    assert finding.policy is None
    assert "kms:GetKeyPolicy" in finding.unread
