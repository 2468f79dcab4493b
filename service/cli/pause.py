"""`logwarden pause` and `logwarden resume`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from service.cli import console
from service.cli.arguments import TokenFile, Url, service_at
from service.cli.console import UsageError
from service.settings import load_settings


def pause(
    reason: Annotated[str, typer.Option(help="Why, for whoever wonders: one line of at most 500 characters.")],
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Let all replicas start nothing more, restarts included: over the REST API with --url, otherwise straight over Kafka."""
    _say_to_all(reason, url, token_file)


def resume(
    url: Url = None,
    token_file: TokenFile = None,
    force: Annotated[  # noqa: FBT002  typer makes a flag of it
        bool, typer.Option("--force", help="End the pause of somebody else, too.")
    ] = False,
) -> None:
    """Let all replicas go on: over the REST API with --url, otherwise straight over Kafka."""
    _say_to_all(None, url, token_file, is_forced=force)


def _say_to_all(reason: str | None, url: str | None, token_file: Path | None, *, is_forced: bool = False) -> None:
    from service.remote.pause import PauseError, say_by_kafka, say_by_rest
    from service.remote.rest import RestError

    service = service_at(url, token_file)
    try:
        said = (
            asyncio.run(say_by_kafka(load_settings(), reason, is_forced=is_forced))
            if service is None
            else say_by_rest(service, reason, is_forced=is_forced)
        )
    except (PauseError, RestError) as e:
        raise UsageError(str(e)) from e
    console.show(said)
