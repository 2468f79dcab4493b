"""Whether a busy lane is felt next door."""

import asyncio
import random
import time

import httpx
from aiokafka import AIOKafkaProducer

from service.sandbox.aws.sandbox import AwsSandbox
from tests.benchmarks.result import Result
from tests.benchmarks.stage import deployed, joined, metric, publish
from tests.support.organisation import Group, Organisation, created

_QUOTA_PER_S = 5
_BUSY = ("999988887777", "eu-west-1")


async def neighbour(is_quick: bool) -> list[Result]:
    """One replica, one lane with 20,000 log groups waiting, 200 lanes with a log group every two seconds each, at random moments.

    For the trickle lanes: the time from before the event is sent until the sandbox AWS has answered the call that seals its group, by
    AWS's log; the 99th percentile of all. For the busy lane: the calls that AWS took in those 30 s, over what its quota allows. The
    measured time starts once every event is read and every lane has been used once; by then the busy lane has worked some hundred, as
    `held_at_start` says. One replica, since with more of them
    the lanes would share it with fewer neighbours.
    """
    waiting, lasts_s = (2_000, 8.0) if is_quick else (20_000, 30.0)
    accounts = tuple(f"{111122220000 + number}" for number in range(50))
    organisation = Organisation((*accounts, _BUSY[0]), ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2"))
    busy = [Group(_BUSY[0], _BUSY[1], f"/north/busy-{number:05d}") for number in range(waiting)]
    lanes = [lane for lane in organisation.lanes if lane[0] != _BUSY[0]]
    warm = [Group(account, region, "/north/warm") for account, region in lanes]
    dice = random.Random(1)
    moments = sorted((at, lane) for lane in lanes for at in _every(2.0, lasts_s, offset_s=dice.uniform(0, 2.0)))
    trickle = [
        (at, Group(account, region, f"/south/trickle-{number:05d}"))
        for number, (at, (account, region)) in enumerate(moments)
    ]
    async with AwsSandbox.start() as aws, deployed(aws, organisation) as deployment, deployment.replica() as service:
        source = deployment.settings.source_topics[0]
        await organisation.create_groups(aws, [*busy, *warm, *(group for _, group in trickle)])
        await joined(deployment, 1)
        await publish(deployment, source, [created(group) for group in [*warm, *busy]])
        await deployment.final_outcomes(warm, timeout_s=60)
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(60):
            while await metric(service, http, "logwarden_commands_accepted_total") < len(warm) + waiting:
                await asyncio.sleep(0.2)
            await asyncio.sleep(1)
            held = await metric(service, http, "logwarden_pending_records", 'consumer="worker"')
        started = time.monotonic()
        sent_at: dict[Group, float] = {}
        async with AIOKafkaProducer(bootstrap_servers=deployment.settings.kafka_bootstrap_servers) as producer:
            for at, group in trickle:
                await asyncio.sleep(max(0.0, started + at - time.monotonic()))
                sent_at[group] = time.monotonic()
                await producer.send(source, created(group))
        await asyncio.sleep(max(0.0, started + lasts_s - time.monotonic()))
        await deployment.final_outcomes([group for _, group in trickle], timeout_s=20)
        calls = await aws.calls("AssociateKmsKey")
    sealed_at = {Group(call.account, call.region, call.log_group or ""): call.ended_s for call in calls if call.is_ok}
    delays_s = sorted(sealed_at[group] - at for group, at in sent_at.items())
    of_busy = sum(
        call.is_ok and (call.account, call.region) == _BUSY and started <= call.started_s < started + lasts_s
        for call in calls
    )
    details = {
        "events": len(delays_s),
        "p50_s": delays_s[len(delays_s) // 2],
        "longest_s": delays_s[-1],
        "held_at_start": held,
        "throttled": sum(call.is_throttled for call in calls),
    }
    return [
        Result(name="neighbour-p99-s", value=delays_s[int(0.99 * len(delays_s))], at_most=1.0, details=details),
        Result(
            name="neighbour-busy-quota",
            value=of_busy / (_QUOTA_PER_S * lasts_s),
            at_least=0.97,
            details={"calls": of_busy},
        ),
    ]


def _every(interval_s: float, lasts_s: float, *, offset_s: float) -> list[float]:
    return [offset_s + number * interval_s for number in range(int(lasts_s / interval_s))]
