"""`logwarden check`: what the service would do, without doing it."""

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, assert_never

import typer

from service.cli.arguments import log_groups_of
from service.cli.console import UsageError, say
from service.domain.events import EventParser, Finding, Step
from service.domain.log_group import AccountId, LogGroup
from service.domain.tenancy import Decision, Excluded, Overwrite, Owned, TenantRules, Undecided
from service.settings import Settings, load_settings

_MAX_FINDINGS: Final = 20  # rules that a person can read; those that match come first
_UNLESS_KEPT: Final = {
    Overwrite.ALWAYS: "",
    Overwrite.WHEN_NO_KEY: "\nOnly if it has no key yet: the tenant's overwrite policy is when-no-key.",
    Overwrite.NEVER: "\nBut nothing is done: the tenant's overwrite policy is never.",
}


def check(
    log_group: Annotated[
        str | None,
        typer.Option("--log-group", "-g", help="Say what would happen to this log group: its name, or its ARN."),
    ] = None,
    account: Annotated[str | None, typer.Option("--account", "-a", help="Its account id, for a name.")] = None,
    region: Annotated[str | None, typer.Option("--region", "-r", help="Its Region, for a name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of it, KEY=VALUE; may be repeated.")] = None,
    event: Annotated[
        Path | None,
        typer.Option(help="Say step by step what would happen to the event in this file.", exists=True, dir_okay=False),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header of its Kafka record, KEY=VALUE; may be repeated.")
    ] = None,
) -> None:
    """Validate the settings and the tenant file, and say what would be done for a log group, or for an event.

    The exit status is 1 where a log group would get no key, or where the event, or a part of it, would become a dead letter; it is 0 for
    what is excluded or irrelevant. Nothing is called or changed.
    """
    from service.formats import EventFormatsError
    from service.registry.administration import RegistryCommandError
    from service.registry.file import TenantFileError

    if log_group is None and (account or region or tag):
        raise UsageError("--account, --region and --tag are of a log group: name it with --log-group.")
    if event is None and header:
        raise UsageError("--header is of an event: name its file with --event.")
    groups = [(g, _tags(tag)) for g in log_groups_of([] if log_group is None else [log_group], account, region)]
    settings = load_settings()
    try:
        steps = _steps(settings, event, header)
        groups += [(step.command.log_group, step.command.tags) for step in steps if step.command is not None]
        registry = asyncio.run(_rules_of(settings, {group.account for group, _ in groups}))
    except (TenantFileError, EventFormatsError, RegistryCommandError) as e:
        raise UsageError(str(e)) from e
    if settings.registry is None:
        say(f"Settings are valid. {settings.tenants_file} has {len(registry(None))} tenants.")
        for claim, earlier in registry(None).never_first():
            say(f"{claim} never decides: {earlier} has the same conditions and comes first", "yellow")
        for claim, regions in registry(None).without_key():
            where = ", ".join(regions)
            say(
                f"{claim} names {where}, where {claim.owner} has no key: a sweep looks there only when told to",
                "yellow",
            )
    else:
        say("Settings are valid." + ("" if groups else " Name a log group to ask the registry about it."))
    for step in steps:
        say(f"  {step.finding}: {step.path}: {step.text}" if step.path else f"  {step.finding}: {step.text}")
    are_right = [_explain(settings, registry(group.account), group, tags) for group, tags in groups]
    is_read = all(step.finding is not Finding.MALFORMED for step in steps)
    sys.exit(0 if is_read and all(are_right) else 1)


def _steps(settings: Settings, event: Path | None, headers: list[str] | None) -> Sequence[Step]:
    """What the service would find in an event, with the formats that it would use, which are read in any case. Raises EventFormatsError."""
    from service.formats import load_event_formats

    file = settings.event_formats_file
    parser = EventParser(formats=load_event_formats(file) if file else ())
    pairs = [_pair(text, "--header") for text in headers or ()]
    return parser.explain(event.read_bytes(), [(name, text.encode()) for name, text in pairs]) if event else ()


async def _rules_of(settings: Settings, accounts: Collection[AccountId]) -> Callable[[AccountId | None], TenantRules]:
    """The rules on each account: those of the tenant file are the same for all."""
    from service.registry.administration import rules_on
    from service.registry.file import load_tenant_file

    if settings.registry is None:
        rules = load_tenant_file(settings.tenants_file)
        return lambda _: rules
    by_account: dict[AccountId | None, TenantRules] = {each: await rules_on(settings, each) for each in accounts}
    return by_account.__getitem__


def _explain(settings: Settings, rules: TenantRules, group: LogGroup, tags: Mapping[str, str] | None) -> bool:
    """Say what would be done for a log group and why; false where it would get no key though it is nobody's to leave alone."""
    findings = sorted(rules.explain(group, tags), key=lambda finding: not finding.is_match)
    for finding in findings[:_MAX_FINDINGS]:
        note = f" ({finding.note})" if finding.note else ""
        say(f"  {finding.subject}: {finding.why_not or 'matches'}{note}", "" if finding.why_not else "bold")
    if (more := len(findings) - _MAX_FINDINGS) > 0:
        say(f"  and {more} more")
    decision = rules.decide(group, tags)
    say(_verdict(settings, group, decision))
    if tags is None and rules.depends_on_tags(group):
        say("Its tags may change this; give them with --tag KEY=VALUE.", "yellow")
    return not isinstance(decision, Undecided)


def _tags(pairs: list[str] | None) -> Mapping[str, str] | None:
    return None if pairs is None else dict(_pair(text, "--tag") for text in pairs)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{option} {text}: has to be KEY=VALUE")
    return name, value


def _verdict(settings: Settings, group: LogGroup, decision: Decision) -> str:
    match decision:
        case Owned(tenant, key, rule, overwrite):
            goes, note = ("would go", " (dry run: nothing is called)") if settings.dry_run else ("goes", "")
            return f"{group.arn}\n{goes} under {key}, the key of tenant {tenant}, by {rule}{note}.{_UNLESS_KEPT[overwrite]}"
        case Excluded(reason):
            return f"{group.arn}\nis left alone: {reason}."
        case Undecided(failure, detail):
            return f"{group.arn}\ngets no key: {failure.label} ({failure.fault.value}): {detail}. {failure.hint}"
        case _:
            assert_never(decision)
