"""Which registry the settings open, and what its metrics and commands say of it."""

import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.clock import LoopClock
from service.registry.administration import RegistryCommandError, load, migrate, rules_on
from service.registry.cache import CachedDirectory
from service.registry.dynamodb import DynamoDbSource
from service.registry.file import FileDirectory, TenantFileError
from service.registry.http import HttpSource
from service.registry.opening import open_registry, open_source
from service.registry.postgresql.source import PostgresqlSource
from service.settings import PREFIX, Settings, SettingsError, load_settings
from service.telemetry.registry import RegistryCollector, RegistryMetrics
from tests.support.aws_server import set_own_environment
from tests.support.registries import ACCOUNT, TENANT_FILE, HttpScene, PostgresqlScene, parsed


def settings(address: str | None, **fields) -> Settings:
    return Settings(registry=address, **fields)


async def test_without_a_registry_it_is_the_tenant_file(tmp_path):
    (tmp_path / "tenants.yaml").write_text(TENANT_FILE)
    chosen = settings(None, tenants_file=tmp_path / "tenants.yaml")
    async with open_registry(chosen, clock=LoopClock(), observer=RegistryMetrics(CollectorRegistry())) as registry:
        assert isinstance(registry, FileDirectory)


async def test_a_wrong_tenant_file_is_an_error_at_the_start(tmp_path):
    chosen = settings(None, tenants_file=tmp_path / "absent.yaml")
    with pytest.raises(TenantFileError):
        async with open_registry(chosen, clock=LoopClock(), observer=RegistryMetrics(CollectorRegistry())):
            pass


@pytest.mark.parametrize(
    ("address", "kind", "name"),
    [
        ("dynamodb:tenants", DynamoDbSource, "dynamodb:tenants"),
        ("postgresql://logwarden@db.example/tenants", PostgresqlSource, "postgresql://db.example/tenants"),
        ("postgres://db.example/tenants", PostgresqlSource, "postgres://db.example/tenants"),
        ("https://tenants.example/v1", HttpSource, "https://tenants.example/v1"),
        ("http://localhost:8000", HttpSource, "http://localhost:8000"),
    ],
)
async def test_the_address_says_which_source_it_is(address, kind, name):
    async with open_source(settings(address)) as source:
        assert isinstance(source, kind)
        assert (source.name, source.version) == (name, None)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://dynamodb.eu-west-1.amazonaws.com"),
        ({"registry_dynamodb_region": "us-east-1"}, "https://dynamodb.us-east-1.amazonaws.com"),
        (
            {"registry_dynamodb_region": "us-east-1", "aws_use_fips_endpoint": True},
            "https://dynamodb-fips.us-east-1.amazonaws.com",
        ),
        ({"aws_use_dualstack_endpoint": True}, "https://dynamodb.eu-west-1.api.aws"),
        (
            {"aws_endpoint_url": "https://gateway.example", "aws_use_fips_endpoint": True},
            "https://gateway.example",
        ),
        ({"aws_endpoint_url": "https://{region}.gateway.example"}, "https://eu-west-1.gateway.example"),
        (
            {
                "aws_endpoint_url": "https://{region}.gateway.example",
                "aws_endpoint_urls": {
                    "dynamodb": "https://dynamodb.{region}.vpce.example",
                    "logs": "https://logs.example",
                },
            },
            "https://dynamodb.eu-west-1.vpce.example",
        ),
        (
            {
                "aws_endpoint_urls": {
                    "dynamodb": "https://dynamodb.example",
                    "dynamodb:eu-west-1": "https://here.example",
                    "dynamodb:us-east-1": "https://there.example",
                }
            },
            "https://here.example",
        ),
    ],
)
async def test_the_table_is_asked_where_the_settings_say(monkeypatch, fields, url):
    set_own_environment(monkeypatch)
    chosen = settings("dynamodb:tenants", aws_sts_region="eu-west-1", **fields)
    async with open_source(chosen) as source:
        assert isinstance(source, DynamoDbSource)
        assert (await source._connected()).meta.endpoint_url == url


async def test_a_registry_that_is_away_does_not_keep_the_service_from_starting():
    chosen = settings("http://127.0.0.1:1")
    async with open_registry(chosen, clock=LoopClock(), observer=RegistryMetrics(CollectorRegistry())) as registry:
        assert isinstance(registry, CachedDirectory)
        assert (registry.version, registry.last_error) == ("unversioned", None)


@pytest.mark.parametrize(
    "address", ["/etc/tenants.yaml", "dynamodb:", "dynamodb", "https://", "redis://x", "mysql://x"]
)
def test_an_address_of_no_known_kind_is_refused(monkeypatch, address):
    monkeypatch.setenv(f"{PREFIX}REGISTRY", address)
    with pytest.raises(SettingsError, match=r"REGISTRY: .*dynamodb:TABLE"):
        load_settings()


