"""`logwarden demo`: the real service against a local Kafka and a local AWS, with a proof at the end.

The service runs as the process that it would be in production, configured by its environment alone; nothing in it knows of the
sandbox. The proof reads the log groups back through DescribeLogGroups and the dead letters back from Kafka.
"""

import asyncio
import json
import secrets
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Final, Literal

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from service.sandbox.aws.faults import Faults
from service.sandbox.aws.sandbox import AwsSandbox
from service.sandbox.demo.report import Findings, problems, show
from service.sandbox.demo.scene import EXTERNAL_ID, REGIONS, ROLE, Group, Scene, build_scene
from service.sandbox.kafka.apache import start_apache
from service.sandbox.kafka.broker import LocalBroker, start_librdkafka
from service.sandbox.process import ServiceProcess, free_port
from service.settings import Settings
from service.stream.topics import topic_specs

_DONE_S: Final = 120.0  # four times what it takes; a demo that hangs must say so
_FAULTS: Final = Faults(
    operation="AssociateKmsKey",
    service_unavailable=0.05,
    operation_aborted=0.05,
    connection_reset=0.02,
    latency_s=(0.02, 0.12),
)


async def demo(
    *, console: Console, broker_kind: Literal["librdkafka", "apache"], is_kept: bool, groups_per_lane: int
) -> bool:
    """Run the demo; True if everything ended as it must. Everything that it starts has ended when it returns or is cancelled."""
    findings = Findings()
    if (this := asyncio.current_task()) is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal must not leave the service running
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    async with AsyncExitStack() as stack:
        console.print(f"Starting a local Kafka ([b]{broker_kind}[/b]) and a local AWS ...")
        start = start_apache if broker_kind == "apache" else start_librdkafka
        broker: LocalBroker = await stack.enter_async_context(start())
        aws = await stack.enter_async_context(AwsSandbox.start())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logwarden-demo-")))
        scene = await build_scene(aws, groups_per_lane=groups_per_lane)
        settings = _settings(folder, scene, broker, aws)
        await broker.create_topics({spec.name: spec.partitions for spec in topic_specs(settings)})
        await aws.inject(_FAULTS, seed=7)
        service = await stack.enter_async_context(
            ServiceProcess.start(settings, environment=aws.environment(REGIONS[0]), log=folder / "service.log")
        )
        await service.ready()
        console.print(f"The service is ready at {service.url} (process {service.pid}).")
        await _publish(settings, service.url, scene, findings)
        console.print(
            f"Published {len(scene.events)} CloudTrail events, {len(scene.irrelevant)} records of other services "
            f"and {len(scene.malformed)} that are no events. AWS fails 12 calls in 100 and allows 5 a second for each account and Region."
        )
        await _watch(settings, scene, findings, console)
        for group in scene.groups:
            findings.keys |= {group: (await aws.keys_of(group.account, group.region, [group.name])).get(group.name)}
        findings.calls = await aws.calls("AssociateKmsKey")
        show(console, scene, findings)
        if is_kept:
            await _keep(console, settings, service, aws)
        findings.exit_code = await service.terminate()
    wrong = list(problems(scene, findings))
    for problem in wrong:
        console.print(f"[red]✗[/red] {problem}")
    return not wrong


# -- the service


def _settings(folder: Path, scene: Scene, broker: LocalBroker, aws: AwsSandbox) -> Settings:
    (folder / "tenants.yaml").write_text(scene.tenant_file)
    (folder / "tokens").write_text(f"demo:{secrets.token_urlsafe(24)}\n")
    return Settings(
        kafka_bootstrap_servers=broker.bootstrap_servers,
        kafka_fetch_max_wait_ms=50,
        work_partitions=8,
        topic_partitions=4,
        topic_replication=1,
        retry_delays_s=[2.0, 4.0],
        tenants_file=folder / "tenants.yaml",
        api_token_file=folder / "tokens",
        aws_endpoint_url=aws.endpoint,
        aws_own_account=aws.account,
        aws_role_name=ROLE,
        aws_external_id=EXTERNAL_ID,
        http_host="127.0.0.1",
        http_port=free_port(),
        log_format="console",
    )


