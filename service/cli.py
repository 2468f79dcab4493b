"""The `logwarden` command: what operators and developers type. Each command is thin; what it does lives elsewhere."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never

import httpx
import typer
from aiokafka.errors import KafkaError
from rich.console import Console

from service.domain.command import EnsureCommand, Trigger
from service.domain.events import EventParser
from service.domain.log_group import AccountId, InvalidIdentityError, LogGroup, TenantId, account_id, region_name
from service.domain.tenancy import Decision, Excluded, Overwrite, Owned, TenantRules, Undecided
from service.ports import OutgoingRecord
from service.settings import Settings, SettingsError, load_settings

app = typer.Typer(
    name="logwarden",
    help="Keep every CloudWatch log group encrypted under its own tenant's KMS key.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
topics_app = typer.Typer(help="The Kafka topics that the service uses.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
registry_app = typer.Typer(help="The tenant registry, where it is not the tenant file.", no_args_is_help=True)
app.add_typer(registry_app, name="registry")

_MAX_FINDINGS = 20  # rules that a person can read; those that match come first
_UNLESS_KEPT = {
    Overwrite.ALWAYS: "",
    Overwrite.WHEN_NO_KEY: "\nOnly if it has no key yet: the tenant's overwrite policy is when-no-key.",
    Overwrite.NEVER: "\nBut nothing is done: the tenant's overwrite policy is never.",
}
_KAFKA_TIMEOUT_S = 30.0  # a person is waiting; a broker's failover takes a few seconds

_out = Console()
_err = Console(stderr=True)


def main() -> None:
    """The entry point. A mistake of the user's is a sentence on stderr and exit status 2, never a traceback."""
    try:
        app()
    except (SettingsError, UsageError) as e:
        _err.print(str(e), style="red", markup=False, highlight=False)
        sys.exit(2)


class UsageError(Exception):
    """The command cannot do what was asked; the text says why."""


@app.command()
def run() -> None:
    """Run the service, as the LOGWARDEN_... environment says, until SIGTERM."""
    from service.app import run as run_service  # noqa: PLC0415  the other commands start in a third of the time without it
    from service.formats import EventFormatsError  # noqa: PLC0415
    from service.http.server import ListenError  # noqa: PLC0415
    from service.registry.file import TenantFileError  # noqa: PLC0415

    try:
        run_service(load_settings())
    except (TenantFileError, EventFormatsError, ListenError) as e:
        raise UsageError(str(e)) from e


@app.command()
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
        from service.sandbox.demo.run import demo as run_demo  # noqa: PLC0415  the sandbox is an extra
        from service.sandbox.errors import SandboxError  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise UsageError(f"The demo needs the sandbox ({e.name} is missing): pip install 'logwarden[sandbox]'") from e
    try:
        is_right = asyncio.run(run_demo(console=_out, broker_kind=kafka, is_kept=keep, groups_per_lane=groups))
    except SandboxError as e:
        raise UsageError(str(e)) from e
    except asyncio.CancelledError:  # by SIGTERM or SIGHUP, after everything has been stopped
        sys.exit(1)
    sys.exit(0 if is_right else 1)


@app.command()
def ensure(
    log_groups: Annotated[
        list[str], typer.Argument(metavar="LOG_GROUP...", help="Names of log groups, or their ARNs.")
    ],
    account: Annotated[str | None, typer.Option("--account", "-a", help="Account id, for names.")] = None,
    region: Annotated[str | None, typer.Option("--region", "-r", help="Region, for names.")] = None,
    url: Annotated[str | None, typer.Option(help="Address of the service, such as http://localhost:8080.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a bearer token for it.", exists=True, dir_okay=False)
    ] = None,
    wait: Annotated[int, typer.Option(help="Seconds to wait for the outcomes.", min=0, max=300)] = 20,
) -> None:
    """Ensure log groups by hand: over the REST API with --url, otherwise straight onto the work topic."""
    if not (account and region) and not all(each.startswith("arn:") for each in log_groups):
        raise UsageError("A name needs --account and --region; an ARN says it all.")
    try:
        groups = [LogGroup.from_arn(g) if g.startswith("arn:") else LogGroup.of(account, region, g) for g in log_groups]
    except InvalidIdentityError as e:
        raise UsageError(str(e)) from e
    if url is None:
        settings = load_settings()
        try:
            asyncio.run(asyncio.wait_for(_ensure_by_kafka(settings, groups), _KAFKA_TIMEOUT_S))
        except TimeoutError as e:
            raise UsageError(
                f"{settings.kafka_bootstrap_servers} does not acknowledge; some commands may be written"
            ) from e
        _out.print(f"{len(groups)} command(s) written; the outcomes topic will tell.")
        return
    answer = _ensure_by_rest(url, token_file, groups, wait)
    _out.print_json(json.dumps(answer))
    states = {g["state"] for g in answer.get("log_groups", [{"state": "failed"}])}
    sys.exit(0 if states <= {"sealed", "already-sealed", "excluded", "would-seal", "kept"} else 1)


