"""The `logwarden` command: what operators and developers type. Each command is thin; what it does lives elsewhere.

What a command needs is imported when it is run: the others start in a third of the time without it.
"""

import sys

import typer

from service.cli import check, console, dead_letters, ensure, pause, registry, run, sweep, topics
from service.cli.console import UsageError
from service.settings import SettingsError
from service.telemetry.logs import configure_logs

app = typer.Typer(
    name="logwarden",
    help="Keep every CloudWatch log group encrypted under its own tenant's KMS key.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for _command in (
    run.run,
    run.demo,
    ensure.ensure,
    sweep.sweep,
    sweep.rekey,
    pause.pause,
    pause.resume,
    check.check,
):
    app.command()(_command)
app.add_typer(topics.app, name="topics")
app.add_typer(registry.app, name="registry")
app.add_typer(dead_letters.app, name="dead-letters")


def main() -> None:
    """The entry point. A mistake of the user's is a sentence on stderr and exit status 2, never a traceback."""
    configure_logs(level="warning", form="console")  # to stderr; the service itself logs as its settings say
    try:
        app()
    except (SettingsError, UsageError) as e:
        console.complain(str(e))
        sys.exit(2)
