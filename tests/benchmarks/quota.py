"""How much of AWS's quota is used, by several replicas and while replicas come and go."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from service.sandbox.aws.calls import throttled_share
from service.sandbox.aws.sandbox import AwsSandbox
from service.sandbox.kafka.apache import ApacheKafka
from tests.benchmarks.result import Result
from tests.benchmarks.stage import deployed, joined, publish
from tests.support.deployment import Deployment
from tests.support.kafka_proxy import apache_behind_proxies, through
from tests.support.organisation import Group, Organisation, created

_QUOTA_PER_S = 5  # AWS's, which the sandbox enforces in every account and Region: a bucket of five tokens
_LANES = 40
_LATENCY_S = 0.02  # of each answer of a slow broker: one in another Region, or one whose disks are busy


async def quota(is_quick: bool) -> list[Result]:
    """Three replicas seal 100 log groups in each of 40 lanes: the time it takes over the time that the quota takes, 20 s.

    The clock starts before the first of the 4,000 events is sent, all at once, with the replicas settled in their groups and idle. They
    are warm: a log group has been sealed in each lane before, so that the roles are assumed; what that costs is `quota-cold`. The
    clock stops when the sandbox AWS has answered the call that seals the last group: the log of AWS decides, not what the service
    says of itself. Nothing is taken off for the road through Kafka. Throttled are the refused calls, of all that reached AWS.
    """
    return await _three_replicas("quota", 20 if is_quick else 100, is_warm=True)


async def quota_cold(is_quick: bool) -> list[Result]:
    """The same with replicas that have just joined: no client is open, no role assumed, every lane starts with an empty bucket."""
    return await _three_replicas("quota-cold", 20 if is_quick else 100, is_warm=False)


async def quota_churn(is_quick: bool) -> list[Result]:
    """The same while replicas come and go: a warm one at first, two cold ones more after 4 s, one of those ended by SIGTERM after 12 s.

    Each change is a rebalance in which every partition changes hands; lanes that move start with an empty bucket, at a replica that
    may have to assume their role first. The goal is the same all the same.
    """
    groups_a_lane = 60 if is_quick else 100
    ideal_s = groups_a_lane / _QUOTA_PER_S
    async with _stage(groups_a_lane) as run, run.deployment.replica():
        await joined(run.deployment, 1)
        await run.warm_up()
        await run.start()
        await run.until(0.2 * ideal_s)
        async with (
            run.deployment.replica(is_awaited=False) as second,
            run.deployment.replica(is_awaited=False) as third,
        ):
            await asyncio.gather(second.ready(), third.ready())
            await run.until(0.6 * ideal_s)
            assert await second.terminate() == 0, second.log_tail()
            return await run.results("quota-churn")


async def quota_slow_broker(is_quick: bool) -> list[Result]:
    """The same as `quota` with a broker whose every answer comes 20 ms late, to each of the replicas, through a proxy.

    A command is read, and its outcome is acknowledged, that much later: what takes longer is the road, of which several answers are in
    the time that is measured, and not the pace. The goal is the same.
    """
    groups_a_lane = 20 if is_quick else 100
    async with (
        apache_behind_proxies(3) as (broker, proxies),
        _stage(groups_a_lane, broker=broker) as run,
        AsyncExitStack() as replicas,
    ):
        for proxy in proxies:
            proxy.latency_s = _LATENCY_S, _LATENCY_S
            replica = run.deployment.replica(kafka_bootstrap_servers=through(proxy))
            await replicas.enter_async_context(replica)
        await joined(run.deployment, 3)
        await run.warm_up()
        await run.start()
        return await run.results("quota-slow-broker")


async def _three_replicas(name: str, groups_a_lane: int, *, is_warm: bool) -> list[Result]:
    async with _stage(groups_a_lane) as run, AsyncExitStack() as replicas:
        for _ in range(3):
            await replicas.enter_async_context(run.deployment.replica())
        await joined(run.deployment, 3)
        if is_warm:
            await run.warm_up()
        await run.start()
        return await run.results(name)


@asynccontextmanager
async def _stage(groups_a_lane: int, *, broker: ApacheKafka | None = None) -> AsyncIterator["_Run"]:
    """The sandbox AWS and a deployment with 40 lanes: twenty accounts, two Regions; on a broker of its own unless there is one."""
    accounts = tuple(f"{111122220000 + number}" for number in range(_LANES // 2))
    organisation = Organisation(accounts, ("eu-west-1", "us-east-1"))
    async with AwsSandbox.start() as aws, deployed(aws, organisation, broker=broker) as deployment:
        run = _Run(aws, deployment, groups_a_lane)
        await organisation.create_groups(aws, [*run.first, *run.groups])
        yield run


class _Run:
    """One run: the log groups that are measured, and the clock. Moments are seconds from the start."""

    def __init__(self, aws: AwsSandbox, deployment: Deployment, groups_a_lane: int) -> None:
        self._aws = aws
        self.deployment = deployment
        self._ideal_s = groups_a_lane / _QUOTA_PER_S
        every = deployment.organisation.groups((groups_a_lane + 1) * _LANES)
        self.first, self.groups = (
            every[:_LANES],
            every[_LANES:],
        )  # they are spread evenly: the first are one for each lane
        self._started = 0.0

    async def warm_up(self) -> None:
        await self._publish(self.first)
        await self.deployment.final_outcomes(self.first)
        await asyncio.sleep(2)
        await self._aws.clear_calls()

    async def start(self) -> None:
        self._started = time.monotonic()
        await self._publish(self.groups)

    async def until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, self._started + moment_s - time.monotonic()))

    async def results(self, name: str) -> list[Result]:
        """Wait for the last outcome and read AWS's log."""
        outcomes = await self.deployment.final_outcomes(self.groups)
        assert {outcome["state"] for outcome in outcomes.values()} == {"sealed"}
        assert await self.deployment.organisation.wrong(self._aws, self.groups) == {}
        calls = await self._aws.calls("AssociateKmsKey")
        took_s = max(call.ended_s for call in calls if call.is_ok) - self._started
        by_result = Counter(call.result for call in calls)
        details = {
            "took_s": took_s,
            "ideal_s": self._ideal_s,
            "first_call_s": min(call.started_s for call in calls) - self._started,
            "called_twice": by_result["ok"] - len(self.groups),
        }
        return [
            Result(name=name, value=took_s / self._ideal_s, at_most=1.03, details=details),
            Result(name=f"{name}-throttled", value=throttled_share(calls), at_most=0.01, details=by_result),
        ]

    async def _publish(self, groups: list[Group]) -> None:
        await publish(self.deployment, self.deployment.settings.source_topics[0], [created(group) for group in groups])
