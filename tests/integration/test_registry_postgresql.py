"""Tenants in a real PostgreSQL: the migration, what the schema refuses, what it tells, and a server that restarts."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from service.domain.log_group import AccountId, LogGroup
from service.domain.tenancy import Owned
from service.registry.cache import CacheLimits
from service.registry.postgresql.migration import migrate, migrations
from service.registry.postgresql.source import PostgresqlSource
from service.registry.postgresql.store import store
from service.registry.source import SourceDataError, SourceUnavailableError
from tests.support.manifests import REPOSITORY
from tests.support.postgres import PASSWORD, Postgres, new_database
from tests.support.registries import POLL_INTERVAL_S, TENANT_FILE, PostgresqlScene, opened, parsed

ACCOUNT, OTHER_ACCOUNT = AccountId("111122223333"), AccountId("222233334444")
KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"
INSERT = "INSERT INTO logwarden.tenants (document) VALUES ($1::text::jsonb)"


def tenant(id_: str = "acme", **fields) -> str:
    return json.dumps({"id": id_, "keys": {"eu-west-1": KEY}, "rules": [{"accounts": [ACCOUNT]}]} | fields)


@pytest.fixture
async def scene(postgres: Postgres) -> AsyncIterator[PostgresqlScene]:
    async with PostgresqlScene.open(postgres) as scene:
        yield scene


@pytest.fixture
async def source(scene: PostgresqlScene) -> AsyncIterator[PostgresqlSource]:
    async with scene.source(timeout_s=10) as source:
        yield source


class Pushes(list[frozenset[str] | None]):
    """What a source's push has said; None is every account."""

    def __call__(self, accounts) -> None:
        self.append(None if accounts is None else frozenset(accounts))

    async def until(self, *expected: frozenset[str] | None) -> None:
        async with asyncio.timeout(20):
            while self[-len(expected) :] != list(expected):
                await asyncio.sleep(0.005)


@pytest.fixture
async def pushes(scene: PostgresqlScene) -> AsyncIterator[Pushes]:
    """Of a source that polls so seldom that only notifications count."""
    pushes = Pushes()
    async with PostgresqlSource(dsn=scene.dsn, password=PASSWORD, timeout_s=10, poll_interval_s=3600) as source:
        watching = asyncio.create_task(source.watch(pushes))
        await pushes.until(None)
        yield pushes
        watching.cancel()
        await asyncio.wait([watching])


# -- the migration


async def test_a_migration_is_applied_once_also_by_several_at_once(postgres):
    async with new_database(postgres) as database:
        dsn = postgres.dsn(database)
        applied = await asyncio.gather(*(migrate(dsn, password=PASSWORD) for _ in range(4)))
        assert sorted(applied) == [[], [], [], list(migrations().values())]
        assert await migrate(dsn, password=PASSWORD) == []


def test_migrations_are_numbered_without_a_gap():
    assert list(migrations()) == list(range(1, len(migrations()) + 1))


async def test_a_database_without_the_schema_is_said_to_lack_it(postgres):
    async with new_database(postgres) as database:
        dsn = postgres.dsn(database)
        async with PostgresqlSource(dsn=dsn, password=PASSWORD, timeout_s=10, poll_interval_s=1) as source:
            with pytest.raises(
                SourceUnavailableError, match=r'"logwarden\.registry" does not exist; .*registry migrate'
            ):
                await source.on_account(ACCOUNT, None)


# -- what roles are granted


