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
from collections.abc import Mapping
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
_NEVER = float("inf")
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


@dataclass(frozen=True, slots=True)
class _Replica:
    """A process, the way to the broker that it alone takes, and the name of its sessions in AWS."""

    service: ServiceProcess
    proxy: TcpProxy
    session: str


class Fleet:
    """One to MAX_REPLICAS replicas, each behind a proxy that nobody else uses, but one who is leaving."""

    def __init__(self, deployment: Deployment, proxies: list[TcpProxy], stack: AsyncExitStack, report: Report) -> None:
        self._deployment = deployment
        self._free = list(proxies)
        self._stack = stack
        self._report = report
        self._running: list[_Replica] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._started = 0
        self.killed_at: dict[str, float] = {}  # by the name of its sessions in AWS

    async def until_ready(self) -> None:
        """Every replica works: one that is stopped before it does has nothing to lose."""
        await asyncio.gather(*(replica.service.ready() for replica in self._running))

    @property
    def size(self) -> int:
        return len(self._running)

    @property
    def proxies(self) -> list[TcpProxy]:
        return [replica.proxy for replica in self._running]

    async def grow(self) -> None:
        proxy = self._free.pop(0)
        self._started += 1
        session = f"replica-{self._started}"
        started = self._deployment.replica(
            is_awaited=False, kafka_bootstrap_servers=through(proxy), aws_role_session_name=session
        )
        self._running.append(_Replica(await self._stack.enter_async_context(started), proxy, session))

    async def terminate(self, pick: int) -> None:
        task = asyncio.create_task(self._leave(self._pop(pick).service))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def kill(self, pick: int) -> None:
        replica = self._pop(pick)
        self.killed_at[replica.session] = time.monotonic()
        await replica.service.kill()

    async def end(self) -> None:
        while self._running:
            await self.terminate(0)
        await asyncio.gather(*self._leaving)

    def check(self) -> None:
        """A replica that nobody stopped must run."""
        for replica in self._running:
            if not replica.service.is_running:
                raise AssertionError(f"a replica ended by itself:\n{replica.service.log_tail()}")

    def _pop(self, pick: int) -> "_Replica":
        replica = self._running.pop(pick % self.size)
        self._free.append(replica.proxy)
        return replica

    async def _leave(self, service: ServiceProcess) -> None:
        status = await service.terminate()
        if status == -signal.SIGTERM and not service.log_tail():
            return  # it was asked to go before it could listen to signals: there was nothing to finish
        self._report.exit_codes[status] += 1


class Plan:
    """Which mishap comes next: each of EACH_ONCE first, then as the dice fall, and of those only what can be."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.to_come = set(EACH_ONCE)

    def next(self, size: int, *, can_hang: bool, is_well: bool) -> str:
        """For a fleet of this `size`, and a network that `can_hang`, or `is_well` enough to become slow."""
        action = self._dice.choice(sorted(self.to_come) or _KINDS)
        if action == "hang" and not can_hang:
            action = "slow"
        if action == "slow" and not is_well:
            action = "grow"
        if action == "grow" and size >= MAX_REPLICAS:
            action = "terminate"
        if action in {"terminate", "kill"} and size == 1:
            action = "grow"
        return action

    def done(self, action: str, *, is_work_left: bool) -> None:
        """A mishap that came before anything was under way is to come again."""
        if is_work_left:
            self.to_come.discard(action)


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
        plan = Plan(dice)
        async with _failing_aws(aws):
            while (left := len(await organisation.wrong(aws, groups))) > _CALM_FROM * events:
                await asyncio.sleep(dice.uniform(0.5, 1.5) * pause_s)
                fleet.check()
                action = plan.next(fleet.size, can_hang=network.can_hang, is_well=network.is_well)
                if action in {"kill", "terminate"} and action in plan.to_come:
                    await fleet.until_ready()
                await _act(action, dice, fleet, broker, network, aws)
                report.actions[action] += 1
                plan.done(action, is_work_left=left < events)
            report.not_met = sorted(plan.to_come)
        await publishing
        await network.until_well()
        await _until_sealed(organisation, aws, groups, fleet, report)
        await fleet.end()
        report.dead_letters = len(await deployment.all_on(deployment.settings.dead_letter_topic))
        count(report, await aws.calls("AssociateKmsKey"), fleet.killed_at)
    report.seconds = time.monotonic() - started
    return report


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


def count(report: Report, calls: list[Call], killed_at: Mapping[str, float]) -> None:
    """A call that a replica had made when it was killed goes on in AWS: it alone may overlap, with one that began afterwards."""
    for first, second in overlaps(calls):
        if killed_at.get(_session(first), _NEVER) <= second.started_s and _session(first) != _session(second):
            report.overlaps_across_a_kill += 1
        else:
            report.overlaps += 1
    sealed = Counter((call.account, call.region, call.log_group) for call in calls if call.is_ok)
    report.calls = len(calls)
    report.duplicates = sum(times - 1 for times in sealed.values())


def _session(call: Call) -> str:
    return call.caller.rpartition("/")[2]
