"""`logwarden dead-letters`."""

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from service.cli.console import UsageError, say, warn
from service.domain.log_group import InvalidIdentityError, account_id
from service.domain.outcome import FailureClass
from service.domain.replay import DeadLetter, Selection
from service.settings import load_settings

app = typer.Typer(
    help="What could not be worked, and why; and back to work, once the cause is mended.", no_args_is_help=True
)

_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])\Z")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PLACE: Final = re.compile(r"[0-9]{1,9}/[0-9]{1,18}\Z")
_SHOWN: Final = 20  # of those that are left; a bad sender makes thousands alike

_Classes = Annotated[list[str] | None, typer.Option("--class", "-c", help="Only this failure class; may be repeated.")]
_Accounts = Annotated[
    list[str] | None,
    typer.Option(
        "--account",
        "-a",
        help="Only commands for this account, and events that have its id in their bytes; may be repeated.",
    ),
]
_Since = Annotated[
    str | None,
    typer.Option(help="Only what became one since then: 90m, 2h, 3d, or a time such as 2026-01-31T08:00Z."),
]
_Letters = Annotated[
    list[str] | None,
    typer.Option("--letter", help="Only the one at PARTITION/OFFSET, as [b]list[/b] shows it; may be repeated."),
]


@app.command("list")
def list_dead_letters(
    failure: _Classes = None,
    account: _Accounts = None,
    since: _Since = None,
    letter: _Letters = None,
    limit: Annotated[int, typer.Option(min=0, max=100_000, help="How many to show, the newest.")] = 50,
) -> None:
    """Show what is on the dead-letter topic: when, which class and fault, about what, why, and where it was before."""
    from service.remote.dead_letters import DeadLettersError, list_letters

    selection = _selection(failure, account, since, letter)
    try:
        listed = asyncio.run(list_letters(load_settings(), selection, limit=limit))
    except DeadLettersError as e:
        raise UsageError(str(e)) from e
    for each in listed.newest:
        _show(each)
    for label, count in listed.counts.most_common():
        say(f"{count} {label or 'of no class: not of this service'}", "bold")
    say(f"{listed.counts.total()} dead letters, of which {len(listed.newest)} are shown.")


@app.command("replay")
def replay_dead_letters(
    failure: _Classes = None,
    account: _Accounts = None,
    since: _Since = None,
    letter: _Letters = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many at the most; all of them where left out.")] = None,
    dry_run: Annotated[  # noqa: FBT002  typer makes a flag of it
        bool, typer.Option("--dry-run", help="Only say what would be replayed.")
    ] = False,
) -> None:
    """Write dead letters to the topics that they came from again, as they were, once their cause is mended.

    They stay on the dead-letter topic, and a repeat replays them again. That does no harm: a command asks for its log group to be looked
    at, 50 a call, and what is right stays as it is. The exit status is 1 where some of them could not be replayed.
    """
    from service.remote.dead_letters import DeadLettersError, replay

    selection = _selection(failure, account, since, letter)
    try:
        replayed = asyncio.run(replay(load_settings(), selection, limit=limit, is_dry_run=dry_run))
    except DeadLettersError as e:
        raise UsageError(str(e)) from e
    for (label, topic), count in sorted(replayed.counts.items()):
        say(f"{count} {label} {'would go' if dry_run else 'went'} to {topic}")
    for place, why in replayed.left[:_SHOWN]:
        warn(f"{place} is left: {why}")
    if (more := len(replayed.left) - _SHOWN) > 0:
        warn(f"and {more} more")
    say(
        f"{replayed.counts.total()} {'would be replayed' if dry_run else 'replayed'}, {len(replayed.left)} left.",
        "bold",
    )
    raise typer.Exit(1 if replayed.left else 0)


def _selection(
    failures: list[str] | None, accounts: list[str] | None, since: str | None, places: list[str] | None
) -> Selection:
    labels = {each.label for each in FailureClass}
    if unknown := set(failures or ()) - labels:
        raise UsageError(f"--class {min(unknown)}: has to be one of {', '.join(sorted(labels))}")
    if wrong := [place for place in places or () if not _PLACE.match(place)]:
        raise UsageError(f"--letter {wrong[0]}: has to be PARTITION/OFFSET")
    try:
        return Selection(
            failures=failures or (),
            accounts=[account_id(each) for each in accounts or ()],
            places=places or (),
            since_ms=0 if since is None else _ms_since_1970(since),
        )
    except InvalidIdentityError as e:
        raise UsageError(str(e)) from e


def _ms_since_1970(since: str) -> int:
    if ago := _AGO.match(since):
        return round((time.time() - timedelta(**{_UNITS[ago[2]]: int(ago[1])}).total_seconds()) * 1000)
    try:
        at = datetime.fromisoformat(since)
    except ValueError as e:
        raise UsageError(f"--since {since}: neither 90m, 2h or 3d ago nor a time such as 2026-01-31T08:00Z") from e
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _show(letter: DeadLetter) -> None:
    at = datetime.fromtimestamp(letter.at_ms / 1000, UTC).isoformat(timespec="seconds")
    says = letter.says
    about = letter.log_group.arn if letter.log_group else f"{letter.size} bytes"
    say(f"{at}  {letter.failure or '?'} ({says.get('fault', '?')})  {about}", "bold")
    field = f"{says['field']}: " if "field" in says else ""
    say(f"  {field}{says.get('reason', 'it says nothing of itself')}")
    came_from = f", came from {letter.came_from}" if letter.came_from else ""
    say(
        f"  {letter.place.partition}/{letter.place.offset} of {letter.place.topic}{came_from}, goes to {letter.topic or '?'}"
    )
