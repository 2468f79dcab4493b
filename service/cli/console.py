"""What the commands print: answers on stdout, all else on stderr."""

import json
from typing import Any

from rich.console import Console

out = Console()
_err = Console(stderr=True)


class UsageError(Exception):
    """The command cannot do what was asked; the text says why."""


def say(text: str, style: str = "") -> None:
    """Print for people, as it is: nothing is wrapped, so that an ARN can be copied, and nothing in it is markup."""
    out.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def show(document: dict[str, Any]) -> None:
    """Print an answer as JSON."""
    out.print_json(json.dumps(document))


def tell(text: str) -> None:
    """Say what happens meanwhile."""
    _err.print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Say what may turn out to be wrong."""
    _err.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Say what was wrong."""
    _err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
