"""How much of AWS's quota is used, with several replicas and while replicas come and go."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

from service.sandbox.aws.calls import throttled_share
from service.sandbox.aws.sandbox import AwsSandbox
from tests.benchmarks.result import Result
from tests.benchmarks.stage import deployed, joined, publish
from tests.support.deployment import Deployment
from tests.support.organisation import Organisation, created

_QUOTA_PER_S = 5  # AWS's, which the sandbox enforces in every account and Region: a bucket of five tokens
_LANES = 40


async def quota(is_quick: bool) -> list[Result]:
    """Three replicas seal 100 log groups in each of 40 lanes: the time it takes over the time that the quota takes, 20 s.

    The clock starts before the first event is sent, with the replicas settled in their groups and idle, but cold: no role is assumed,
    no connection open. All 4,000 events are sent at once. It stops when the sandbox AWS has answered the call that seals the last
    group: the log of AWS decides, not what the service says of itself. Nothing is taken off for the road through Kafka, nor for the
    first token of a lane, which starts empty. Throttled are the refused calls, of all that reached AWS.
    """
    groups_a_lane = 20 if is_quick else 100
    async with _stage() as (aws, deployment), AsyncExitStack() as replicas:
        for _ in range(3):
            await replicas.enter_async_context(deployment.replica())
        await joined(deployment, 3)
        started = await _publish(deployment, groups_a_lane)
        return await _results("quota", aws, deployment, started, groups_a_lane)


async def quota_churn(is_quick: bool) -> list[Result]:
    """The same while replicas come and go: one at the start, two more after a fifth of the time, one of them ended by SIGTERM later.

    Each change is a rebalance in which every partition changes hands and every lane starts with an empty bucket; the goal is the
    same all the same.
    """
    groups_a_lane = 50 if is_quick else 100
    ideal_s = groups_a_lane / _QUOTA_PER_S
    async with _stage() as (aws, deployment), deployment.replica():
        await joined(deployment, 1)
        started = await _publish(deployment, groups_a_lane)
        await _until(started + 0.2 * ideal_s)
        async with deployment.replica(is_awaited=False) as second, deployment.replica(is_awaited=False) as third:
            await asyncio.gather(second.ready(), third.ready())
            await _until(started + 0.6 * ideal_s)
            assert await second.terminate() == 0, second.log_tail()
            return await _results("quota-churn", aws, deployment, started, groups_a_lane)


def _stage():
    return _Stage()


class _Stage:
    """The sandbox AWS and a deployment with 40 lanes: twenty accounts, two Regions."""

    async def __aenter__(self) -> tuple[AwsSandbox, Deployment]:
        self._stack = AsyncExitStack()
        aws = await self._stack.enter_async_context(AwsSandbox.start())
        accounts = tuple(f"{111122220000 + number}" for number in range(_LANES // 2))
        organisation = Organisation(accounts, ("eu-west-1", "us-east-1"))
        return aws, await self._stack.enter_async_context(deployed(aws, organisation))

    async def __aexit__(self, *error) -> None:
        await self._stack.aclose()


async def _publish(deployment: Deployment, groups_a_lane: int) -> float:
    """Create the log groups, then send their events; returns when the first was about to be."""
    groups = deployment.organisation.groups(groups_a_lane * _LANES)
    await deployment.organisation.create_groups(deployment.aws, groups)
    values = [created(group) for group in groups]
    started = time.monotonic()
    await publish(deployment, deployment.settings.source_topics[0], values)
    return started


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def _results(
    name: str, aws: AwsSandbox, deployment: Deployment, started: float, groups_a_lane: int
) -> list[Result]:
    groups = deployment.organisation.groups(groups_a_lane * _LANES)
    outcomes = await deployment.final_outcomes(groups)
    assert {outcome["state"] for outcome in outcomes.values()} == {"sealed"}
    assert await deployment.organisation.wrong(aws, groups) == {}
    calls = await aws.calls("AssociateKmsKey")
    ideal_s = groups_a_lane / _QUOTA_PER_S
    took_s = max(call.ended_s for call in calls if call.is_ok) - started
    results = Counter(call.result for call in calls)
    details = {
        "took_s": took_s,
        "ideal_s": ideal_s,
        "calls": len(calls),
        "duplicates": results["ok"] - len(groups),
        "first_call_s": min(call.started_s for call in calls) - started,
    }
    return [
        Result(name=name, value=took_s / ideal_s, at_most=1.03, details=details),
        Result(name=f"{name}-throttled", value=throttled_share(calls), at_most=0.01, details=results),
    ]
