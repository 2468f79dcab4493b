"""The `logwarden` command: what operators and developers type. Each command is thin; what it does lives elsewhere."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never

import httpx
import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.markup import escape

from service.domain.command import EnsureCommand, Trigger
from service.domain.log_group import InvalidIdentityError, LogGroup
from service.domain.tenancy import Decision, Excluded, Owned, Undecided
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
    from service.http.server import ListenError  # noqa: PLC0415
    from service.registry.file import TenantFileError  # noqa: PLC0415

    try:
        run_service(load_settings())
    except (TenantFileError, ListenError) as e:
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
    sys.exit(0 if states <= {"sealed", "already-sealed", "excluded", "would-seal"} else 1)


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
    token = token_file.read_text().strip().rpartition(":")[2] if token_file else os.environ.get("LOGWARDEN_TOKEN", "")
    body = {"log_groups": [{"arn": group.arn} for group in groups]}
    headers = {"Authorization": f"Bearer {token}"} | ({"Prefer": f"wait={wait_s}"} if wait_s else {})
    try:
        response = httpx.post(f"{url.rstrip('/')}/v1/requests", json=body, headers=headers, timeout=wait_s + 30)
    except httpx.HTTPError as e:
        raise UsageError(f"{url} does not answer: {e}") from e
    answer: dict[str, Any] = response.json() if response.headers.get("content-type", "").endswith("json") else {}
    if response.is_error:
        raise UsageError(
            f"{response.status_code}: {answer.get('title', response.reason_phrase)}. {answer.get('detail', '')}"
        )
    return answer


@app.command()
def check(
    log_group: Annotated[
        str | None, typer.Option("--log-group", "-g", help="Say what would happen to this log group.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", "-a", help="Its account id.")] = None,
    region: Annotated[str | None, typer.Option("--region", "-r", help="Its Region.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of it, KEY=VALUE; may be repeated.")] = None,
) -> None:
    """Validate the settings and the tenant file, and say what would be done for a log group. Nothing is called or changed."""
    from service.registry.file import TenantFileError, load_tenant_file  # noqa: PLC0415

    settings = load_settings()
    try:
        rules = load_tenant_file(settings.tenants_file)
        group = LogGroup.of(account, region, log_group) if log_group is not None else None
    except (TenantFileError, InvalidIdentityError) as e:
        raise UsageError(str(e)) from e
    _out.print(f"Settings are valid. {escape(str(settings.tenants_file))} has {len(rules)} tenants.", highlight=False)
    if group is None:
        return
    tags = None if tag is None else dict(_tag(text) for text in tag)
    for finding in rules.explain(group, tags):
        why_not = escape(finding.why_not) if finding.why_not else "[b]matches[/b]"
        _out.print(f"  {escape(finding.subject)}: {why_not}", highlight=False)
    decision = rules.decide(group, tags)
    _out.print(_verdict(settings, group, decision), highlight=False)
    if tags is None and rules.depends_on_tags(group):
        _out.print("Its tags may change this; give them with --tag KEY=VALUE.", style="yellow")
    sys.exit(1 if isinstance(decision, Undecided) else 0)


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--tag {text}: a tag is KEY=VALUE")
    return name, value


def _verdict(settings: Settings, group: LogGroup, decision: Decision) -> str:
    match decision:
        case Owned(tenant, key, rule):
            action = "would be left as it is (dry run)" if settings.dry_run else "goes"
            return f"{group.arn}\n{action} under [b]{key}[/b], the key of tenant [b]{escape(tenant)}[/b], by {escape(rule)}."
        case Excluded(reason):
            return f"{group.arn}\nis left alone: {escape(reason)}."
        case Undecided(failure, detail):
            return f"{group.arn}\ngets no key: [b]{failure.label}[/b] ({failure.fault.value}): {escape(detail)}. {failure.hint}"
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
