"""What every tenant registry does, each against the real thing: YAML on disk, DynamoDB (moto's), PostgreSQL, and an HTTP service."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.domain.log_group import AccountId, Lane, LogGroup, TenantId
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.reach import reach_of
from service.domain.tenancy import Decision, Owned, Undecided
from service.registry.cache import CacheLimits
from service.registry.file import FileDirectory
from service.registry.schema import TenantFile
from service.registry.source import Registry
from tests.support.aws_server import set_own_environment
from tests.support.registries import DynamoDbScene, HttpScene, PostgresqlScene, Scene, opened, parsed

ACCOUNT, OTHER_ACCOUNT, UNKNOWN = AccountId("111122223333"), AccountId("222233334444"), AccountId("999900001111")
OLD, NEW = (f"arn:aws:kms:eu-west-1:111122223333:key/{i}{'a' * 7}-1111-2222-3333-444455556666" for i in (1, 2))
GROUP = LogGroup(ACCOUNT, LogGroup.of(ACCOUNT, "eu-west-1", "x").region, "/acme/app")
LIMITS = CacheLimits(ttl_s=60, negative_ttl_s=10, max_stale_s=600, timeout_s=5)
QUICK = CacheLimits(ttl_s=60, negative_ttl_s=10, max_stale_s=600, timeout_s=0.3)


def acme(key: str = OLD, extra: str = "") -> str:
    return f"""\
version: 1
tenants:
  - id: acme
    keys: {{eu-west-1: "{key}"}}
    rules: [{{accounts: ["{ACCOUNT}", "{OTHER_ACCOUNT}"]}}]
{extra}"""


# Every field of the schema, and tenants whose order, units, shared rules and default count in accounts that their own rules do not list.
RICH = """\
version: 1
match: first-match
ignore_tag: always
organizational_units:
  prod: ["333344445555", "nested"]
  nested: ["444455556666"]
exclude:
  - names: ["/scratch/*"]
    reason: wiped every night
  - accounts: ["111122223333"]
    tags: {data-class: ["public"]}
default_tenant: platform
shared_rules:
  - accounts: ["555566667777"]
    organizational_units: [nested]
    name_regex: "^/teams/(?P<tenant>[a-z]+)/"
tenants:
  - id: zeta
    keys: {eu-west-1: "arn:aws:kms:eu-west-1:111122223333:key/11111111-1111-2222-3333-444455556666"}
    rules:
      - accounts: ["111122223333"]
        names: ["/app/*"]
  - id: acme
    keys:
      eu-west-1: arn:aws:kms:eu-west-1:111122223333:key/22222222-1111-2222-3333-444455556666
      us-east-1: arn:aws:kms:us-east-1:111122223333:key/33333333-1111-2222-3333-444455556666
    rules:
      - accounts: ["111122223333"]
        names: ["/app/*", "/acme/*"]
      - organizational_units: [prod]
        tags: {team: ["acme", "acme-*"]}
    exclude:
      - names: ["*-tmp"]
        reason: short lived
    overwrite: when-no-key
  - id: platform
    overwrite: never
    keys: {eu-west-1: "arn:aws:kms:eu-west-1:888899990000:key/44444444-1111-2222-3333-444455556666"}
    rules: [{accounts: ["888899990000"]}]