# -- what happens


async def _publish(settings: Settings, url: str, scene: Scene, findings: Findings) -> None:
    topic = settings.source_topics[0]
    async with _producer(settings) as producer:
        for group in scene.groups:
            findings.published_ms[group] = _now_ms()
        values = [*scene.events, *scene.irrelevant, *scene.malformed]
        sent = [await producer.send(topic, value, key=str(i).encode()) for i, value in enumerate(values)]
        await asyncio.gather(*sent)
    token = _token(settings)
    body = {"log_groups": [{"account": g.account, "region": g.region, "name": g.name} for g in scene.requested]}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.post("/v1/requests", json=body, headers={"Authorization": f"Bearer {token}"})
        answer.raise_for_status()


async def _watch(settings: Settings, scene: Scene, findings: Findings, console: Console) -> None:
    """Read outcomes and dead letters until every group has its last word, showing how many have."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[states]}"),
    )
    async with _consumer(settings) as consumer:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("log groups done", total=len(scene.groups), states="")
            deadline = time.monotonic() + _DONE_S
            while time.monotonic() < deadline:
                for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                    for record in records:
                        if tp.topic == settings.outcomes_topic:
                            _note(json.loads(record.value), findings)
                        else:
                            findings.dead_letters.append(
                                (record.value, {name: value.decode() for name, value in record.headers})
                            )
                states = Counter(str(outcome["state"]) for outcome in findings.outcomes.values())
                is_final = len(findings.outcomes) - states["deferred"]
                progress.update(
                    task, completed=is_final, states="  ".join(f"{n} {state}" for state, n in states.most_common())
                )
                if is_final == len(scene.groups) and len(findings.dead_letters) >= _dead_letters_expected(scene):
                    return


def _note(outcome: Mapping[str, Any], findings: Findings) -> None:
    """Keep an outcome, unless a later word of the same group says less: a duplicate event finds the group sealed already."""
    group = Group(outcome["account"], outcome["region"], outcome["log_group"])
    held = findings.outcomes.get(group)
    if held is None or held["state"] == "deferred":
        findings.outcomes[group] = outcome


def _dead_letters_expected(scene: Scene) -> int:
    return len(scene.malformed) + sum(e.state == "failed" for e in scene.groups.values())


def _producer(settings: Settings) -> AbstractAsyncContextManager[AIOKafkaProducer]:
    producer: AbstractAsyncContextManager[AIOKafkaProducer] = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, acks="all", linger_ms=5
    )
    return producer


def _consumer(settings: Settings) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
    consumer: AbstractAsyncContextManager[AIOKafkaConsumer] = AIOKafkaConsumer(
        settings.outcomes_topic,
        settings.dead_letter_topic,
        bootstrap_servers=settings.kafka_bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=50,
    )
    return consumer


# -- for those who stay


async def _keep(console: Console, settings: Settings, service: ServiceProcess, aws: AwsSandbox) -> None:
    url = service.url
    lines = {
        "Kafka": settings.kafka_bootstrap_servers,
        "AWS": aws.endpoint,
        "tenants": str(settings.tenants_file),
        "service log": str(service.log),
        "metrics": f"curl {url}/metrics",
        "ensure a group": f"""curl -X POST {url}/v1/requests -H 'Authorization: Bearer {_token(settings)}' -H 'Prefer: wait=10' \\
    -H 'Content-Type: application/json' -d '{{"log_groups": [{{"account": "111122223333", "region": "eu-west-1", "name": "/acme/checkout-000"}}]}}'""",
        "API": f"{url}/docs",
    }
    for name, value in lines.items():
        console.print(f"[b]{name}[/b]: {value}", highlight=False, soft_wrap=True)
    console.print("Everything keeps running until Ctrl-C.")
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def _token(settings: Settings) -> str:
    if settings.api_token_file is None:
        raise ValueError("the demo's service has no token")
    return settings.api_token_file.read_text().strip().partition(":")[2]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
