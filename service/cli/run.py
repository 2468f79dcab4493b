"""`logwarden run`, and `logwarden demo`, which runs the same service."""

import asyncio
import sys
from typing import Annotated, Literal

import typer

from service.cli import console
from service.cli.console import UsageError
from service.settings import load_settings


def run() -> None:
    """Run the service, as the LOGWARDEN_... environment says, until SIGTERM."""
    from service.app import run as run_service
    from service.formats import EventFormatsError
    from service.http.server import ListenError
    from service.registry.file import TenantFileError

    try:
        run_service(load_settings())
    except (TenantFileError, EventFormatsError, ListenError) as e:
        raise UsageError(str(e)) from e


def demo(
    kafka: Annotated[
        Literal["librdkafka", "apache"],
        typer.Option(
            help="Which local broker: [b]librdkafka[/b]'s built-in one, or real Apache Kafka (needs Java 17 and Maven)."
        ),
    ] = "librdkafka",
    keep: Annotated[  # noqa: FBT002  typer makes a flag of it
        bool, typer.Option("--keep", help="Leave everything running afterwards, and print addresses and curl lines.")
    ] = False,
    groups: Annotated[
        int, typer.Option(min=3, max=2000, help="Log groups for each account and Region, of which there are four.")
    ] = 50,
) -> None:
    """Run the real service against a local Kafka and a local AWS, and prove what it did."""
    try:
        from service.sandbox.demo.run import demo as run_demo  # the sandbox is an extra
        from service.sandbox.errors import SandboxError
    except ModuleNotFoundError as e:
        raise UsageError(f"The demo needs the sandbox ({e.name} is missing): pip install 'logwarden[sandbox]'") from e
    try:
        is_right = asyncio.run(run_demo(console=console.out, broker_kind=kafka, is_kept=keep, groups_per_lane=groups))
    except SandboxError as e:
        raise UsageError(str(e)) from e
    except asyncio.CancelledError:  # by SIGTERM or SIGHUP, after everything has been stopped
        sys.exit(1)
    sys.exit(0 if is_right else 1)
