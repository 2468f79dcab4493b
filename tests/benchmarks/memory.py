"""What waiting commands and idle lanes weigh: the resident memory of a real replica, which is what a container's limit counts."""

import asyncio
from itertools import cycle

import httpx

from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.log_group import LogGroup
from tests.benchmarks.endpoint import QuickAws
from tests.benchmarks.result import Result
from tests.benchmarks.stage import deployed, joined, metric, publish, rss_mb, watching
from tests.support.organisation import Group, Organisation, created

_SETTLED_S = 3.0  # for commits, and for buffers that are given back


async def memory_waiting(is_quick: bool) -> list[Result]:
    """MB that 100,000 waiting commands add to a replica that is up and idle, in 1,000 lanes.

    The commands come from the work topic, as they would: what is read ahead, and what reading them has left behind in the heap, is
    part of what they add. They wait because the lanes' rate is next to nothing.
    """
    count = 10_000 if is_quick else 100_000
    organisation = _organisation()
    commands = [
        EnsureCommand(
            log_group=LogGroup.of(account, region, f"/north/fn/checkout-production-{number:06d}"),
            trigger=Trigger.CREATED,
            accepted_at_ms=1_767_225_600_000 + number,
            origin=Origin("logwarden.events", number % 12, number),
            shown_key="",
        )
        for number, (account, region) in zip(range(count), cycle(organisation.lanes), strict=False)
    ]
    async with (
        QuickAws.start() as aws,
        deployed(aws, organisation, rate_per_s=0.0001, max_pending=3 * count) as deployment,
        deployment.replica() as service,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        await joined(deployment, 1)
        before = rss_mb(service)
        await publish(
            deployment,
            deployment.settings.work_topic,
            [command.to_bytes() for command in commands],
            keys=[command.partition_key for command in commands],
        )
        async with asyncio.timeout(80):
            while await metric(service, http, "logwarden_pending_records", 'consumer="worker"') < count:
                await asyncio.sleep(0.5)
        await asyncio.sleep(_SETTLED_S)
        after = rss_mb(service)
        assert await aws.associated() == 0
    details = {"idle_mb": before, "waiting_mb": after, "bytes_a_command": (after - before) * 1e6 / count}
    return [Result(name="memory-waiting-mb", value=after - before, at_most=100, details=details)]


async def memory_lanes(is_quick: bool) -> list[Result]:
    """MB that 1,000 lanes add, 50 accounts in 20 Regions, that have worked a command each and are idle again.

    Over a replica that has worked one command in one lane: what any first call loads is not the lanes'. A lane is more than its
    queue: there is a client for each Region and a session for each account, with its connections.
    """
    organisation = _organisation(accounts=5 if is_quick else 50)
    groups = [Group(account, region, "/north/app") for account, region in organisation.lanes]
    async with (
        QuickAws.start() as aws,
        deployed(aws, organisation) as deployment,
        deployment.replica() as service,
        watching(deployment, deployment.settings.outcomes_topic) as until,
    ):
        source = deployment.settings.source_topics[0]
        await joined(deployment, 1)
        await publish(deployment, source, [created(groups[0])])
        await until(1)
        await asyncio.sleep(_SETTLED_S)
        before = rss_mb(service)
        await publish(deployment, source, [created(group) for group in groups[1:]])
        await until(len(groups))
        await asyncio.sleep(_SETTLED_S)
        after = rss_mb(service)
    details = {"one_lane_mb": before, "lanes_mb": after, "lanes": len(groups)}
    return [Result(name="memory-lanes-mb", value=after - before, at_most=100, details=details)]


def _organisation(accounts: int = 50) -> Organisation:
    parts = (
        "eu-west",
        "eu-central",
        "us-east",
        "us-west",
        "ap-south",
        "ap-northeast",
        "ap-southeast",
        "sa-east",
        "ca-central",
        "af-south",
    )
    regions = tuple(f"{part}-{number}" for part in parts for number in (1, 2))
    return Organisation(tuple(f"{111122220000 + number}" for number in range(accounts)), regions)
