"""What several commands take: log groups, and the address of the service with a token for it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import UsageError
from service.domain.log_group import InvalidIdentityError, LogGroup
from service.remote.rest import Service

TOKEN_VARIABLE = "LOGWARDEN_TOKEN"  # noqa: S105  its name

Url = Annotated[
    str | None,
    typer.Option(help="Address of the service, such as http://localhost:8080; without it Kafka is told directly."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help=f"File with a bearer token for it, as the service has it, of which the first is taken; {TOKEN_VARIABLE} has it otherwise.",
        exists=True,
        dir_okay=False,
    ),
]


def service_at(url: str | None, token_file: Path | None) -> Service | None:
    """The service to ask over REST, None for straight over Kafka. Raises UsageError, which never shows a token."""
    if url is None:
        if token_file is not None:
            raise UsageError("--token-file is for the service at --url.")
        return None
    return Service(url=url, token=_token(token_file))


def _token(token_file: Path | None) -> str:
    from service.http.tokens import first_token  # brings the web framework along

    source: Path | str = token_file or TOKEN_VARIABLE
    try:
        text = token_file.read_text(encoding="ascii") if token_file else os.environ.get(TOKEN_VARIABLE, "")
        if not token_file and not text.strip():
            raise UsageError(f"No token: use --token-file or {TOKEN_VARIABLE}.")
        return first_token(text)
    except UnicodeDecodeError as e:
        raise UsageError(f"{source}: not all of it is ASCII") from e
    except (OSError, ValueError) as e:
        raise UsageError(f"{source}: {e}") from e


def log_groups_of(texts: Sequence[str], account: str | None, region: str | None) -> list[LogGroup]:
    """The log groups that names, of this account and Region, or ARNs stand for. Raises UsageError."""
    has_names = not all(text.startswith("arn:") for text in texts)
    if has_names and not (account and region):
        raise UsageError("A name needs --account and --region; an ARN says it all.")
    if not has_names and (account or region):
        raise UsageError("--account and --region are for names; an ARN says it all.")
    try:
        return [LogGroup.from_arn(t) if t.startswith("arn:") else LogGroup.of(account, region, t) for t in texts]
    except InvalidIdentityError as e:
        raise UsageError(str(e)) from e