async def _ensure_by_kafka(settings: Settings, groups: list[LogGroup]) -> None:
    from service.clock import LoopClock  # noqa: PLC0415
    from service.stream.connection import client_arguments  # noqa: PLC0415
    from service.stream.publisher import KafkaPublisher  # noqa: PLC0415

    at_ms = LoopClock().epoch_ms()
    commands = [EnsureCommand(log_group=group, trigger=Trigger.REQUEST, accepted_at_ms=at_ms) for group in groups]
    async with KafkaPublisher(client_arguments(settings)) as publisher:
        records = [
            OutgoingRecord(settings.work_topic, command.partition_key, command.to_bytes()) for command in commands
        ]
        await asyncio.gather(*map(publisher.publish, records))


def _ensure_by_rest(url: str, token_file: Path | None, groups: list[LogGroup], wait_s: int) -> dict[str, Any]:
    token = _token(token_file)
    body = {"log_groups": [{"arn": group.arn} for group in groups]}
    headers = {"Authorization": f"Bearer {token}"} | ({"Prefer": f"wait={wait_s}"} if wait_s else {})
    try:
        response = httpx.post(f"{url.rstrip('/')}/v1/requests", json=body, headers=headers, timeout=wait_s + 30)
    except httpx.InvalidURL as e:
        raise UsageError(f"{url} is no address: {e}") from e
    except httpx.HTTPError as e:
        raise UsageError(f"{url} does not answer: {e}") from e
    answer: dict[str, Any] = response.json() if response.headers.get("content-type", "").endswith("json") else {}
    if response.is_error:
        raise UsageError(
            f"{response.status_code}: {answer.get('title', response.reason_phrase)}. {answer.get('detail', '')}"
        )
    return answer


_Url = Annotated[str | None, typer.Option(help="Address of the service, such as http://localhost:8080.")]
_TokenFile = Annotated[Path | None, typer.Option(help="File with a bearer token for it.", exists=True, dir_okay=False)]
_Accounts = Annotated[list[str] | None, typer.Option("--account", "-a", help="Only this account; may be repeated.")]
_Regions = Annotated[list[str] | None, typer.Option("--region", "-r", help="Only this Region; may be repeated.")]
_Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the end; the exit status then says whether all is right.")
]


@app.command()
def sweep(
    account: _Accounts = None,
    region: _Regions = None,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Only this tenant's log groups.")] = None,
    url: _Url = None,
    token_file: _TokenFile = None,
    wait: _Wait = False,  # noqa: FBT002  typer makes a flag of it
) -> None:
    """Look at every log group there is, and ensure those that are not under their tenant's key.

    Over the REST API with --url, otherwise straight onto the work topic, with the registry that the settings name.
    """
    _sweep(account, region, tenant, url=url, token_file=token_file, is_awaited=wait)


@app.command()
def rekey(
    tenant: Annotated[str, typer.Argument(help="The tenant whose key has changed in the registry.")],
    account: _Accounts = None,
    region: _Regions = None,
    url: _Url = None,
    token_file: _TokenFile = None,
    wait: _Wait = False,  # noqa: FBT002  typer makes a flag of it
) -> None:
    """Bring every log group of a tenant under the key that the registry has for it now, as [b]sweep --tenant[/b] does.

    The old key has to stay enabled for as long as data written before are retained; the answer and the outcomes name it.
    """
    _sweep(account, region, tenant, url=url, token_file=token_file, is_awaited=wait)


