"""What the demo found, what is wrong with it, and how it is shown."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from service.sandbox.aws.calls import Call, overlaps
from service.sandbox.demo.scene import Group, Scene

_ROWS_SHOWN: Final = 3  # sealed log groups shown for each tenant and lane


@dataclass(slots=True)
class Findings:
    """What the demo saw: the last outcome of each group, when it was published and done (ms since 1970), and the dead letters."""

    published_ms: dict[Group, int] = field(default_factory=dict)
    outcomes: dict[Group, Mapping[str, Any]] = field(default_factory=dict)
    dead_letters: list[tuple[bytes | None, Mapping[str, str]]] = field(default_factory=list)
    keys: dict[Group, str | None] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    exit_code: int | None = None


def problems(scene: Scene, findings: Findings) -> Iterator[str]:
    """Everything that is not as it must be, one sentence each."""
    for group, expected in sorted(scene.groups.items()):
        outcome = findings.outcomes.get(group)
        if outcome is None:
            yield f"{group}: no outcome"
        elif (outcome["state"], outcome.get("failure", {}).get("class")) != (expected.state, expected.failure):
            yield f"{group}: {outcome['state']} {outcome.get('failure', {}).get('class', '')}, not {expected.state} {expected.failure or ''}"
        if findings.keys.get(group) != expected.key:
            yield f"{group}: AWS shows the key {findings.keys.get(group)}, not {expected.key}"
    malformed = Counter(
        value for value, headers in findings.dead_letters if headers["logwarden-class"] == "malformed-event"
    )
    if malformed != Counter(scene.malformed):
        yield f"of the {len(scene.malformed)} malformed records, {sum((malformed & Counter(scene.malformed)).values())} are dead letters, bytes unchanged"
    if twice := overlaps(findings.calls):
        yield f"{len(twice)} pairs of calls for one log group ran at once"
    if throttled := sum(call.is_throttled for call in findings.calls):
        yield f"{throttled} calls were over the quota"
    if findings.exit_code != 0:
        yield f"the service ended with status {findings.exit_code} after SIGTERM"


def show(console: Console, scene: Scene, findings: Findings) -> None:
    sealed = Table(
        title="Sealed, and after how many ms: read back through DescribeLogGroups",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("log group", "account and Region", "tenant", "key", "ms"):
        sealed.add_column(column, justify="right" if column == "ms" else "left", no_wrap=True)
    shown: Counter[tuple[str | None, str, str]] = Counter()
    for group, expected in sorted(
        scene.groups.items(), key=lambda item: (item[0].account, item[0].region, item[1].tenant or "")
    ):
        lane = (expected.tenant, group.account, group.region)
        if expected.state != "sealed" or shown[lane] >= _ROWS_SHOWN:
            continue
        shown[lane] += 1
        mark = "[green]✓[/green]" if findings.keys.get(group) == expected.key else "[red]✗[/red]"
        key = (findings.keys.get(group) or "none").rsplit("/", 1)[-1]
        sealed.add_row(
            group.name,
            f"{group.account} {group.region}",
            expected.tenant,
            f"{mark} {key[:6]}…",
            _sealed_in(group, findings),
        )
    console.print(sealed)
    right = [g for g, e in scene.groups.items() if e.state == "sealed" and findings.keys.get(g) == e.key]
    console.print(
        f"[b]{len(right)}[/b] of {sum(e.state == 'sealed' for e in scene.groups.values())} log groups are under their own tenant's key."
    )

    refused = Table(title="Left alone, and why", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("log group", "outcome", "why, and what to do"):
        refused.add_column(column)
    for group, expected in scene.groups.items():
        if expected.state != "sealed":
            _add_refusal(refused, group, findings.outcomes.get(group, {}))
    console.print(refused)
    reasons = Counter(
        headers["logwarden-reason"]
        for _, headers in findings.dead_letters
        if headers["logwarden-class"] == "malformed-event"
    )
    for reason, count in reasons.items():
        console.print(f"  {count} dead letter{'s' if count > 1 else ''}: [dim]{reason}[/dim]", highlight=False)
    failed = sum(not call.is_ok for call in findings.calls)
    console.print(
        f"{len(findings.calls)} AssociateKmsKey calls, {failed} failed by AWS, {sum(c.is_throttled for c in findings.calls)} throttled."
    )


def _add_refusal(table: Table, group: Group, outcome: Mapping[str, Any]) -> None:
    failure = outcome.get("failure")
    why = f"[b]{failure['class']}[/b] ({failure['fault']}): {failure['hint']}" if failure else outcome.get("detail", "")
    table.add_row(group.name, outcome.get("state", "none"), why)


def _sealed_in(group: Group, findings: Findings) -> str:
    outcome = findings.outcomes.get(group)
    return "?" if outcome is None else f"{outcome['at_ms'] - findings.published_ms[group]:,}"
