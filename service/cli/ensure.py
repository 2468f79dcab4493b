"""`logwarden ensure`."""

import asyncio
import sys
from typing import Annotated, Final

import typer

from service.cli import console
from service.cli.arguments import TokenFile, Url, log_groups_of, service_at
from service.cli.console import UsageError
from service.settings import load_settings

_WAIT_S: Final = 20  # what most log groups need, a first retry left out


def ensure(
    log_groups: Annotated[
        list[str], typer.Argument(metavar="LOG_GROUP...", help="Names of log groups, or their ARNs.")
    ],
    account: Annotated[str | None, typer.Option("--account", "-a", help="Account id, for names.")] = None,
    region: Annotated[str | None, typer.Option("--region", "-r", help="Region, for names.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    wait: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help=f"How long to wait for the outcomes, {_WAIT_S} where left out; the exit status is 1 unless all are right by then.",
            min=0,
            max=3600,
        ),
    ] = None,
) -> None:
    """Ensure log groups by hand: over the REST API with --url, otherwise straight onto the work topic."""
    from service.remote.ensure import EnsureError, ensure_by_kafka, ensure_by_rest, is_right
    from service.remote.rest import RestError

    groups = log_groups_of(log_groups, account, region)
    service = service_at(url, token_file)
    if service is None and wait is not None:
        raise UsageError("--wait needs --url: over Kafka the outcomes topic will tell.")
    wait_s = _WAIT_S if wait is None else wait
    try:
        if service is None:
            asyncio.run(ensure_by_kafka(load_settings(), groups))
            console.say(f"{len(groups)} command(s) written; the outcomes topic will tell.")
            return
        request = ensure_by_rest(service, groups, wait_s=wait_s)
    except (EnsureError, RestError) as e:
        raise UsageError(str(e)) from e
    console.show(request)
    sys.exit(1 if wait_s and not is_right(request) else 0)