def test_an_address_with_a_password_is_not_shown():
    assert "hush" not in repr(settings("postgresql://user:hush@db.example/tenants"))


def test_a_limit_on_age_under_the_ttl_is_refused(monkeypatch):
    monkeypatch.setenv(f"{PREFIX}REGISTRY_MAX_STALE_S", "10")
    with pytest.raises(SettingsError, match="REGISTRY_MAX_STALE_S"):
        load_settings()


# -- metrics


def test_metrics_count_what_they_are_told():
    registry = CollectorRegistry()
    metrics = RegistryMetrics(registry)
    metrics.registry_asked("stale")
    metrics.registry_fetched("unavailable", seconds=3.0)
    text = generate_latest(registry).decode()
    assert 'logwarden_registry_lookups_total{answer="stale"} 1.0' in text
    assert 'logwarden_registry_fetches_total{result="unavailable"} 1.0' in text
    assert "logwarden_registry_fetch_seconds_sum 3.0" in text


def test_gauges_of_the_cache_are_absent_without_one():
    class Cache:
        stale_s = 12.5
        accounts = 3

    cache: list[Cache | None] = [None]
    registry = CollectorRegistry()
    registry.register(RegistryCollector(lambda: None, lambda: cache[0]))
    assert generate_latest(registry) == b""
    cache[0] = Cache()
    text = generate_latest(registry).decode()
    assert "logwarden_registry_stale_seconds 12.5" in text
    assert "logwarden_registry_accounts 3.0" in text


# -- commands


@pytest.fixture
def tenant_file(tmp_path: Path) -> Path:
    (tmp_path / "tenants.yaml").write_text(TENANT_FILE)
    return tmp_path / "tenants.yaml"


async def test_a_database_is_migrated_filled_and_asked(postgres, tenant_file):
    async with PostgresqlScene.open(postgres, is_migrated=False) as scene:
        chosen = settings(scene.dsn, registry_password=scene.password)
        with pytest.raises(
            RegistryCommandError, match=r"the database: .*`logwarden registry migrate` makes the schema"
        ):
            await load(chosen, tenant_file, is_forced=False)
        assert await migrate(chosen) == ["0001_tenants.sql"]
        assert await migrate(chosen) == []
        assert await load(chosen, tenant_file, is_forced=False) == 1
        assert len(await rules_on(chosen, ACCOUNT)) == 1


async def test_a_registry_that_is_a_service_is_asked_and_not_filled(tenant_file, tmp_path):
    async with HttpScene.open() as scene:
        await scene.store(parsed(TENANT_FILE, tmp_path))
        chosen = settings(scene.service.url)
        assert len(await rules_on(chosen, ACCOUNT)) == 1
        with pytest.raises(RegistryCommandError, match="service's to fill"):
            await load(chosen, tenant_file, is_forced=False)
        with pytest.raises(RegistryCommandError, match="only a PostgreSQL registry"):
            await migrate(chosen)


async def test_nothing_is_loaded_where_the_registry_is_the_tenant_file(tenant_file):
    with pytest.raises(RegistryCommandError, match="LOGWARDEN_REGISTRY is not set"):
        await load(settings(None), tenant_file, is_forced=False)


async def test_a_registry_that_is_away_is_said_to_be():
    for address in ("http://127.0.0.1:1", "postgresql://x@127.0.0.1:1/x"):
        with pytest.raises(RegistryCommandError, match=r"127\.0\.0\.1"):
            await rules_on(settings(address), ACCOUNT)
    with pytest.raises(RegistryCommandError, match="the database"):
        await migrate(settings("postgresql://x@127.0.0.1:1/x"))


async def test_a_role_that_may_not_make_the_schema_is_told_where_rights_are_explained(postgres):
    async with PostgresqlScene.open(postgres, is_migrated=False) as scene:
        connection = await asyncpg.connect(scene.dsn, password=scene.password)
        role = f"reader_{uuid.uuid4().hex[:8]}"
        try:
            await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{scene.password}'")
            as_reader = urlunsplit(
                urlsplit(scene.dsn)._replace(netloc=f"{role}@{urlsplit(scene.dsn).netloc.rpartition('@')[2]}")
            )
            with pytest.raises(
                RegistryCommandError, match=r"the database: permission denied .*README\.md says what to grant"
            ):
                await migrate(settings(as_reader, registry_password=scene.password))
        finally:
            await connection.execute(f"DROP ROLE {role}")
            await connection.close()