def _sweep(
    accounts: list[str] | None,
    regions: list[str] | None,
    tenant: str | None,
    *,
    url: str | None,
    token_file: Path | None,
    is_awaited: bool,
) -> None:
    from service.registry.file import TenantFileError  # noqa: PLC0415
    from service.sweep_command import SweepError, Wanted, is_right, sweep_by_kafka, sweep_by_rest  # noqa: PLC0415
    from service.telemetry.logs import configure_logs  # noqa: PLC0415

    try:
        wanted = Wanted(
            accounts=[account_id(each) for each in accounts or ()],
            regions=[region_name(each) for each in regions or ()],
            tenant=None if tenant is None else TenantId(tenant),
        )
    except InvalidIdentityError as e:
        raise UsageError(str(e)) from e

    if url is None:
        configure_logs(level="warning", form="console")  # what the answer is not made of goes to stderr

    async def follow() -> dict[str, Any]:
        status: dict[str, Any] = {}
        statuses = (
            sweep_by_kafka(load_settings(), wanted, is_awaited=is_awaited)
            if url is None
            else sweep_by_rest(url, _token(token_file), wanted, is_awaited=is_awaited)
        )
        async with aclosing(statuses):
            async for status in statuses:
                lanes = status["lanes"]
                progress = (
                    f"{status['id']}: {lanes['total'] - lanes['pending']} of {lanes['total']} lanes, {status['counts']}"
                )
                _err.print(progress, markup=False, highlight=False)
        return status

    try:
        status = asyncio.run(follow())
    except (SweepError, TenantFileError) as e:
        raise UsageError(str(e)) from e
    _out.print_json(json.dumps(status))
    sys.exit(1 if is_awaited and not is_right(status) else 0)


@app.command()
def pause(
    reason: Annotated[str, typer.Option(help="Why, for whoever wonders: one line of at most 500 characters.")],
    url: _Url = None,
    token_file: _TokenFile = None,
) -> None:
    """Let all replicas start nothing more, restarts included: over the REST API with --url, otherwise straight over Kafka."""
    _say_to_all(reason, url, token_file)


@app.command()
def resume(url: _Url = None, token_file: _TokenFile = None) -> None:
    """Let all replicas go on: over the REST API with --url, otherwise straight over Kafka."""
    _say_to_all(None, url, token_file)


def _say_to_all(reason: str | None, url: str | None, token_file: Path | None) -> None:
    from service.pause_command import PauseError, say_by_kafka, say_by_rest  # noqa: PLC0415

    try:
        said = (
            asyncio.run(say_by_kafka(load_settings(), reason))
            if url is None
            else say_by_rest(url, _token(token_file), reason)
        )
    except PauseError as e:
        raise UsageError(str(e)) from e
    _out.print_json(json.dumps(said))


def _token(token_file: Path | None) -> str:
    return token_file.read_text().strip().rpartition(":")[2] if token_file else os.environ.get("LOGWARDEN_TOKEN", "")


