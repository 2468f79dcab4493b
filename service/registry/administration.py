"""What `logwarden registry` and `logwarden check` do with the registry that the settings name."""

import asyncio
from pathlib import Path

from service.domain.log_group import AccountId
from service.domain.tenancy import TenantRules
from service.registry.file import load_tenants
from service.registry.opening import open_source, registry_password
from service.registry.source import SourceError, SourceUnavailableError
from service.settings import Settings


class RegistryCommandError(Exception):
    """The registry cannot be asked or changed; the text says why."""


async def rules_on(settings: Settings, account: AccountId) -> TenantRules:
    """What the registry elsewhere says of an account now, past every cache. Raises RegistryCommandError."""
    async with open_source(settings) as source:
        try:
            async with asyncio.timeout(settings.registry_timeout_s):
                return (await source.on_account(account, None)).rules
        except (SourceError, TimeoutError) as e:
            raise RegistryCommandError(f"{source.name}: {str(e) or 'no answer'}") from e


async def migrate(settings: Settings) -> list[str]:
    """Bring the PostgreSQL registry to this release's schema; the files that were applied. Raises RegistryCommandError."""
    import asyncpg

    from service.registry.postgresql.migration import migrate as migrate_database
    from service.registry.postgresql.source import described

    dsn = _address(settings)
    if not dsn.startswith("postgres"):
        raise RegistryCommandError("only a PostgreSQL registry has a schema to bring up to date")
    try:
        return await migrate_database(dsn, password=registry_password(settings))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as e:
        raise RegistryCommandError(f"the database: {described(e)}") from e


async def load(settings: Settings, path: Path, *, is_forced: bool) -> int:
    """Make the registry hold what a tenant file holds, and nothing else; the number of tenants.

    Raises RegistryCommandError, and TenantFileError for the file: nothing is changed then.
    """
    tenant_file = load_tenants(path)
    address = _address(settings)
    if address.startswith("postgres"):
        import asyncpg

        from service.registry.postgresql.source import described
        from service.registry.postgresql.store import store as store_in_postgresql

        try:
            await store_in_postgresql(tenant_file, dsn=address, password=registry_password(settings))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as e:
            raise RegistryCommandError(f"the database: {described(e)}") from e
    elif address.startswith("dynamodb:"):
        from service.registry.dynamodb import DynamoDbSource
        from service.registry.dynamodb_store import TableInUseError
        from service.registry.dynamodb_store import store as store_in_dynamodb

        async with open_source(settings) as source:
            assert isinstance(source, DynamoDbSource)  # noqa: S101  for the type: the address says so
            try:
                await store_in_dynamodb(tenant_file, table=source, is_forced=is_forced)
            except (TableInUseError, SourceUnavailableError) as e:
                raise RegistryCommandError(f"{source.name}: {e}") from e
    else:
        raise RegistryCommandError("an HTTP registry is its service's to fill")
    return len(tenant_file.tenants)


def _address(settings: Settings) -> str:
    if settings.registry is None:
        raise RegistryCommandError("LOGWARDEN_REGISTRY is not set: the registry is the tenant file")
    return settings.registry.get_secret_value()
