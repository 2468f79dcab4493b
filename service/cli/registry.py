"""`logwarden registry`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import UsageError, say
from service.settings import load_settings

app = typer.Typer(help="The tenant registry, where it is not the tenant file.", no_args_is_help=True)


@app.command("migrate")
def migrate_registry() -> None:
    """Bring a PostgreSQL registry to this release's schema. A repeat changes nothing."""
    from service.registry.administration import RegistryCommandError, migrate

    try:
        applied = asyncio.run(migrate(load_settings()))
    except RegistryCommandError as e:
        raise UsageError(str(e)) from e
    say("\n".join(applied) or "The schema is up to date.")


@app.command("load")
def load_registry(
    tenants: Annotated[Path, typer.Argument(help="A tenant file, or a folder of them.")],
    force: Annotated[  # noqa: FBT002  typer makes a flag of it
        bool, typer.Option("--force", help="DynamoDB: go on where an earlier load was interrupted.")
    ] = False,
) -> None:
    """Make a DynamoDB or PostgreSQL registry hold what a tenant file holds, and nothing else."""
    from service.registry.administration import RegistryCommandError, load
    from service.registry.file import TenantFileError

    try:
        count = asyncio.run(load(load_settings(), tenants, is_forced=force))
    except (RegistryCommandError, TenantFileError) as e:
        raise UsageError(str(e)) from e
    say(f"{count} tenants.")
