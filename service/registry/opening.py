"""Which registry the settings name, opened: the tenant file, or a source behind the cache.

The adapters are imported when they are chosen, as each brings a library along.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from service.ports import Clock
from service.registry.cache import CachedDirectory, CacheLimits
from service.registry.file import FileDirectory
from service.registry.source import AccountSource, Registry, RegistryObserver
from service.settings import Settings


@asynccontextmanager
async def open_registry(settings: Settings, *, clock: Clock, observer: RegistryObserver) -> AsyncIterator[Registry]:
    """The registry, for the length of an `async with`. Run its `watch` meanwhile.

    Raises TenantFileError when the tenant file is wrong; a source elsewhere may be away, and is waited for by those who ask.
    """
    if settings.registry is None:
        yield FileDirectory(settings.tenants_file, clock=clock)
        return
    limits = CacheLimits(
        ttl_s=settings.registry_ttl_s,
        negative_ttl_s=settings.registry_negative_ttl_s,
        max_stale_s=settings.registry_max_stale_s,
        timeout_s=settings.registry_timeout_s,
        max_accounts=settings.registry_max_accounts,
    )
    async with (
        open_source(settings) as source,
        CachedDirectory(source, clock=clock, observer=observer, limits=limits) as directory,
    ):
        yield directory


def open_source(settings: Settings) -> AbstractAsyncContextManager[AccountSource]:
    """The source that `registry` names, without the cache; it connects when it is first asked. Raises ValueError without one."""
    address = settings.registry.get_secret_value() if settings.registry else ""
    scheme, _, rest = address.partition(":")
    timeout_s, poll_interval_s = settings.registry_timeout_s, settings.registry_poll_interval_s
    match scheme:
        case "dynamodb":
            from service.registry.dynamodb import DynamoDbSource

            region = settings.registry_dynamodb_region or settings.aws_sts_region
            return DynamoDbSource(
                table=rest,
                region=region,
                endpoint_url=settings.aws_endpoint_url_of("dynamodb", region),
                timeout_s=timeout_s,
                poll_interval_s=poll_interval_s,
                use_fips=settings.aws_use_fips_endpoint,
                use_dualstack=settings.aws_use_dualstack_endpoint,
            )
        case "postgresql" | "postgres":
            from service.registry.postgresql.source import PostgresqlSource

            return PostgresqlSource(
                dsn=address, password=registry_password(settings), timeout_s=timeout_s, poll_interval_s=poll_interval_s
            )
        case "https" | "http":
            from service.registry.http import HttpSource

            return HttpSource(
                url=address,
                token_file=settings.registry_token_file,
                timeout_s=timeout_s,
                poll_interval_s=poll_interval_s,
            )
        case _:
            raise ValueError(f"{scheme!r} is no kind of registry")


def registry_password(settings: Settings) -> str | None:
    """The password that is given apart from the DSN, if any."""
    return settings.registry_password.get_secret_value() if settings.registry_password else None