"""


@pytest.fixture(params=["dynamodb", "postgresql", "http"])
async def scene(request, monkeypatch) -> AsyncIterator[Scene]:
    """Each registry that is elsewhere."""
    async with opening(request, monkeypatch) as scene:
        yield scene


def opening(request, monkeypatch) -> AbstractAsyncContextManager[Scene]:
    match request.param:
        case "dynamodb":
            set_own_environment(monkeypatch)
            return DynamoDbScene.open(request.getfixturevalue("aws_process"))
        case "postgresql":
            return PostgresqlScene.open(request.getfixturevalue("postgres"))
        case _:
            return HttpScene.open()


def key_in(decision: Decision) -> str:
    assert isinstance(decision, Owned), decision
    return decision.key


async def unavailable(directory, group: LogGroup = GROUP) -> str:
    with pytest.raises(CallFailedError) as refused:
        await directory.decide(group, None)
    assert refused.value.failure is FailureClass.REGISTRY_UNAVAILABLE
    return refused.value.detail


# -- decisions


async def test_a_registry_decides_as_the_tenant_file_does(scene, tmp_path):
    tenant_file = parsed(RICH, tmp_path)
    rules = tenant_file.rules()
    await scene.store(tenant_file)
    accounts = ["111122223333", "333344445555", "444455556666", "555566667777", "888899990000", "999900001111"]
    names = [
        "/app/x",
        "/acme/x",
        "/acme/x-tmp",
        "/scratch/x",
        "/teams/acme/x",
        "/teams/zeta/x",
        "/teams/nobody/x",
        "/other",
    ]
    regions = ["eu-west-1", "us-east-1"]
    tag_sets = [None, {}, {"team": "acme-2"}, {"data-class": "public"}, {"logwarden:ignore": "yes"}]
    async with opened(scene, LIMITS) as registry:
        for account, name, region in itertools.product(accounts, names, regions):
            group = LogGroup.of(account, region, name)
            assert await registry.directory.depends_on_tags(group) == rules.depends_on_tags(group), group
            for tags in tag_sets:
                # Where nobody lists the account, an HTTP registry need not know the exclusions either: no key in any case.
                theirs, ours = await registry.directory.decide(group, tags), rules.decide(group, tags)
                assert theirs == ours or (account == UNKNOWN and isinstance(theirs, Undecided)), (group, tags)


async def test_a_folder_of_files_decides_as_one_file_does(tmp_path):
    whole = parsed(RICH, tmp_path).rules()
    head, _, tenants = RICH.partition("tenants:\n")
    first, _, rest = tenants.partition("  - id: acme\n")
    folder = tmp_path / "tenants.d"
    folder.mkdir()
    (folder / "10-everybody.yaml").write_text(head)
    (folder / "20-zeta.yaml").write_text(f"version: 1\ntenants:\n{first}")
    (folder / "30-others.yml").write_text(f"version: 1\ntenants:\n  - id: acme\n{rest}")
    directory = FileDirectory(folder)
    for account, name in itertools.product(
        ["111122223333", "444455556666", "888899990000"], ["/app/x", "/acme/x", "/teams/zeta/x"]
    ):
        group = LogGroup.of(account, "eu-west-1", name)
        for tags in (None, {"team": "acme"}):
            assert await directory.decide(group, tags) == whole.decide(group, tags)


async def test_an_account_that_nobody_lists_has_no_tenant_and_is_asked_about_again_soon(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    group = LogGroup.of(UNKNOWN, "eu-west-1", "/x")
    async with opened(scene, LIMITS) as registry:
        decision = await registry.directory.decide(group, None)
        assert isinstance(decision, Undecided)
        assert decision.failure is FailureClass.ACCOUNT_NOT_LISTED
        await scene.store(parsed(acme().replace(OTHER_ACCOUNT, UNKNOWN), tmp_path))
        registry.clock.now_s += 9.9
        assert isinstance(await registry.directory.decide(group, None), Undecided)
        registry.clock.now_s += 0.2
        assert key_in(await registry.directory.decide(group, None)) == OLD


# -- changes


async def test_a_changed_key_is_used_when_the_ttl_has_passed_at_the_latest(scene, tmp_path):
    await scene.store(parsed(acme(OLD), tmp_path))
    async with opened(scene, LIMITS) as registry:
        assert key_in(await registry.directory.decide(GROUP, None)) == OLD
        await scene.store(parsed(acme(NEW), tmp_path))
        registry.clock.now_s += 60
        assert key_in(await registry.directory.decide(GROUP, None)) == NEW


async def test_a_changed_key_is_used_at_once_where_the_registry_tells(scene, tmp_path):
    await scene.store(parsed(acme(OLD), tmp_path))
    async with opened(scene, LIMITS, is_watched=True) as registry:
        await registry.source.until_pushed(1)
        assert key_in(await registry.directory.decide(GROUP, None)) == OLD
        version, pushes = registry.directory.version, len(registry.source.pushes)
        await scene.store(parsed(acme(NEW), tmp_path))
        await registry.source.until_pushed(pushes + 1)
        assert key_in(await registry.directory.decide(GROUP, None)) == NEW
        async with asyncio.timeout(20):
            while registry.directory.version == version:
                await asyncio.sleep(0.005)


async def test_a_change_while_nobody_could_listen_is_not_missed(scene, tmp_path):
    await scene.store(parsed(acme(OLD), tmp_path))
    async with opened(scene, LIMITS, is_watched=True) as registry:
        await registry.source.until_pushed(1)
        assert key_in(await registry.directory.decide(GROUP, None)) == OLD
        await scene.proxy.vanish()
        pushes = len(registry.source.pushes)
        await scene.store(parsed(acme(NEW), tmp_path))
        await scene.proxy.listen()
        await registry.source.until_pushed(pushes + 1)
        assert key_in(await registry.directory.decide(GROUP, None)) == NEW


async def test_a_key_rotated_in_the_middle_of_a_burst_is_never_anything_but_the_old_or_the_new_one(scene, tmp_path):
    await scene.store(parsed(acme(OLD), tmp_path))
    async with opened(scene, LIMITS) as registry:
        used: list[str] = []

        async def burst() -> None:
            while True:
                used.append(key_in(await registry.directory.decide(GROUP, None)))
                await asyncio.sleep(0)

        async def until_used(more: int) -> list[str]:
            start = len(used)
            while len(used) < start + more:
                await asyncio.sleep(0)
            return used[start:]

        async with asyncio.TaskGroup() as bursting:
            bursts = [bursting.create_task(burst()) for _ in range(4)]
            assert set(await until_used(100)) == {OLD}
            await scene.store(parsed(acme(NEW), tmp_path))
            registry.clock.now_s += 50  # the answer is renewed in the background from here on
            assert set(await until_used(100)) <= {OLD, NEW}
            registry.clock.now_s += 60
            passed = len(used) + len(bursts)  # decisions that had begun may end
            await until_used(100)
            assert set(used[passed:]) == {NEW}
            for task in bursts:
                task.cancel()


# -- outages


async def test_a_registry_that_is_away_at_the_start_is_said_to_be_and_used_when_it_comes(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    await scene.proxy.vanish()
    async with opened(scene, LIMITS, is_watched=True) as registry:
        assert await unavailable(registry.directory)
        assert str(ACCOUNT) in str(registry.directory.last_error)
        await scene.proxy.listen()
        registry.clock.now_s += 5
        assert key_in(await registry.directory.decide(GROUP, None)) == OLD
        assert registry.directory.last_error is None


async def test_an_outage_is_bridged_up_to_the_limit_and_not_beyond(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    async with opened(scene, LIMITS) as registry:
        directory, clock = registry.directory, registry.clock
        assert key_in(await directory.decide(GROUP, None)) == OLD
        await scene.proxy.vanish()
        clock.now_s += 300
        assert key_in(await directory.decide(GROUP, None)) == OLD
        assert directory.last_error is not None
        assert directory.stale_s == 300
        clock.now_s += 299.9
        assert key_in(await directory.decide(GROUP, None)) == OLD
        clock.now_s += 0.1
        assert await unavailable(directory)
        assert registry.counts.asked["stale"] == 2
        await scene.proxy.listen()
        clock.now_s += 5
        assert key_in(await directory.decide(GROUP, None)) == OLD
        assert str(directory.last_error) == "None"
        assert directory.stale_s == 0


async def test_a_slow_registry_is_asked_once_however_many_wait_and_given_up_in_time(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    async with opened(scene, QUICK) as registry:
        scene.proxy.stall()
        details = await asyncio.gather(*(unavailable(registry.directory) for _ in range(20)))
        assert set(details) == {details[0]}
        assert registry.source.questions == {ACCOUNT: 1}
        assert registry.counts.asked == {"refused": 20}


async def test_after_a_stall_the_registry_answers_again(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    async with opened(scene, QUICK) as registry:
        scene.proxy.stall()
        await unavailable(registry.directory)
        scene.proxy.flow()
        keys: list[str] = []
        for _ in range(10):  # a busy machine may take longer than the time limit once
            registry.clock.now_s += 5
            with contextlib.suppress(CallFailedError):
                keys.append(key_in(await registry.directory.decide(GROUP, None)))
        assert set(keys) == {OLD}


async def test_a_waiter_that_is_cancelled_takes_the_answer_from_nobody_else(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    async with opened(scene, LIMITS) as registry:
        scene.proxy.stall()
        waiting = [asyncio.create_task(registry.directory.decide(GROUP, None)) for _ in range(3)]
        while not registry.source.questions:
            await asyncio.sleep(0)
        waiting[0].cancel()
        scene.proxy.flow()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert [key_in(decision) for decision in results[1:] if not isinstance(decision, BaseException)] == [OLD, OLD]
        assert registry.source.questions == {ACCOUNT: 1}


# -- wrong data


async def test_wrong_data_are_refused_loudly_once_and_the_last_answer_stays_in_force(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    async with opened(scene, LIMITS) as registry:
        directory, clock = registry.directory, registry.clock
        assert key_in(await directory.decide(GROUP, None)) == OLD
        await scene.store_wrong(ACCOUNT)
        with capture_logs() as logs:
            for _ in range(3):
                clock.now_s += 100
                assert key_in(await directory.decide(GROUP, None)) == OLD
                while registry.counts.fetched["wrong"] < registry.source.questions.total() - 1:
                    await asyncio.sleep(0.005)
        [log] = [log for log in logs if log["log_level"] == "error"]
        assert log["event"] == "registry_data_refused"
        assert "tenants[0].keys.eu-west-1: key 'alias/wrong' is not" in log["problems"][0]
        assert "alias/wrong" in str(directory.last_error)
        assert directory.is_refused
        clock.now_s += 600
        assert "alias/wrong" in await unavailable(directory)
        await scene.store(parsed(acme(NEW), tmp_path))
        clock.now_s += 5
        assert key_in(await directory.decide(GROUP, None)) == NEW
        assert directory.last_error is None
        assert not directory.is_refused


async def test_wrong_data_with_nothing_before_them_give_no_key_and_say_what_is_wrong(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    await scene.store_wrong(ACCOUNT)
    async with opened(scene, LIMITS) as registry:
        assert "tenants[0].keys.eu-west-1: key 'alias/wrong' is not" in await unavailable(registry.directory)


# -- what there is: the tenant file too passes these


@dataclass
class Lister:
    """Any registry: `store` fills it, `opened` gives its directory."""

    store: Callable[[TenantFile], Awaitable[None]]
    opened: Callable[[], AbstractAsyncContextManager[Registry]]


@pytest.fixture(params=["file", "dynamodb", "postgresql", "http"])
async def lister(request, monkeypatch, tmp_path) -> AsyncIterator[Lister]:
    if request.param == "file":
        path = tmp_path / "tenants.json"

        async def write(tenant_file: TenantFile) -> None:
            path.write_text(tenant_file.model_dump_json(exclude_defaults=True))

        @asynccontextmanager
        async def read() -> AsyncIterator[Registry]:
            yield FileDirectory(path)

        yield Lister(write, read)
        return
    async with opening(request, monkeypatch) as scene:

        @asynccontextmanager
        async def ask() -> AsyncIterator[Registry]:
            async with opened(scene, LIMITS) as registry:
                yield registry.directory

        yield Lister(scene.store, ask)


async def test_where_tenants_log_groups_may_be_is_known_as_by_the_tenant_file(lister, tmp_path):
    tenant_file = parsed(RICH, tmp_path)
    rules = tenant_file.rules()
    reach = reach_of(rules)
    await lister.store(tenant_file)
    async with lister.opened() as directory:
        assert set(await directory.lanes()) == reach.lanes
        assert len(reach.lanes) > 6
        theirs = await directory.lanes_of([*rules.tenants, TenantId("nobody")])
        assert theirs == {id_: reach.lanes_of(tenant) for id_, tenant in rules.tenants.items()}
        assert await directory.keys() == rules.keys


async def test_a_crowd_of_tenants_is_listed_to_the_last(lister, tmp_path):
    everybody = [
        {
            "id": f"tenant-{n:04}",
            "keys": {"eu-west-1": OLD},
            "rules": [{"accounts": [f"{n:012}"], "names": [f"/{i}/{'x' * 300}" for i in range(4)]}],
        }
        for n in range(1, 1101)
    ]
    await lister.store(TenantFile.model_validate({"version": 1, "tenants": everybody}))
    async with lister.opened() as directory:
        assert {lane.account for lane in await directory.lanes()} == {f"{n:012}" for n in range(1, 1101)}
        assert len(await directory.keys()) == 1100
        [lanes] = (await directory.lanes_of([TenantId("tenant-1100")])).values()
        assert lanes == {Lane(AccountId("000000001100"), GROUP.region): OLD}


async def test_a_renewed_account_is_decided_by_what_the_registry_holds_now(lister, tmp_path):
    await lister.store(parsed(acme(OLD), tmp_path))
    async with lister.opened() as directory:
        assert key_in(await directory.decide(GROUP, None)) == OLD
        await lister.store(parsed(acme(NEW) + "# changed\n", tmp_path))
        await directory.renew(ACCOUNT)
        assert key_in(await directory.decide(GROUP, None)) == NEW
        await directory.renew(UNKNOWN)


async def test_a_tenants_lanes_come_with_the_key_that_the_registry_holds_now(lister, tmp_path):
    await lister.store(parsed(acme(OLD), tmp_path))
    async with lister.opened() as directory:
        for key in (OLD, NEW):
            await lister.store(parsed(acme(key), tmp_path))
            [lanes] = (await directory.lanes_of([TenantId("acme")])).values()
            assert lanes == {Lane(account, GROUP.region): key for account in (ACCOUNT, OTHER_ACCOUNT)}


async def test_keys_are_listed_again_when_something_has_changed_and_not_before(scene, tmp_path):
    await scene.store(parsed(acme(OLD), tmp_path))
    async with opened(scene, LIMITS, is_watched=True) as registry:
        await registry.source.until_pushed(1)
        for _ in range(3):
            keys = await registry.directory.keys()
            assert keys == {"acme": {"eu-west-1": OLD}}
        assert registry.source.listings == 1
        pushes = len(registry.source.pushes)
        await scene.store(parsed(acme(NEW), tmp_path))
        await registry.source.until_pushed(pushes + 1)
        assert await registry.directory.keys() == {"acme": {"eu-west-1": NEW}}
        registry.clock.now_s += 600
        await registry.directory.keys()
        assert registry.source.listings == 3, "a source that tells of nothing is asked again some time"


async def test_a_registry_that_is_away_is_not_taken_for_an_empty_one(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    await scene.proxy.vanish()
    async with opened(scene, LIMITS) as registry:
        directory = registry.directory
        asked = [directory.lanes(), directory.lanes_of([TenantId("acme")]), directory.keys()]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, CallFailedError)
            assert answer.failure is FailureClass.REGISTRY_UNAVAILABLE


async def test_a_registry_that_stalls_in_its_list_is_given_up_in_time(scene, tmp_path):
    await scene.store(parsed(acme(), tmp_path))
    async with opened(scene, QUICK) as registry:
        scene.proxy.stall()
        with pytest.raises(CallFailedError):
            await registry.directory.lanes()


async def test_a_list_that_does_not_end_in_time_is_given_up(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("service.registry.listing._WHOLE_LIST_S", 0.1)
    await scene.store(parsed(acme(), tmp_path))
    async with opened(scene, LIMITS) as registry:
        scene.proxy.stall()
        with pytest.raises(CallFailedError, match=r"the list of tenants has not ended in 0\.1 s"):
            await registry.directory.keys()


async def test_a_list_of_more_tenants_than_there_can_be_is_given_up(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("service.registry.listing.MAX_TENANTS", 2)
    blue = f'  - {{id: blue, keys: {{eu-west-1: "{NEW}"}}, rules: [{{accounts: ["{UNKNOWN}"]}}]}}\n'
    await scene.store(parsed(acme(extra=blue), tmp_path))
    async with opened(scene, LIMITS) as registry:
        assert len(await registry.directory.keys() or ()) == 2
        green = blue.replace("blue", "green").replace(UNKNOWN, "333344445555")
        await scene.store(parsed(acme(extra=blue + green), tmp_path))
        with pytest.raises(CallFailedError, match="more than 2 tenants"):
            await registry.directory.lanes()


async def test_a_tenant_that_is_written_wrong_is_left_out_of_the_list_loudly_and_spoils_nobody_elses(scene, tmp_path):
    blue = f'  - {{id: blue, keys: {{eu-west-1: "{NEW}"}}, rules: [{{accounts: ["{UNKNOWN}"]}}]}}\n'
    text = (
        f'version: 1\ntenants:\n  - {{id: acme, keys: {{eu-west-1: "{OLD}"}}, rules: [{{accounts: ["{ACCOUNT}"]}}]}}\n'
    )
    await scene.store(parsed(text + blue, tmp_path))
    await scene.store_wrong(ACCOUNT)
    async with opened(scene, LIMITS) as registry:
        with capture_logs() as logs:
            assert await registry.directory.keys() == {"blue": {"eu-west-1": NEW}}
            await registry.directory.lanes()
        [log] = [log for log in logs if log["log_level"] == "error"]
        assert log["event"] == "registry_tenants_refused"
        assert "tenant acme: keys.eu-west-1: key 'alias/wrong' is not" in log["problems"][0]
        with pytest.raises(CallFailedError, match="alias/wrong"):
            await registry.directory.lanes_of([TenantId("acme")])


async def test_what_is_no_tenant_refuses_its_account_and_is_left_out_of_the_list_and_spoils_nobody_elses(
    scene, tmp_path
):
    text = f"""\
