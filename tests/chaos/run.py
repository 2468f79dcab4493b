"""The chaos run: replicas come, go and are killed, the broker goes away, answers late or not at all, AWS fails, and at the end every
log group is sealed.

What happens, and in which order, follows from the seed; when exactly it meets the work does not, as in life.
"""

import asyncio
import json
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.ports import OutgoingRecord
from service.sandbox.aws.calls import Call, overlaps
from service.sandbox.aws.faults import Faults
from service.sandbox.aws.sandbox import AwsSandbox
from service.sandbox.process import ServiceProcess
from service.stream.connection import client_arguments
from service.stream.publisher import KafkaPublisher
from tests.chaos.network import Network
from tests.support.deployment import Deployment
from tests.support.kafka_proxy import apache_behind_proxies, through
from tests.support.organisation import Group, Organisation, created
from tests.support.tcp_proxy import TcpProxy

MAX_REPLICAS = 4
EACH_ONCE = ("kill", "terminate", "broker", "outage", "slow")  # to a fleet that works, before the dice have their way
RATE_PER_S = 60.0
_KINDS = ("grow", "grow", "terminate", "kill", "broker", "outage", "slow", "hang", "hang")
_CALM_FROM = 0.1  # of the log groups
_FAILING = Faults(
    service="logs", service_unavailable=0.1, operation_aborted=0.05, connection_reset=0.05, latency_s=(0.0, 0.1)
)
_OUTAGE = Faults(service="logs", outage="unavailable")


@dataclass(slots=True)
class Report:
    """What happened, what was wrong at the end, and what it cost."""

    seed: int
    groups: int
    actions: Counter[str] = field(default_factory=Counter)
    wrong: dict[Group, str | None] = field(default_factory=dict)
    dead_letters: int = 0
    overlaps: int = 0
    overlaps_across_a_kill: int = 0
    calls: int = 0
    duplicates: int = 0
    seconds: float = 0.0
    not_met: list[str] = field(
        default_factory=list
    )  # kinds of mishaps of EACH_ONCE that did not come while there was work
    exit_codes: Counter[int] = field(default_factory=Counter)

    @property
    def is_right(self) -> bool:
        return not (self.wrong or self.dead_letters or self.overlaps or set(self.exit_codes) - {0})

    def __str__(self) -> str:
        return (
            f"chaos seed={self.seed} groups={self.groups} wrong={len(self.wrong)} dead_letters={self.dead_letters} "
            f"overlaps={self.overlaps} (+{self.overlaps_across_a_kill} across a kill) calls={self.calls} "
            f"duplicates={self.duplicates} seconds={self.seconds:.0f} actions={json.dumps(self.actions, sort_keys=True)} "
            f"exit_codes={dict(self.exit_codes)} "
            f"{'ok' if self.is_right else 'WRONG'}"
        )


class Fleet:
    """One to MAX_REPLICAS replicas, each behind a proxy that nobody else uses, but one who is leaving."""

    def __init__(self, deployment: Deployment, proxies: list[TcpProxy], stack: AsyncExitStack, report: Report) -> None:
        self._deployment = deployment
        self._free = list(proxies)
        self._stack = stack
        self._report = report
        self._running: list[tuple[ServiceProcess, TcpProxy]] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self.killed_at: list[float] = []

    async def until_ready(self) -> None:
        """Every replica works: one that is stopped before it does has nothing to lose."""
        await asyncio.gather(*(service.ready() for service, _ in self._running))

    @property
    def size(self) -> int:
        return len(self._running)

    @property
    def proxies(self) -> list[TcpProxy]:
        return [proxy for _, proxy in self._running]

    async def grow(self) -> None:
        proxy = self._free.pop(0)
        replica = self._deployment.replica(is_awaited=False, kafka_bootstrap_servers=through(proxy))
        self._running.append((await self._stack.enter_async_context(replica), proxy))

    async def terminate(self, pick: int) -> None:
        service = self._pop(pick)
        task = asyncio.create_task(self._leave(service))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def kill(self, pick: int) -> None:
        service = self._pop(pick)
        self.killed_at.append(time.monotonic())
        await service.kill()

    async def end(self) -> None:
        while self._running:
            await self.terminate(0)
        await asyncio.gather(*self._leaving)

    def check(self) -> None:
        """A replica that nobody stopped must run."""
        for service, _ in self._running:
            if not service.is_running:
                raise AssertionError(f"a replica ended by itself:\n{service.log_tail()}")

    def _pop(self, pick: int) -> ServiceProcess:
        service, proxy = self._running.pop(pick % self.size)
        self._free.append(proxy)
        return service

    async def _leave(self, service: ServiceProcess) -> None:
        status = await service.terminate()
        if status == -signal.SIGTERM and not service.log_tail():
            return  # it was asked to go before it could listen to signals: there was nothing to finish
        self._report.exit_codes[status] += 1