@asynccontextmanager
async def roles(scene: PostgresqlScene) -> AsyncIterator[dict[str, str]]:
    """The DSNs of the page's two roles, granted what it says, under names of this test's own."""
    [grants] = re.findall(
        r"^```sql\n(.*?)^```$",
        (REPOSITORY / "service" / "registry" / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    names = {role: f"{role}_{uuid4().hex[:8]}" for role in ("logwarden_service", "logwarden_loader")}
    for role, name in names.items():
        await scene.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        grants = grants.replace(role, name)
    for grant in grants.split(";"):
        await scene.execute(grant)
    yield {role: scene.dsn.replace("//logwarden@", f"//{name}@") for role, name in names.items()}
    for name in names.values():
        await scene.execute(f"DROP OWNED BY {name}")
        await scene.execute(f"DROP ROLE {name}")


async def test_the_grants_of_the_readme_let_the_service_read_and_nothing_else(scene, tmp_path):
    async with roles(scene) as dsns:
        await store(parsed(TENANT_FILE, tmp_path), dsn=dsns["logwarden_loader"], password=PASSWORD)
        dsn, pushes = dsns["logwarden_service"], Pushes()
        async with PostgresqlSource(dsn=dsn, password=PASSWORD, timeout_s=10, poll_interval_s=3600) as source:
            assert (await source.on_account(ACCOUNT, None)).is_listed
            assert [len(page.tenants) async for page in source.tenants()] == [1]
            watching = asyncio.create_task(source.watch(pushes))
            await pushes.until(None)
            watching.cancel()
            await asyncio.wait([watching])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store(parsed(TENANT_FILE, tmp_path), dsn=dsn, password=PASSWORD)


async def test_the_loader_may_replace_tenants_and_change_what_holds_for_everybody(scene, tmp_path):
    async with roles(scene) as dsns:
        for text in (TENANT_FILE, f"{TENANT_FILE}\ndefault_tenant: acme\n", TENANT_FILE.replace("acme", "other")):
            await store(parsed(text, tmp_path), dsn=dsns["logwarden_loader"], password=PASSWORD)
        assert [row["id"] for row in await scene.execute("SELECT id FROM logwarden.tenants")] == ["other"]


# -- what the schema refuses


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{}",
        tenant("a b"),
        tenant(id=5),
        tenant(keys={}),
        tenant(keys=[]),
        tenant(rules=[]),
        tenant(rules=[{"names": ["/x"]}]),
        tenant(rules=[{"accounts": []}]),
        tenant(rules=[{"accounts": ["1234"]}]),
        tenant(rules=[{"accounts": [111122223333]}]),
        tenant(rules=[{"accounts": [None]}]),
        tenant(rules=[{"accounts": ["111122223333\n"]}]),
        tenant(rules="all"),
    ],
)
async def test_a_document_that_would_harm_its_readers_is_refused(scene, document):
    with pytest.raises(asyncpg.PostgresError):
        await scene.execute(INSERT, document)


async def test_a_default_tenant_that_does_not_exist_is_refused(scene):
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await scene.execute('UPDATE logwarden.registry SET everywhere = \'{"version": 1, "default_tenant": "nobody"}\'')


async def test_a_second_tenant_of_one_id_is_refused_and_an_upsert_changes_the_first(scene, source):
    await scene.execute(INSERT, tenant())
    with pytest.raises(asyncpg.UniqueViolationError):
        await scene.execute(INSERT, tenant())
    changed = tenant(rules=[{"accounts": [OTHER_ACCOUNT]}])
    await scene.execute(f"{INSERT} ON CONFLICT (id) DO UPDATE SET document = excluded.document", changed)
    assert not (await source.on_account(ACCOUNT, None)).is_listed
    assert (await source.on_account(OTHER_ACCOUNT, None)).is_listed


async def test_what_the_schema_lets_through_and_logwarden_does_not_understand_refuses_the_account_alone(scene, source):
    await scene.execute(INSERT, tenant(surprise=1))
    await scene.execute(INSERT, tenant("other", rules=[{"accounts": [OTHER_ACCOUNT]}]))
    with pytest.raises(SourceDataError, match=r"tenants\[0\].surprise: is no field here"):
        await source.on_account(ACCOUNT, None)
    assert (await source.on_account(OTHER_ACCOUNT, None)).is_listed


async def test_what_has_not_changed_is_not_read_again(scene, source):
    first = await source.on_account(ACCOUNT, None)
    await scene.execute(
        "CREATE OR REPLACE FUNCTION logwarden.on_account(account text) RETURNS jsonb LANGUAGE plpgsql "
        "AS 'BEGIN RAISE EXCEPTION $$read again$$; END'"
    )
    assert await source.on_account(ACCOUNT, first) is first
    with pytest.raises(SourceUnavailableError, match="read again"):
        await source.on_account(ACCOUNT, None)
    await scene.execute("UPDATE logwarden.registry SET version = version + 1")
    with pytest.raises(SourceUnavailableError, match="read again"):
        await source.on_account(ACCOUNT, first)