version: 1
tenants:
  - {{id: acme, keys: {{eu-west-1: "{OLD}"}}, rules: [{{accounts: ["{ACCOUNT}"]}}]}}
  - {{id: blue, keys: {{eu-west-1: "{NEW}"}}, rules: [{{accounts: ["{OTHER_ACCOUNT}"]}}]}}
"""
    await scene.store(parsed(text, tmp_path))
    await scene.store_odd(ACCOUNT)
    others = LogGroup(OTHER_ACCOUNT, GROUP.region, "/x")
    async with opened(scene, LIMITS) as registry:
        assert "tenants[" in await unavailable(registry.directory)
        assert key_in(await registry.directory.decide(others, None)) == NEW
        with capture_logs() as logs:
            assert await registry.directory.keys() == {"acme": {"eu-west-1": OLD}, "blue": {"eu-west-1": NEW}}
        [log] = logs
        assert log["event"] == "registry_tenants_refused"
        assert log["problems"][0].startswith("tenant odd: ")
        assert await registry.directory.lanes_of([TenantId("acme")]) == {"acme": {GROUP.lane: OLD}}
        with pytest.raises(CallFailedError, match="tenant odd: "):
            await registry.directory.lanes_of([TenantId("odd")])


# -- files: always in memory, so never away


@pytest.fixture(params=["file", "folder"])
def files(request, tmp_path) -> tuple[FileDirectory, Path]:
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "acme.yaml").write_text(acme())
    path = folder / "acme.yaml"
    return FileDirectory(folder if request.param == "folder" else path), path


async def test_a_changed_key_in_a_file_is_used(files):
    directory, path = files
    assert key_in(await directory.decide(GROUP, None)) == OLD
    path.write_text(acme(NEW) + "# changed\n")
    assert await directory.refresh()
    assert key_in(await directory.decide(GROUP, None)) == NEW


async def test_a_file_that_turns_wrong_or_goes_away_leaves_the_last_rules_in_force(files):
    directory, path = files
    path.write_text(acme("alias/wrong"))
    assert not await directory.refresh()
    assert "acme.yaml:4: tenants[0].keys.eu-west-1" in str(directory.last_error)
    assert key_in(await directory.decide(GROUP, None)) == OLD
    assert directory.is_refused
    path.unlink()
    assert not await directory.refresh()
    assert directory.last_error is not None
    assert key_in(await directory.decide(GROUP, None)) == OLD
    path.write_text(acme(NEW))
    assert await directory.refresh()
    assert directory.last_error is None
    assert not directory.is_refused
    assert key_in(await directory.decide(GROUP, None)) == NEW
