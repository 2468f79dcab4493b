"""What every `LogGroups` does: the adapter against the sandbox's AWS, and the fake that stands for it in the core's tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

import pytest

from service.aws.adapters import open_aws
from service.aws.log_groups import AwsLogGroups
from service.clock import LoopClock
from service.domain.log_group import AccountId, KeyArn, Lane, LogGroup, Region
from service.domain.outcome import CallFailedError, FailureClass
from service.ports import LogGroups
from service.sandbox.aws.faults import Faults
from service.sandbox.aws.sandbox import AwsSandbox, NewLogGroup
from tests.support.aws_server import set_own_environment
from tests.support.log_groups import FakeLogGroups

LANE = Lane(AccountId("111122223333"), Region("eu-west-1"))
OTHER_REGION = Lane(LANE.account, Region("us-east-1"))
OTHER_ACCOUNT = Lane(AccountId("444455556666"), LANE.region)
OWN_ACCOUNT = Lane(AccountId("999900001111"), LANE.region)
ROLE, EXTERNAL_ID = "platform/logwarden", "sandbox-external-id"


def group(name: str, lane: Lane = LANE) -> LogGroup:
    return LogGroup(lane.account, lane.region, name)


def absent_key(lane: Lane = LANE) -> KeyArn:
    return KeyArn(f"arn:aws:kms:{lane.region}:{lane.account}:key/{UUID(int=0)}")


class Scene(Protocol):
    """How a test sets the scene, whoever plays AWS."""

    async def add_group(
        self, log_group: LogGroup, key: KeyArn | None = None, tags: Mapping[str, str] | None = None
    ) -> None: ...

    async def add_groups(self, log_groups: Sequence[LogGroup], tags: Mapping[str, str]) -> None: ...

    async def remove_group(self, log_group: LogGroup) -> None: ...

    async def add_key(self, lane: Lane = LANE, *, is_enabled: bool = True) -> KeyArn: ...

    async def add_unusable_key(self, lane: Lane = LANE) -> KeyArn: ...

    async def fail(self, failure: FailureClass | None) -> None: ...


class FakeScene:
    def __init__(self, log_groups: FakeLogGroups) -> None:
        self.log_groups = log_groups
        self._keys = 0

    async def add_group(
        self, log_group: LogGroup, key: KeyArn | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.log_groups.groups[log_group] = key
        self.log_groups.tags[log_group] = tags or {}

    async def add_groups(self, log_groups: Sequence[LogGroup], tags: Mapping[str, str]) -> None:
        for log_group in log_groups:
            await self.add_group(log_group, tags=tags)

    async def remove_group(self, log_group: LogGroup) -> None:
        del self.log_groups.groups[log_group]

    async def add_key(self, lane: Lane = LANE, *, is_enabled: bool = True) -> KeyArn:
        key = await self.add_unusable_key(lane)
        (self.log_groups.usable_keys if is_enabled else self.log_groups.disabled_keys).add(key)
        return key

    async def add_unusable_key(self, lane: Lane = LANE) -> KeyArn:
        self._keys += 1
        return KeyArn(f"arn:aws:kms:{lane.region}:{lane.account}:key/{UUID(int=self._keys)}")

    async def fail(self, failure: FailureClass | None) -> None:
        self.log_groups.failure = failure


class SandboxScene:
    _FAULTS = {  # noqa: RUF012
        FailureClass.THROTTLED: Faults(service="logs", throttled=1),
        FailureClass.OPERATION_ABORTED: Faults(service="logs", operation_aborted=1),
        FailureClass.SERVICE_UNAVAILABLE: Faults(service="logs", outage="unavailable"),
        FailureClass.UNREACHABLE: Faults(service="logs", outage="reset"),
        FailureClass.NOT_AUTHORIZED: Faults(service="logs", not_authorized=1),
        FailureClass.ROLE_NOT_ASSUMABLE: Faults(service="sts", operation="AssumeRole", not_authorized=1),
    }

    def __init__(self, sandbox: AwsSandbox) -> None:
        self.sandbox = sandbox

    async def add_group(
        self, log_group: LogGroup, key: KeyArn | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        await self.sandbox.create_log_group(log_group.account, log_group.region, log_group.name, tags, kms_key_id=key)

    async def add_groups(self, log_groups: Sequence[LogGroup], tags: Mapping[str, str]) -> None:
        new = [NewLogGroup(name=each.name, tags=tags, kms_key_id=None) for each in log_groups]
        await self.sandbox.create_log_groups(log_groups[0].account, log_groups[0].region, new)

    async def remove_group(self, log_group: LogGroup) -> None:
        await self.sandbox.delete_log_group(log_group.account, log_group.region, log_group.name)

    async def add_key(self, lane: Lane = LANE, *, is_enabled: bool = True) -> KeyArn:
        return KeyArn(await self.sandbox.create_key(lane.account, lane.region, enabled=is_enabled))

    async def add_unusable_key(self, lane: Lane = LANE) -> KeyArn:
        return KeyArn(await self.sandbox.create_key(lane.account, lane.region, policy={"Statement": []}))

    async def fail(self, failure: FailureClass | None) -> None:
        await self.sandbox.inject(*([] if failure is None else [self._FAULTS[failure]]))


@pytest.fixture(scope="module")
def sandbox_process():
    sandbox = AwsSandbox.launch(account=OWN_ACCOUNT.account)
    yield sandbox
    sandbox.close()


@pytest.fixture
async def sandbox(sandbox_process, monkeypatch):
    set_own_environment(monkeypatch)
    await sandbox_process.reset()
    for lane in (LANE, OTHER_ACCOUNT):
        await sandbox_process.create_role(lane.account, ROLE, EXTERNAL_ID)
    for operation in ("AssociateKmsKey", "DescribeLogGroups"):
        await sandbox_process.set_quota(operation, per_second=None)
    return sandbox_process


@asynccontextmanager
async def open_adapter(sandbox: AwsSandbox, *, own_account: AccountId | None = None) -> AsyncIterator[AwsLogGroups]:
    async with open_aws(
        clock=LoopClock(),
        own_account=own_account,
        role_name=ROLE,
        external_id=EXTERNAL_ID,
        role_session_name="logwarden",
        sts_region="eu-central-1",
        endpoint_url=sandbox.endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=10.0,
        max_in_flight=64,
        user_agent="logwarden/test",
    ) as aws:
        yield aws.log_groups


@pytest.fixture
async def sandbox_log_groups(sandbox):
    async with open_adapter(sandbox) as log_groups:
        yield log_groups


@pytest.fixture(params=["fake", "sandbox"])
def stage(request) -> tuple[LogGroups, Scene]:
    if request.param == "fake":
        fake = FakeLogGroups()
        return fake, FakeScene(fake)
    log_groups: LogGroups = request.getfixturevalue("sandbox_log_groups")
    return log_groups, SandboxScene(request.getfixturevalue("sandbox"))


@pytest.fixture
def log_groups(stage) -> LogGroups:
    found: LogGroups = stage[0]
    return found


@pytest.fixture
def scene(stage) -> Scene:
    found: Scene = stage[1]
    return found


async def failure_of(calling: Awaitable[object]) -> FailureClass:
    with pytest.raises(CallFailedError) as raised:
        await calling
    return raised.value.failure


async def key_of(log_groups: LogGroups, log_group: LogGroup) -> KeyArn | None:
    return (await log_groups.describe(log_group.lane, [log_group.name]))[log_group.name]


@pytest.mark.parametrize("lane", [LANE, OTHER_REGION, OTHER_ACCOUNT, OWN_ACCOUNT], ids=str)
async def test_an_associated_key_is_the_one_that_is_described(log_groups, scene, lane):
    await scene.add_group(group("/app/a", lane))
    key = await scene.add_key(lane)
    assert await log_groups.describe(lane, ["/app/a"]) == {"/app/a": None}
    await log_groups.associate(group("/app/a", lane), key)
    assert await log_groups.describe(lane, ["/app/a"]) == {"/app/a": key}


async def test_associating_the_same_key_again_changes_nothing(log_groups, scene):
    await scene.add_group(group("/app/a"))
    key = await scene.add_key()
    for _ in range(2):
        await log_groups.associate(group("/app/a"), key)
    assert await key_of(log_groups, group("/app/a")) == key


async def test_another_key_takes_the_place_of_the_first(log_groups, scene):
    first, second = await scene.add_key(), await scene.add_key()
    await scene.add_group(group("/app/a"), first)
    await log_groups.associate(group("/app/a"), second)
    assert await key_of(log_groups, group("/app/a")) == second


async def test_only_the_named_log_group_gets_the_key(log_groups, scene):
    key = await scene.add_key()
    neighbours = [group("/app/a/b"), group("/app/ab"), group("/app"), group("/APP/A")]
    elsewhere = [group("/app/a", lane) for lane in (OTHER_REGION, OTHER_ACCOUNT, OWN_ACCOUNT)]
    for log_group in [group("/app/a"), *neighbours, *elsewhere]:
        await scene.add_group(log_group)
    await log_groups.associate(group("/app/a"), key)
    for log_group in neighbours + elsewhere:
        assert await key_of(log_groups, log_group) is None


async def test_describe_shows_the_named_groups_and_leaves_absent_ones_out(log_groups, scene):
    key = await scene.add_key()
    await scene.add_group(group("/app/a"), key)
    await scene.add_group(group("/app/a/b"))
    await scene.add_group(group("/app/c"))
    described = await log_groups.describe(LANE, {"/app/a", "/app/c", "/app", "/gone"})
    assert described == {"/app/a": key, "/app/c": None}


@pytest.mark.parametrize("tags", [{}, {"team": "blue", "stage": "prod"}], ids=["none", "two"])
async def test_the_tags_of_a_group_are_its_own(log_groups, scene, tags):
    await scene.add_group(group("/app/a"), tags=tags)
    await scene.add_group(group("/app/a/b"), tags={"team": "red"})
    assert await log_groups.tags_of(group("/app/a")) == tags


async def test_the_groups_that_have_a_tag_are_listed_whatever_its_value(log_groups, scene):
    for name, tags in (
        ("/app/a", {"x:y": "1"}),
        ("/app/b", {"x:y": "", "z": "1"}),
        ("/app/c", {"z": "x:y"}),
        ("/app/d", {}),
    ):
        await scene.add_group(group(name), tags=tags)
    await scene.add_group(group("/app/e", OTHER_REGION), tags={"x:y": "1"})
    assert await listed(log_groups, "x:y") == ["/app/a", "/app/b"]
    assert await listed(log_groups, "none") == []


async def test_more_than_a_thousand_groups_that_have_a_tag_are_listed_by_pages(log_groups, scene):
    names = [f"/app/{number:04}" for number in range(1001)]
    await scene.add_groups([group(name) for name in names], tags={"x": "y"})
    assert await listed(log_groups, "x") == names


async def listed(log_groups, tag: str) -> list[str]:
    names, token = await log_groups.with_tag(LANE, tag, None)
    found = [*names]
    while token is not None:
        names, token = await log_groups.with_tag(LANE, tag, token)
        found += names
    return sorted(found)


async def test_an_absent_group_has_no_tags_to_show(log_groups, scene):
    assert await failure_of(log_groups.tags_of(group("/gone"))) is FailureClass.LOG_GROUP_NOT_FOUND


async def test_describe_takes_fifty_names_and_no_more(log_groups, scene):
    names = [f"/app/{number}" for number in range(51)]
    for name in names:
        await scene.add_group(group(name))
    assert (await log_groups.describe(LANE, names[:50])).keys() == set(names[:50])
    with pytest.raises(ValueError, match="51"):
        await log_groups.describe(LANE, names)


async def test_describing_nothing_asks_nobody(log_groups, scene):
    await scene.fail(FailureClass.UNREACHABLE)
    assert await log_groups.describe(LANE, []) == {}


async def test_pages_show_every_group_of_the_lane_once_in_order_of_name_with_its_key(log_groups, scene):
    key = await scene.add_key()
    names = [f"/app/{number:03d}" for number in range(120)]
    for number, name in enumerate(names):
        await scene.add_group(group(name), key if number % 3 == 0 else None)
    for lane in (OTHER_REGION, OTHER_ACCOUNT, OWN_ACCOUNT):
        await scene.add_group(group("/app/elsewhere", lane))
    pages = [await log_groups.page(LANE, None)]
    while pages[-1].next_token is not None:
        pages.append(await log_groups.page(LANE, pages[-1].next_token))
    assert [len(page.keys) for page in pages] == [50, 50, 20]
    shown = [item for page in pages for item in page.keys.items()]
    assert shown == [(name, key if number % 3 == 0 else None) for number, name in enumerate(names)]


@pytest.mark.parametrize("count", [0, 50])
async def test_the_last_page_says_so(log_groups, scene, count):
    for number in range(count):
        await scene.add_group(group(f"/app/{number}"))
    page = await log_groups.page(LANE, None)
    assert (len(page.keys), page.next_token) == (count, None)


async def test_what_is_deleted_or_made_between_two_pages_disturbs_no_other_group(log_groups, scene):
    names = [f"/app/{number:03d}" for number in range(100)]
    for name in names:
        await scene.add_group(group(name))
    first = await log_groups.page(LANE, None)
    await scene.remove_group(group(names[10]))
    await scene.remove_group(group(names[60]))
    await scene.add_group(group("/app/000-new"))
    second = await log_groups.page(LANE, first.next_token)
    assert [*first.keys, *second.keys] == [name for name in names if name != names[60]]


async def test_a_log_group_that_does_not_exist_is_not_found(log_groups, scene):
    key = await scene.add_key()
    assert await failure_of(log_groups.associate(group("/gone"), key)) is FailureClass.LOG_GROUP_NOT_FOUND


async def test_a_log_group_that_is_deleted_is_not_found(log_groups, scene):
    key = await scene.add_key()
    await scene.add_group(group("/app/a"))
    await log_groups.associate(group("/app/a"), key)
    await scene.remove_group(group("/app/a"))
    assert await failure_of(log_groups.associate(group("/app/a"), key)) is FailureClass.LOG_GROUP_NOT_FOUND
    assert await log_groups.describe(LANE, ["/app/a"]) == {}


@pytest.mark.parametrize("name", ["aws/lambda", "AWS/x"])
async def test_a_reserved_name_is_refused_as_such(log_groups, scene, name):
    key = await scene.add_key()
    await scene.add_group(group(name))
    assert await failure_of(log_groups.associate(group(name), key)) is FailureClass.RESERVED_NAME


async def test_a_key_that_cannot_be_used_is_refused_and_leaves_the_group_as_it_was(log_groups, scene):
    key = await scene.add_key()
    await scene.add_group(group("/app/a"), key)
    refused = {
        absent_key(): FailureClass.KEY_NOT_USABLE,
        await scene.add_unusable_key(): FailureClass.KEY_NOT_USABLE,
        await scene.add_key(is_enabled=False): FailureClass.KEY_NOT_FOUND,
        await scene.add_key(OTHER_REGION): FailureClass.KEY_NOT_FOUND,
    }
    failures = {key: await failure_of(log_groups.associate(group("/app/a"), key)) for key in refused}
    assert failures == refused
    assert await key_of(log_groups, group("/app/a")) == key


@pytest.mark.parametrize(
    "failure",
    [
        FailureClass.THROTTLED,
        FailureClass.OPERATION_ABORTED,
        FailureClass.SERVICE_UNAVAILABLE,
        FailureClass.UNREACHABLE,
        FailureClass.NOT_AUTHORIZED,
        FailureClass.ROLE_NOT_ASSUMABLE,
    ],
    ids=lambda failure: failure.label,
)
async def test_a_failed_call_has_its_class_and_changes_nothing(log_groups, scene, failure):
    key = await scene.add_key()
    await scene.add_group(group("/app/a"))
    await scene.fail(failure)
    assert await failure_of(log_groups.associate(group("/app/a"), key)) is failure
    assert await failure_of(log_groups.describe(LANE, ["/app/a"])) is failure
    await scene.fail(failure)
    assert await failure_of(log_groups.page(LANE, None)) is failure
    await scene.fail(None)
    if failure is not FailureClass.ROLE_NOT_ASSUMABLE:  # the adapter remembers that one for a moment
        assert await key_of(log_groups, group("/app/a")) is None
        await log_groups.associate(group("/app/a"), key)
        assert await key_of(log_groups, group("/app/a")) == key


async def test_calls_at_once_in_several_lanes_each_act_in_their_own(log_groups, scene):
    lanes = [LANE, OTHER_REGION, OTHER_ACCOUNT, OWN_ACCOUNT]
    keys = {lane: await scene.add_key(lane) for lane in lanes}
    groups = [group(f"/app/{number}", lane) for lane in lanes for number in range(10)]
    for log_group in groups:
        await scene.add_group(log_group)
    await asyncio.gather(*(log_groups.associate(log_group, keys[log_group.lane]) for log_group in groups))
    for lane in lanes:
        described = await log_groups.describe(lane, [f"/app/{number}" for number in range(10)])
        assert described == dict.fromkeys((f"/app/{number}" for number in range(10)), keys[lane])


# -- the adapter alone


async def test_a_session_that_has_ended_is_replaced_at_the_next_attempt(sandbox, sandbox_log_groups, monkeypatch):
    monkeypatch.setattr("service.aws.credentials._MIN_AGE_S", 0.0)
    await sandbox.create_log_group(LANE.account, LANE.region, "/app/a")
    assert await key_of(sandbox_log_groups, group("/app/a")) is None
    await sandbox.expire_sessions(LANE.account)
    failure = await failure_of(sandbox_log_groups.describe(LANE, ["/app/a"]))
    assert failure is FailureClass.CREDENTIALS_REJECTED
    assert await key_of(sandbox_log_groups, group("/app/a")) is None
    assert len(await sandbox.calls("AssumeRole")) == 2


async def test_a_lost_answer_is_unreachable_although_the_key_is_associated(sandbox, sandbox_log_groups):
    await sandbox.create_log_group(LANE.account, LANE.region, "/app/a")
    key = KeyArn(await sandbox.create_key(LANE.account, LANE.region))
    await sandbox.inject(Faults(operation="AssociateKmsKey", answer_lost=1))
    assert await failure_of(sandbox_log_groups.associate(group("/app/a"), key)) is FailureClass.UNREACHABLE
    assert await key_of(sandbox_log_groups, group("/app/a")) == key


async def test_the_wrong_external_id_and_a_missing_role_cannot_be_assumed(sandbox, sandbox_log_groups):
    await sandbox.create_role("777788889999", ROLE, "another-external-id")
    for account in ("777788889999", "222233334444"):
        lane = Lane(AccountId(account), LANE.region)
        failure = await failure_of(sandbox_log_groups.describe(lane, ["/app/a"]))
        assert failure is FailureClass.ROLE_NOT_ASSUMABLE


async def test_the_quota_of_a_lane_shows_as_throttled(sandbox, sandbox_log_groups):
    await sandbox.set_quota("AssociateKmsKey", per_second=0.001, burst=5)
    await sandbox.create_log_group(LANE.account, LANE.region, "/app/a")
    key = KeyArn(await sandbox.create_key(LANE.account, LANE.region))
    for _ in range(5):
        await sandbox_log_groups.associate(group("/app/a"), key)
    assert await failure_of(sandbox_log_groups.associate(group("/app/a"), key)) is FailureClass.THROTTLED


async def test_a_wrongly_set_own_account_cannot_put_a_tenants_key_on_a_namesake_in_ours(sandbox):
    await sandbox.create_log_group(OWN_ACCOUNT.account, LANE.region, "/app/a")
    key = KeyArn(await sandbox.create_key(OWN_ACCOUNT.account, LANE.region))
    async with open_adapter(sandbox, own_account=LANE.account) as log_groups:
        await failure_of(log_groups.associate(group("/app/a"), key))
    assert await sandbox.keys_of(OWN_ACCOUNT.account, LANE.region, ["/app/a"]) == {"/app/a": None}


async def test_one_call_is_one_request(sandbox, sandbox_log_groups):
    await sandbox.create_log_group(LANE.account, LANE.region, "/app/a")
    key = KeyArn(await sandbox.create_key(LANE.account, LANE.region))
    await sandbox.inject(Faults(operation="AssociateKmsKey", service_unavailable=1))
    await failure_of(sandbox_log_groups.associate(group("/app/a"), key))
    assert len(await sandbox.calls("AssociateKmsKey")) == 1
