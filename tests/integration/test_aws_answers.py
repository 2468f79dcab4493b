"""The table from what AWS answers to what becomes of a command: every row is met over HTTP, through the adapters that the service has.

Where the sandbox's AWS refuses by itself, the scene is set so that it does; an error that nothing in it leads to is a `Refusal`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from service.aws.clients import AwsClients
from service.aws.credentials import AccountCredentials, OwnCredentials
from service.aws.errors import TABLE, Row, row_of
from service.aws.keys import AwsKeys
from service.aws.log_groups import AwsLogGroups
from service.clock import LoopClock
from service.domain.key import UnusableKey
from service.domain.log_group import AccountId, KeyAlias, KeyArn, LogGroup
from service.domain.outcome import CallFailedError, Defer, End, FailureClass, Fault, next_step
from service.sandbox.aws.faults import Faults, Refusal
from service.sandbox.aws.sandbox import AwsSandbox
from service.settings import Settings
from tests.support.aws_server import set_own_environment
from tests.support.iam import document, statements

ACCOUNT, OWN_ACCOUNT, REGION = "111122223333", "999900001111", "eu-west-1"
GROUP = LogGroup.of(ACCOUNT, REGION, "/app/a")
ROLE, EXTERNAL_ID = "logwarden", "for-tests"
DELAYS_S: Final[list[float]] = Settings.model_fields["retry_delays_s"].default

SOON, LATER, MUCH_LATER = (Defer(step, DELAYS_S[step]) for step in (0, 1, 3))


@dataclass
class Scene:
    """A sandbox with one account, its role, a key that may be used, and one log group."""

    aws: AwsSandbox
    log_groups: AwsLogGroups
    keys: AwsKeys
    key: KeyArn
    monkeypatch: pytest.MonkeyPatch
    folder: Path
    group: LogGroup = field(default=GROUP)

    async def associate(self) -> None:
        await self.log_groups.associate(self.group, self.key)

    async def refuse(
        self, code: str, message: str = "", *, status: int = 400, operation: str = "AssociateKmsKey"
    ) -> None:
        await self.aws.inject(Faults(operation=operation, refusal=Refusal(code=code, message=message, status=status)))
        await self.associate()

    async def other_role(self, *, without: str) -> None:
        """The account's role, with the rights of k8s/iam but for one."""
        policy = document("member-role")
        for statement in statements(policy):
            statement["Action"] = [action for action in statement["Action"] if action != without]
        await self.aws.reset()
        await self.aws.create_role(ACCOUNT, ROLE, EXTERNAL_ID, policy=policy)
        await self.aws.create_log_group(ACCOUNT, REGION, GROUP.name)


Act = Callable[[Scene], Awaitable[None]]
SetScene = Callable[[], Awaitable[Scene]]


def refused(code: str, message: str = "", *, status: int = 400, operation: str = "AssociateKmsKey") -> Act:
    return lambda scene: scene.refuse(code, message, status=status, operation=operation)


def injected(faults: Faults) -> Act:
    async def act(scene: Scene) -> None:
        await scene.aws.inject(faults)
        await scene.associate()

    return act


async def above_the_quota(scene: Scene) -> None:
    await scene.aws.set_quota("AssociateKmsKey", per_second=0.01, burst=1)
    await scene.associate()
    await scene.associate()


async def two_at_once(scene: Scene) -> None:
    await scene.aws.inject(Faults(operation="AssociateKmsKey", latency_s=(0.1, 0.1)))
    failures = await asyncio.gather(scene.associate(), scene.associate(), return_exceptions=True)
    raise next(failure for failure in failures if failure)


async def an_expired_session(scene: Scene) -> None:
    await scene.associate()
    await scene.aws.expire_sessions()
    await scene.associate()


async def no_role(scene: Scene) -> None:
    scene.group = LogGroup.of("444455556666", REGION, GROUP.name)
    await scene.associate()