async def test_after_another_server_has_taken_over_the_same_version_is_read_again(scene):
    async with opened(scene, CacheLimits(), is_watched=True) as registry:
        await registry.source.until_pushed(1)
        source = registry.source._source
        first = await source.on_account(ACCOUNT, None)
        assert await source.on_account(ACCOUNT, first) is first
        scene.proxy.cut()
        await registry.source.until_pushed(2)
        assert (await source.on_account(ACCOUNT, first)).etag != first.etag


async def test_the_first_tenant_is_the_one_whose_position_is_lower(scene, source):
    await scene.execute('UPDATE logwarden.registry SET everywhere = \'{"version": 1, "match": "first-match"}\'')
    await scene.execute(INSERT, tenant("zeta", rules=[{"accounts": [ACCOUNT], "names": ["/x*"]}]))
    await scene.execute(INSERT, tenant("acme", rules=[{"accounts": [ACCOUNT], "names": ["/*"]}]))
    await scene.execute("UPDATE logwarden.tenants SET position = 5 WHERE id = 'acme'")
    rules = (await source.on_account(ACCOUNT, None)).rules
    decision = rules.decide(LogGroup.of(ACCOUNT, "eu-west-1", "/x"), None)
    assert isinstance(decision, Owned)
    assert decision.tenant == "zeta"


# -- what it tells


async def test_a_change_is_told_to_the_accounts_that_it_concerns(scene, pushes):
    await scene.execute(INSERT, tenant())
    await pushes.until(None, frozenset({ACCOUNT}))
    await scene.execute(
        "UPDATE logwarden.tenants SET document = $1::text::jsonb", tenant(rules=[{"accounts": [OTHER_ACCOUNT]}])
    )
    async with asyncio.timeout(20):
        while set(pushes[-2:]) != {frozenset({ACCOUNT}), frozenset({OTHER_ACCOUNT})}:
            await asyncio.sleep(0.005)
    await scene.execute("DELETE FROM logwarden.tenants")
    await pushes.until(frozenset({OTHER_ACCOUNT}))
    assert pushes.count(None) == 1, "nothing but the start concerned every account"


async def test_a_change_that_reaches_everywhere_is_told_to_all(scene, pushes):
    await scene.execute(INSERT, tenant())
    await pushes.until(None, frozenset({ACCOUNT}))
    everywhere = json.dumps({"version": 1, "default_tenant": "acme", "organizational_units": {"prod": [OTHER_ACCOUNT]}})
    await scene.execute("UPDATE logwarden.registry SET everywhere = $1::text::jsonb", everywhere)
    await pushes.until(None)
    await scene.execute("UPDATE logwarden.tenants SET document = $1::text::jsonb", tenant(exclude=[{"names": ["/x"]}]))
    await pushes.until(None, None)  # it is the default tenant
    await scene.execute(INSERT, tenant("unit", rules=[{"organizational_units": ["prod"]}]))
    await pushes.until(None, None, None)
    await scene.execute("UPDATE logwarden.registry SET everywhere = '{\"version\": 1}'")
    await scene.execute("TRUNCATE logwarden.tenants CASCADE")
    async with asyncio.timeout(20):
        while pushes.count(None) < 6:
            await asyncio.sleep(0.005)


async def test_notifications_that_get_lost_are_noticed_by_the_version(scene):
    """As behind PgBouncer, where a listener hears nothing."""
    pushes = Pushes()
    async with scene.source(timeout_s=10) as source:
        watching = asyncio.create_task(source.watch(pushes))
        await pushes.until(None)
        await scene.execute("ALTER TABLE logwarden.tenants DISABLE TRIGGER tell_of_tenant")
        await scene.execute("UPDATE logwarden.registry SET version = version + 1")
        await pushes.until(None, None)
        watching.cancel()
        await asyncio.wait([watching])


@pytest.mark.parametrize("payload", ["*", "", "nonsense", "version 99", "version x"])
async def test_a_notification_that_is_not_understood_is_taken_for_everything(scene, pushes, payload):
    await scene.execute("SELECT pg_notify('logwarden_registry', $1)", payload)
    await pushes.until(None, None)


# -- the connection