@app.command()
def check(
    log_group: Annotated[
        str | None, typer.Option("--log-group", "-g", help="Say what would happen to this log group.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", "-a", help="Its account id.")] = None,
    region: Annotated[str | None, typer.Option("--region", "-r", help="Its Region.")] = None,
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

    Nothing is called or changed.
    """
    from service.formats import EventFormatsError  # noqa: PLC0415
    from service.registry.administration import RegistryCommandError  # noqa: PLC0415
    from service.registry.file import TenantFileError  # noqa: PLC0415

    settings = load_settings()
    try:
        groups = [(LogGroup.of(account, region, log_group), _tags(tag))] if log_group is not None else []
        parser = _parser(settings)
        headers = [_pair(text, "--header") for text in header or ()]
        steps = [] if event is None else parser.explain(event.read_bytes(), [(n, text.encode()) for n, text in headers])
        groups += [(step.command.log_group, step.command.tags) for step in steps if step.command is not None]
        registry = asyncio.run(_rules_of(settings, {group.account for group, _ in groups}))
    except (TenantFileError, EventFormatsError, RegistryCommandError, InvalidIdentityError) as e:
        raise UsageError(str(e)) from e
    if settings.registry is None:
        _say(f"Settings are valid. {settings.tenants_file} has {len(registry(None))} tenants.")
        for claim, earlier in registry(None).never_first():
            _say(f"{claim} never decides: {earlier} has the same conditions and comes first", "yellow")
    else:
        _say("Settings are valid." + ("" if groups else " Name a log group to ask the registry about it."))
    for step in steps:
        _say(f"  {step.finding}: {step.path}: {step.text}" if step.path else f"  {step.finding}: {step.text}")
    sys.exit(max([_explain(settings, registry(group.account), group, tags) for group, tags in groups], default=0))


def _parser(settings: Settings) -> EventParser:
    """What reads events, as the service would build it. Raises EventFormatsError."""
    from service.formats import load_event_formats  # noqa: PLC0415

    return EventParser(formats=load_event_formats(settings.event_formats_file) if settings.event_formats_file else ())


async def _rules_of(settings: Settings, accounts: Collection[AccountId]) -> Callable[[AccountId | None], TenantRules]:
    """The rules on each account: those of the tenant file are the same for all."""
    from service.registry.administration import rules_on  # noqa: PLC0415
    from service.registry.file import load_tenant_file  # noqa: PLC0415

    if settings.registry is None:
        rules = load_tenant_file(settings.tenants_file)
        return lambda _: rules
    by_account: dict[AccountId | None, TenantRules] = {each: await rules_on(settings, each) for each in accounts}
    return by_account.__getitem__


def _explain(settings: Settings, rules: TenantRules, group: LogGroup, tags: Mapping[str, str] | None) -> int:
    """Say what would be done for a log group and why; the exit status is 1 where it would get no key."""
    findings = sorted(rules.explain(group, tags), key=lambda finding: not finding.is_match)
    for finding in findings[:_MAX_FINDINGS]:
        note = f" ({finding.note})" if finding.note else ""
        _say(f"  {finding.subject}: {finding.why_not or 'matches'}{note}", "" if finding.why_not else "bold")
    if (more := len(findings) - _MAX_FINDINGS) > 0:
        _say(f"  and {more} more")
    decision = rules.decide(group, tags)
    _say(_verdict(settings, group, decision))
    if tags is None and rules.depends_on_tags(group):
        _say("Its tags may change this; give them with --tag KEY=VALUE.", "yellow")
    return 1 if isinstance(decision, Undecided) else 0


def _say(text: str, style: str = "") -> None:
    """Print for people, as it is: nothing is wrapped, so that an ARN can be copied, and nothing in it is markup."""
    _out.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


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
            action = "would be left as it is (dry run)" if settings.dry_run else "goes"
            return f"{group.arn}\n{action} under {key}, the key of tenant {tenant}, by {rule}.{_UNLESS_KEPT[overwrite]}"
        case Excluded(reason):
            return f"{group.arn}\nis left alone: {reason}."
        case Undecided(failure, detail):
            return f"{group.arn}\ngets no key: {failure.label} ({failure.fault.value}): {detail}. {failure.hint}"
        case _:
            assert_never(decision)


@topics_app.command("create")
def create() -> None:
    """Create the topics that do not exist yet; those that do are left as they are."""
    from service.stream.connection import client_arguments  # noqa: PLC0415
    from service.stream.topics import TopicError, create_topics, topic_specs  # noqa: PLC0415

    settings = load_settings()
    try:
        results = asyncio.run(
            create_topics(client_arguments(settings), topic_specs(settings), replication=settings.topic_replication)
        )
    except (KafkaError, TopicError, OSError) as e:
        raise UsageError(f"{settings.kafka_bootstrap_servers}: {e}") from e
    for name, result in results.items():
        _out.print(f"{name}: {result}", highlight=False)


@topics_app.command("list")
def list_topics() -> None:
    """Show the topics, with the partitions and settings that they would be created with."""
    from service.stream.topics import topic_specs  # noqa: PLC0415

    for spec in topic_specs(load_settings()):
        config = " ".join(f"{name}={value}" for name, value in spec.config.items())
        _out.print(f"{spec.name}  {spec.partitions} partitions  {config}", highlight=False)


@registry_app.command("migrate")
def migrate_registry() -> None:
    """Bring a PostgreSQL registry to this release's schema. A repeat changes nothing."""
    from service.registry.administration import RegistryCommandError, migrate  # noqa: PLC0415

    try:
        applied = asyncio.run(migrate(load_settings()))
    except RegistryCommandError as e:
        raise UsageError(str(e)) from e
    _out.print("\n".join(applied) or "The schema is up to date.", highlight=False)


@registry_app.command("load")
def load_registry(
    tenants: Annotated[Path, typer.Argument(help="A tenant file, or a folder of them.")],
    force: Annotated[  # noqa: FBT002  typer makes a flag of it
        bool, typer.Option("--force", help="DynamoDB: go on where an earlier load was interrupted.")
    ] = False,
) -> None:
    """Make a DynamoDB or PostgreSQL registry hold what a tenant file holds, and nothing else."""
    from service.registry.administration import RegistryCommandError, load  # noqa: PLC0415
    from service.registry.file import TenantFileError  # noqa: PLC0415

    try:
        count = asyncio.run(load(load_settings(), tenants, is_forced=force))
    except (RegistryCommandError, TenantFileError) as e:
        raise UsageError(str(e)) from e
    _out.print(f"{count} tenants.", highlight=False)