async def chaos(
    *, seed: int, events: int, pause_s: float = 3.0, hangs: bool = True, keep: Path | None = None
) -> Report:
    """Run it. `pause_s` is the mean time between two mishaps; they go on until nearly all is sealed, then the rest may end in peace.

    With `hangs` some of them take as long as it takes a group to miss a member.
    """
    dice = random.Random(seed)
    report = Report(seed, events)
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logwarden-chaos-")))
        broker, proxies = await stack.enter_async_context(apache_behind_proxies(MAX_REPLICAS))
        aws = await stack.enter_async_context(AwsSandbox.start())
        organisation = Organisation(accounts=("111122223333", "444455556666"), regions=("eu-west-1", "us-east-1"))
        await aws.set_quota("AssociateKmsKey", per_second=RATE_PER_S)
        deployment = await Deployment.create(
            broker, aws, organisation, folder, rate_per_s=RATE_PER_S, rebalance_drain_s=5.0
        )
        groups = organisation.groups(events)
        await organisation.create_groups(aws, groups)
        fleet = Fleet(deployment, proxies, stack, report)
        network = Network(proxies, hangs=hangs, dice=dice, actions=report.actions)
        await fleet.grow()
        publishing = asyncio.create_task(_publish_slowly(deployment, groups))
        to_come = set(EACH_ONCE)
        async with _failing_aws(aws):
            while (left := len(await organisation.wrong(aws, groups))) > _CALM_FROM * events:
                await asyncio.sleep(dice.uniform(0.5, 1.5) * pause_s)
                fleet.check()
                action = _possible(dice.choice(sorted(to_come) or _KINDS), fleet, network)
                if action in {"kill", "terminate"} and action in to_come:
                    await fleet.until_ready()
                await _act(action, dice, fleet, broker, network, aws)
                report.actions[action] += 1
                if left < events:  # or nothing was under way yet
                    to_come.discard(action)
            report.not_met = sorted(to_come)
        await publishing
        await network.until_well()
        await _until_sealed(organisation, aws, groups, fleet, report)
        await fleet.end()
        report.dead_letters = len(await deployment.all_on(deployment.settings.dead_letter_topic))
        _count(report, await aws.calls("AssociateKmsKey"), fleet.killed_at)
    report.seconds = time.monotonic() - started
    return report


def _possible(action: str, fleet: Fleet, network: Network) -> str:
    if action == "hang" and not network.can_hang:
        action = "slow"
    if action == "slow" and not network.is_well:
        action = "grow"
    if action == "grow" and fleet.size >= MAX_REPLICAS:
        action = "terminate"
    if action in {"terminate", "kill"} and fleet.size == 1:
        action = "grow"
    return action


async def _act(action, dice, fleet, broker, network, aws) -> None:
    match action:
        case "grow":
            await fleet.grow()
        case "terminate":
            await fleet.terminate(dice.randrange(100))
        case "kill":
            await fleet.kill(dice.randrange(100))
        case "broker":
            await (broker.kill() if dice.random() < 0.5 else broker.restart())
            await asyncio.sleep(dice.uniform(0, 3))
            if not broker.is_running:
                await broker.restart()
        case "slow":
            network.slow(fleet.proxies)
        case "hang":
            network.hang(fleet.proxies)
        case "outage":
            await aws.inject(_OUTAGE)
            await asyncio.sleep(dice.uniform(1, 4))
            await aws.inject(_FAILING)


@asynccontextmanager
async def _failing_aws(aws: AwsSandbox):
    await aws.inject(_FAILING, seed=1)
    yield
    await aws.clear_faults()


async def _publish_slowly(deployment: Deployment, groups: list[Group]) -> None:
    """At the pace at which the lanes work, so that there is always something under way; every tenth event twice."""
    at_once = 100
    topic = deployment.settings.source_topics[0]
    async with KafkaPublisher(client_arguments(deployment.settings)) as publisher:
        for start in range(0, len(groups), at_once):
            part = groups[start : start + at_once]
            records = [OutgoingRecord(topic, g.name.encode(), created(g)) for g in [*part, *part[::10]]]
            await asyncio.gather(*map(publisher.publish, records))
            await asyncio.sleep(at_once / (RATE_PER_S * len(deployment.organisation.lanes)))


async def _until_sealed(organisation, aws, groups, fleet, report, timeout_s=240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        report.wrong = await organisation.wrong(aws, groups)
        fleet.check()
        if not report.wrong or time.monotonic() > deadline:
            return
        await asyncio.sleep(1)


def _count(report: Report, calls: list[Call], killed_at: list[float]) -> None:
    for first, second in overlaps(calls):
        if any(first.started_s <= at <= second.started_s for at in killed_at):
            report.overlaps_across_a_kill += 1
        else:
            report.overlaps += 1
    sealed = Counter((call.account, call.region, call.log_group) for call in calls if call.is_ok)
    report.calls = len(calls)
    report.duplicates = sum(times - 1 for times in sealed.values())