async def test_a_restart_of_the_server_is_survived_and_what_changed_is_noticed(scene, postgres):
    await scene.execute(INSERT, tenant())
    pushes = Pushes()
    async with scene.source(timeout_s=10) as source:
        watching = asyncio.create_task(source.watch(pushes))
        await pushes.until(None)
        assert (await source.on_account(ACCOUNT, None)).is_listed
        await asyncio.to_thread(postgres.stop)
        with pytest.raises(SourceUnavailableError):
            await source.on_account(ACCOUNT, None)
        await asyncio.to_thread(postgres.start)
        await pushes.until(None, None)
        assert (await source.on_account(ACCOUNT, None)).is_listed
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_connection_that_is_lost_between_two_steps_of_a_statement_is_one_that_is_lost(scene, monkeypatch):
    async def lost(*_: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    pushes = Pushes()
    async with scene.source(timeout_s=10) as source:
        watching = asyncio.create_task(source.watch(pushes))
        await pushes.until(None)
        with monkeypatch.context() as broken:
            broken.setattr(asyncpg.Connection, "fetchval", lost)
            broken.setattr(asyncpg.Connection, "fetchrow", lost)
            with pytest.raises(SourceUnavailableError, match="another operation"):
                await source.on_account(ACCOUNT, None)
            async with asyncio.timeout(20):
                while not source._is_failing:
                    await asyncio.sleep(0.005)
        await pushes.until(None, None)
        assert not (await source.on_account(ACCOUNT, None)).is_listed
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_lost_connection_of_the_listener_is_replaced(scene):
    pushes = Pushes()
    async with scene.source(timeout_s=10) as source:
        watching = asyncio.create_task(source.watch(pushes))
        await pushes.until(None)
        scene.proxy.cut()
        await pushes.until(None, None)
        await scene.execute(INSERT, tenant())
        await pushes.until(frozenset({ACCOUNT}))
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_listener_that_is_cut_off_in_silence_notices_by_itself(scene):
    pushes = Pushes()
    async with scene.source(timeout_s=0.3) as source:
        watching = asyncio.create_task(source.watch(pushes))
        await pushes.until(None)
        scene.proxy.stall()
        await asyncio.sleep(0.5)
        scene.proxy.flow()
        await pushes.until(None, None)
        watching.cancel()
        await asyncio.wait([watching])


async def test_no_more_connections_are_made_than_the_pool_holds(scene, source):
    await asyncio.gather(*(source.on_account(AccountId(f"{n:012}"), None) for n in range(100)))
    assert scene.proxy.connections <= 8, "4, and as many that tried TLS first"


async def test_a_statement_ends_on_the_server_too(scene):
    async with scene.source(timeout_s=0.3) as source:
        connection = await asyncpg.connect(scene.dsn, password=PASSWORD)
        await connection.execute("BEGIN; LOCK TABLE logwarden.tenants IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceUnavailableError):
            await source.on_account(ACCOUNT, None)
        async with asyncio.timeout(20):
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'logwarden' AND state = 'active'"
            ):
                await asyncio.sleep(0.02)
        await connection.close()


async def test_secrets_are_not_in_the_name(postgres):
    dsn = "postgresql://user:hush@db.example:5432/tenants?password=hush&sslmode=require"
    async with PostgresqlSource(dsn=dsn, password=None, timeout_s=1, poll_interval_s=1) as source:
        assert source.name == "postgresql://db.example:5432/tenants"


async def test_a_wrong_password_is_said_to_be_wrong(scene, postgres):
    async with PostgresqlSource(
        dsn=scene.dsn, password="guess", timeout_s=10, poll_interval_s=POLL_INTERVAL_S
    ) as source:
        with pytest.raises(SourceUnavailableError, match="password authentication failed"):
            await source.on_account(ACCOUNT, None)


async def test_a_store_changes_only_what_is_different(scene, tmp_path):
    text = f"version: 1\ntenants:\n  - {tenant()}\n  - {tenant('blue', rules=[{'accounts': [OTHER_ACCOUNT]}])}\n"
    await scene.store(parsed(text, tmp_path))
    before = {
        row["id"]: row["changed_at"] for row in await scene.execute("SELECT id, changed_at FROM logwarden.tenants")
    }
    await scene.store(parsed(text.replace("/1", "/2", 1), tmp_path))
    after = {
        row["id"]: row["changed_at"] for row in await scene.execute("SELECT id, changed_at FROM logwarden.tenants")
    }
    assert [id_ for id_ in before if before[id_] != after[id_]] == ["acme"]
