"""The whole road, from a record on the source topic to an outcome on the outcomes topic, against the loops that one would write."""

import json
import os
import time
from collections import Counter
from itertools import pairwise
from statistics import mean, median

import uvloop
from aiobotocore.session import AioSession
from aiokafka import AIOKafkaConsumer

from service.sandbox.process import ServiceProcess
from tests.benchmarks.client import IN_FLIGHT, Cost, default_calls
from tests.benchmarks.endpoint import KEYS, QuickAws
from tests.benchmarks.result import Result
from tests.benchmarks.stage import cpu_s, deployed, in_own_process, joined, publish, watching
from tests.support.deployment import Deployment
from tests.support.organisation import Organisation, created

# 60 lanes with room for 16 calls each, at the highest rate that can be set: no quota.
_UNPACED = {"rate_per_s": 1000.0}
_LATENCY_S = 0.02


def _organisation() -> Organisation:
    accounts = tuple(f"{111122220000 + number}" for number in range(12))
    return Organisation(accounts, ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-south-1"))


async def engine(is_quick: bool) -> list[Result]:
    """Calls a second of one replica on the whole road, over those of a bare loop of 64 coroutines over one default client.

    The loop has its log groups and its key in memory and does nothing but call. The replica, with all its roles and as many calls in
    flight, reads CloudTrail records, writes and reads commands, finds the tenant, signs for twelve accounts in five Regions, writes
    outcomes, logs and commits. It is warm and idle; its clock runs from before the first record is sent until the broker has
    acknowledged the last outcome. Both call the same endpoint, in a process of its own. They take turns, loop first and last, and
    the value is the median of the replica's rounds, each over the mean of the loops before and after it.
    """
    rounds, events, calls = (1, 2_000, 1_500) if is_quick else (3, 10_000, 5_000)
    async with (
        QuickAws.start() as aws,
        deployed(aws, _organisation(), **_UNPACED, max_in_flight=IN_FLIGHT) as deployment,
        deployment.replica() as service,
    ):
        await joined(deployment, 1)
        road = _Road(deployment, service)
        await road.work(1_000)
        bare = [await in_own_process(default_calls, aws.endpoint, calls)]
        ours = []
        for _ in range(rounds):
            ours.append(await road.work(events))
            bare.append(await in_own_process(default_calls, aws.endpoint, calls))
        assert await service.terminate() == 0
        await road.check()
    details = {
        "service_per_s": median(cost.calls_per_s for cost in ours),
        "service_cpu_us": median(cost.cpu_us for cost in ours),
        "bare_per_s": median(cost.calls_per_s for cost in bare),
        "bare_cpu_us": median(cost.cpu_us for cost in bare),
    }
    loops = [mean([a.calls_per_s, b.calls_per_s]) for a, b in pairwise(bare)]
    value = median(cost.calls_per_s / loop for cost, loop in zip(ours, loops, strict=True))
    return [Result(name="engine", value=value, at_least=1.5, details=details)]


async def engine_slow(is_quick: bool) -> list[Result]:
    """The same road, with an endpoint that takes 20 ms, over a loop that reads one record, calls, commits and reads the next.

    The loop is what a Kafka client's first example looks like: safe, and one call at a time. It parses the record and calls; it
    writes no outcome. The replica has its default of calls in flight.
    """
    events, records = (2_000, 50) if is_quick else (15_000, 400)
    async with (
        QuickAws.start(latency_s=_LATENCY_S) as aws,
        deployed(aws, _organisation(), **_UNPACED) as deployment,
    ):
        async with deployment.replica() as service:
            await joined(deployment, 1)
            road = _Road(deployment, service)
            await road.work(1_000)
            ours = await road.work(events)
            assert await service.terminate() == 0
            await road.check()
        settings = deployment.settings
        sequential = await in_own_process(
            _one_at_a_time, aws.endpoint, settings.kafka_bootstrap_servers, settings.source_topics[0], records
        )
    details = {"service_per_s": ours.calls_per_s, "service_cpu_us": ours.cpu_us, "sequential_per_s": sequential}
    return [Result(name="engine-slow", value=ours.calls_per_s / sequential, at_least=30, details=details)]


class _Road:
    """A replica that has nothing else to do, and the log groups that it has been asked to seal."""

    def __init__(self, deployment: Deployment, service: ServiceProcess) -> None:
        self._deployment = deployment
        self._service = service
        self._events = 0

    async def work(self, events: int) -> Cost:
        """Send events for so many new log groups, and wait for the last outcome."""
        values = [
            created(group) for group in self._deployment.organisation.groups(self._events + events)[self._events :]
        ]
        self._events += events
        settings = self._deployment.settings
        async with watching(self._deployment, settings.outcomes_topic) as until:
            cpu_started, started = cpu_s(self._service), time.monotonic()
            await publish(self._deployment, settings.source_topics[0], values)
            took = await until(self._events) - started
            cpu_took = cpu_s(self._service) - cpu_started
        return Cost(events / took, cpu_took / events * 1e6)

    async def check(self) -> None:
        """Raise AssertionError unless each log group was sealed, once."""
        assert await self._deployment.outcome_counts() == Counter(sealed=self._events)


def _one_at_a_time(endpoint: str, bootstrap_servers: str, topic: str, records: int) -> float:
    """Records a second of a loop that consumes, calls and commits."""
    os.environ |= KEYS

    async def run() -> float:
        async with (
            AIOKafkaConsumer(
                topic,
                bootstrap_servers=bootstrap_servers,
                group_id="one-at-a-time",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
            ) as consumer,
            AioSession().create_client("logs", region_name="eu-west-1", endpoint_url=endpoint) as client,
        ):
            started = 0.0
            for number in range(records + 10):
                if number == 10:
                    started = time.perf_counter()
                event = json.loads((await consumer.getone()).value)
                account, region = event["recipientAccountId"], event["awsRegion"]
                name = event["requestParameters"]["logGroupName"]
                await client.associate_kms_key(
                    resourceIdentifier=f"arn:aws:logs:{region}:{account}:log-group:{name}",
                    kmsKeyId=f"arn:aws:kms:{region}:{account}:key/0d9ac4b8-0001-4000-8000-000000000001",
                )
                await consumer.commit()
            return records / (time.perf_counter() - started)

    return uvloop.run(run())