async def another_external_id(scene: Scene) -> None:
    await scene.aws.create_role("444455556666", ROLE, "of-somebody-else")
    await no_role(scene)


async def a_role_without_the_right(scene: Scene) -> None:
    await scene.other_role(without="logs:AssociateKmsKey")
    await scene.associate()


async def a_role_without_the_right_to_the_key(scene: Scene) -> None:
    await scene.other_role(without="kms:GenerateDataKey*")
    scene.key = KeyArn(await scene.aws.create_key(ACCOUNT, REGION))
    await scene.associate()


async def a_key_policy_without_logs(scene: Scene) -> None:
    await scene.aws.put_key_policy(scene.key, {"Statement": []})
    await scene.associate()


async def an_absent_key(scene: Scene) -> None:
    scene.key = KeyArn(f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{UUID(int=0)}")
    await scene.associate()


async def a_disabled_key(scene: Scene) -> None:
    await scene.aws.set_key_state(scene.key, "Disabled")
    await scene.associate()


async def an_asymmetric_key(scene: Scene) -> None:
    scene.key = KeyArn(await scene.aws.create_key(ACCOUNT, REGION, spec="RSA_2048"))
    await scene.associate()


async def a_key_of_another_region(scene: Scene) -> None:
    scene.key = KeyArn(await scene.aws.create_key(ACCOUNT, "us-east-1"))
    await scene.associate()


async def a_look_at_an_absent_alias(scene: Scene) -> None:
    finding = await scene.keys.inspect(KeyAlias(f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/nobodys"), GROUP)
    assert isinstance(finding, UnusableKey)
    raise CallFailedError(finding.failure, finding.detail)


async def no_log_group(scene: Scene) -> None:
    await scene.aws.delete_log_group(ACCOUNT, REGION, GROUP.name)
    await scene.associate()


async def a_reserved_name(scene: Scene) -> None:
    scene.group = LogGroup.of(ACCOUNT, REGION, "AWS/of-its-own")
    await scene.associate()


async def a_name_that_cannot_be(scene: Scene) -> None:
    scene.group = LogGroup(GROUP.account, GROUP.region, "/app/a:b")
    await scene.associate()


def a_pods_token(act: Act) -> Act:
    """Our own credentials come from a token of the cluster, as with IRSA."""

    async def exchange(scene: Scene) -> None:
        token = scene.folder / "token"
        token.write_text("a-token")
        set_own_environment(
            scene.monkeypatch,
            AWS_ACCESS_KEY_ID=None,
            AWS_SECRET_ACCESS_KEY=None,
            AWS_WEB_IDENTITY_TOKEN_FILE=str(token),
            AWS_ROLE_ARN=f"arn:aws:iam::{OWN_ACCOUNT}:role/logwarden-service",
            AWS_ENDPOINT_URL_STS=scene.aws.endpoint,
        )
        await act(scene)

    return exchange


NO_TOKEN_EXCHANGE = refused(
    "AccessDenied",
    "Not authorized to perform sts:AssumeRoleWithWebIdentity",
    status=403,
    operation="AssumeRoleWithWebIdentity",
)

# What is done, what the failure is, who has to act, and what happens to the command. Spelt out on purpose, as in test_outcome.py.
CASES: Final[dict[str, tuple[Act, FailureClass, Fault, Defer | End]]] = {
    "above the quota": (above_the_quota, FailureClass.THROTTLED, Fault.AWS, SOON),
    "STS above its quota": (
        refused("Throttling", "Rate exceeded", operation="AssumeRole"),
        FailureClass.SERVICE_UNAVAILABLE, Fault.AWS, SOON,
    ),
    "two changes at once": (two_at_once, FailureClass.OPERATION_ABORTED, Fault.RACE, SOON),
    "an error of the service's": (injected(Faults(service_unavailable=1)), FailureClass.SERVICE_UNAVAILABLE, Fault.AWS, SOON),
    "an internal error": (injected(Faults(internal_failure=1)), FailureClass.SERVICE_UNAVAILABLE, Fault.AWS, SOON),
    "a front end's page": (injected(Faults(outage="unavailable")), FailureClass.SERVICE_UNAVAILABLE, Fault.AWS, SOON),
    "a new error of the service's": (refused("SomethingNew", status=500), FailureClass.SERVICE_UNAVAILABLE, Fault.AWS, SOON),
    "a reset connection": (injected(Faults(connection_reset=1)), FailureClass.UNREACHABLE, Fault.PLATFORM, End.HOLD),
    "somebody else's endpoint": (refused("UnknownOperationException"), FailureClass.UNREACHABLE, Fault.PLATFORM, End.HOLD),
    "a limit": (
        refused("LimitExceededException", "Resource limit exceeded."), FailureClass.LIMIT_EXCEEDED, Fault.PLATFORM, MUCH_LATER,
    ),
    "a cluster that is not trusted": (
        a_pods_token(NO_TOKEN_EXCHANGE), FailureClass.CREDENTIALS_MISSING, Fault.PLATFORM, End.HOLD,
    ),
    "a cluster that AWS does not know": (
        a_pods_token(Scene.associate), FailureClass.CREDENTIALS_MISSING, Fault.PLATFORM, End.HOLD,
    ),
    "no role": (no_role, FailureClass.ROLE_NOT_ASSUMABLE, Fault.PLATFORM, End.HOLD),
    "another external id": (another_external_id, FailureClass.ROLE_NOT_ASSUMABLE, Fault.PLATFORM, End.HOLD),
    "too many session tags": (
        refused("PackedPolicyTooLarge", "Packed size of session tags consumes 120%", operation="AssumeRole"),
        FailureClass.ROLE_NOT_ASSUMABLE, Fault.PLATFORM, End.HOLD,
    ),
    "no right to call": (a_role_without_the_right, FailureClass.NOT_AUTHORIZED, Fault.PLATFORM, LATER),
    "no right to the key": (a_role_without_the_right_to_the_key, FailureClass.NOT_AUTHORIZED, Fault.PLATFORM, LATER),
    "a Region that is not enabled": (refused("OptInRequired", status=403), FailureClass.NOT_AUTHORIZED, Fault.PLATFORM, LATER),
    "a refusal in new words": (refused("AccessDeniedException", "No."), FailureClass.UNRECOGNISED, Fault.AWS, SOON),
    "a new error": (refused("BrandNewException"), FailureClass.UNRECOGNISED, Fault.AWS, SOON),
    "an expired session": (an_expired_session, FailureClass.CREDENTIALS_REJECTED, Fault.PLATFORM, End.HOLD),
    "a clock that is wrong": (
        refused("InvalidSignatureException", "Signature expired: it is 20 minutes old"),
        FailureClass.CREDENTIALS_REJECTED, Fault.PLATFORM, End.HOLD,
    ),
    "a key policy without Logs": (a_key_policy_without_logs, FailureClass.KEY_NOT_USABLE, Fault.TENANT, SOON),
    "an absent key": (an_absent_key, FailureClass.KEY_NOT_USABLE, Fault.TENANT, SOON),  # not told apart by AWS
    "a key of a new kind": (
        refused("InvalidParameterException", "The KMS key has an unsupported key spec"),
        FailureClass.KEY_NOT_USABLE, Fault.TENANT, SOON,
    ),
    "a disabled key": (a_disabled_key, FailureClass.KEY_NOT_FOUND, Fault.TENANT, SOON),
    "an asymmetric key": (an_asymmetric_key, FailureClass.KEY_NOT_FOUND, Fault.TENANT, SOON),
    "a key of another Region": (a_key_of_another_region, FailureClass.KEY_NOT_FOUND, Fault.TENANT, SOON),
    "an alias that stands for nothing": (a_look_at_an_absent_alias, FailureClass.KEY_NOT_FOUND, Fault.TENANT, SOON),
    "no log group": (no_log_group, FailureClass.LOG_GROUP_NOT_FOUND, Fault.RACE, SOON),
    "a reserved name": (a_reserved_name, FailureClass.RESERVED_NAME, Fault.AWS, End.EXCLUDE),
    "a name that cannot be": (a_name_that_cannot_be, FailureClass.INVALID_REQUEST, Fault.PLATFORM, End.DEAD_LETTER),
}  # fmt: skip


@pytest.fixture
async def clients(aws_process: AwsSandbox) -> AsyncIterator[AwsClients]:
    """One set for all cases: making one takes longer than a case does."""
    async with AwsClients(
        own_region=REGION,
        endpoint_url=aws_process.endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=10.0,
        max_in_flight=8,
        user_agent="logwarden/test",
    ) as clients:
        yield clients


@pytest.fixture
def set_scene(aws: AwsSandbox, clients: AwsClients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SetScene:
    """Sets the scene anew, for adapters that have not called yet."""

    async def set_scene() -> Scene:
        set_own_environment(monkeypatch)
        await aws.reset()
        await aws.create_role(ACCOUNT, ROLE, EXTERNAL_ID)
        await aws.create_log_group(ACCOUNT, REGION, GROUP.name)
        clock = LoopClock()
        credentials = AccountCredentials(
            clients=clients,
            own=OwnCredentials(chain=clients.credential_chain, clock=clock),
            clock=clock,
            own_account=AccountId(OWN_ACCOUNT),
            role_name=ROLE,
            role_session_name="logwarden",
            external_id=EXTERNAL_ID,
            sts_region=REGION,
        )
        return Scene(
            aws=aws,
            log_groups=AwsLogGroups(clients=clients, credentials=credentials),
            keys=AwsKeys(clients=clients, credentials=credentials, clock=clock, fresh_s=300.0, recheck_s=15.0),
            key=KeyArn(await aws.create_key(ACCOUNT, REGION)),
            monkeypatch=monkeypatch,
            folder=tmp_path,
        )

    return set_scene


@pytest.fixture
def hits(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows of the table that decided, in their order."""
    found: list[Row] = []

    def watched(code: str, message: str) -> Row | None:
        row = row_of(code, message)
        found.extend([row] if row else [])
        return row

    monkeypatch.setattr("service.aws.errors.row_of", watched)
    return found


async def failure_of(act: Act, on: Scene) -> FailureClass:
    with pytest.raises(CallFailedError) as raised:
        await act(on)
    return raised.value.failure


async def test_every_row_of_the_table_is_met_and_leads_where_it_should(set_scene, hits):
    wrong = {}
    for name, (act, *expected) in CASES.items():
        failure = await failure_of(act, await set_scene())
        row = [failure, failure.fault, next_step(failure, deferrals=0, strikes=0, delays_s=DELAYS_S)]
        if row != expected:
            wrong[name] = row
    assert wrong == {}
    assert [row for row in TABLE if row not in hits] == []
    answered = {failure for _, failure, _, _ in CASES.values()}
    assert {failure for _, _, failure in TABLE} - answered == set()


async def test_every_code_of_the_table_comes_over_http_as_what_it_is(set_scene, hits):
    scene = await set_scene()
    for code in sorted({code for codes, _, _ in TABLE for code in codes.split()}):
        hits.clear()
        failure = await failure_of(refused(code), scene)
        assert [(code in codes.split(), of_row) for codes, _, of_row in hits] == [(True, failure)]


async def test_what_aws_says_is_kept_for_whoever_reads_the_outcome(set_scene):
    with pytest.raises(CallFailedError, match="LimitExceededException: Resource limit exceeded"):
        await (await set_scene()).refuse("LimitExceededException", "Resource limit exceeded.")
