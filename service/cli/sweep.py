"""`logwarden sweep` and `logwarden rekey`."""

import asyncio
import sys
from contextlib import aclosing
from typing import Annotated, Any

import typer

from service.cli import console
from service.cli.arguments import TokenFile, Url, service_at
from service.cli.console import UsageError
from service.domain.log_group import InvalidIdentityError, TenantId, account_id, region_name
from service.remote.rest import Service
from service.settings import load_settings

_Accounts = Annotated[list[str] | None, typer.Option("--account", "-a", help="Only this account; may be repeated.")]
_Regions = Annotated[
    list[str] | None,
    typer.Option("--region", "-r", help="Only this Region, with a key there or without; may be repeated."),
]
_Wait = Annotated[
    int,
    typer.Option(
        metavar="SECONDS",
        help="How long to wait for the end; the exit status is 1 unless all is right by then. It goes on without us.",
        min=0,
    ),
]


def sweep(
    account: _Accounts = None,
    region: _Regions = None,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Only this tenant's log groups.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    wait: _Wait = 0,
) -> None:
    """Look at every log group there is, and ensure those that are not under their tenant's key.

    Over the REST API with --url, otherwise straight onto the work topic, with the registry that the settings name.
    """
    _sweep(account, region, tenant, service=service_at(url, token_file), wait_s=wait)


def rekey(
    tenant: Annotated[str, typer.Argument(help="The tenant whose key has changed in the registry.")],
    account: _Accounts = None,
    region: _Regions = None,
    url: Url = None,
    token_file: TokenFile = None,
    wait: _Wait = 0,
) -> None:
    """Bring every log group of a tenant under the key that the registry has for it now, as [b]sweep --tenant[/b] does.

    The old key has to stay enabled for as long as data written before are retained; the answer and the outcomes name it.
    """
    _sweep(account, region, tenant, service=service_at(url, token_file), wait_s=wait)


def _sweep(
    accounts: list[str] | None, regions: list[str] | None, tenant: str | None, *, service: Service | None, wait_s: int
) -> None:
    from service.registry.file import TenantFileError
    from service.remote.rest import RestError
    from service.remote.sweep import SweepError, Wanted, is_right, sweep_by_kafka, sweep_by_rest

    try:
        wanted = Wanted(
            accounts=[account_id(each) for each in accounts or ()],
            regions=[region_name(each) for each in regions or ()],
            tenant=None if tenant is None else TenantId(tenant),
        )
    except InvalidIdentityError as e:
        raise UsageError(str(e)) from e

    async def follow() -> dict[str, Any]:
        status: dict[str, Any] = {}
        statuses = (
            sweep_by_kafka(load_settings(), wanted, wait_s=wait_s)
            if service is None
            else sweep_by_rest(service, wanted, wait_s=wait_s)
        )
        async with aclosing(statuses):
            async for status in statuses:
                lanes = status["lanes"]
                done = lanes["total"] - lanes["pending"]
                console.tell(f"{status['id']}: {done} of {lanes['total']} lanes, {status['counts']}")
        return status

    try:
        status = asyncio.run(follow())
    except (SweepError, RestError, TenantFileError) as e:
        raise UsageError(str(e)) from e
    console.show(status)
    sys.exit(1 if wait_s and not is_right(status) else 0)
