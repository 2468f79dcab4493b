"""What it costs to look at a whole CloudTrail stream for the few records that matter."""

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

import httpx
import uvloop
from aiokafka import AIOKafkaConsumer

from service.settings import Role
from tests.benchmarks.endpoint import QuickAws
from tests.benchmarks.result import Result
from tests.benchmarks.stage import cpu_s, deployed, in_own_process, metric, publish
from tests.support.organisation import Group, Organisation, created

_ACCOUNT, _REGION = "111122223333", "eu-west-1"
_OTHERS = (
    ("s3", "GetBucketAcl"),
    ("kms", "Decrypt"),
    ("sts", "AssumeRole"),
    ("ec2", "DescribeInstances"),
    ("dynamodb", "DescribeTable"),
    ("lambda", "Invoke20150331"),
    ("iam", "GetRole"),
    ("logs", "DescribeLogStreams"),
)


async def ingest_filter(is_quick: bool) -> list[Result]:
    """Records a second of a replica with the role `ingest`, over those of a loop of aiokafka's `getmany` that looks at none.

    The topic holds whole CloudTrail records of 1.2 kB, every 200th of them a CreateLogGroup, written before either side starts. The
    loop is a consumer with aiokafka's defaults in uvloop, which is what the service runs in, and counts. The replica is the real
    process: it also parses what is relevant, writes the commands, keeps metrics and commits. Of both the first tenth does not count;
    the rate of the replica is that between two looks at its own counter. They take turns, one ended before the other starts, loop first
    and last, and the value is the median of the replica's turns, each over the mean of the loops before and after it.
    """
    records = 60_000 if is_quick else 300_000
    organisation = Organisation((_ACCOUNT,), (_REGION,))
    async with QuickAws.start() as aws, deployed(aws, organisation) as deployment:
        topic = deployment.settings.source_topics[0]
        repeated = stream()
        await publish(deployment, topic, (repeated[number % len(repeated)] for number in range(records)))
        servers = deployment.settings.kafka_bootstrap_servers
        bare = [await in_own_process(_bare_loop, servers, topic, records)]
        ours = []
        for turn in range(1 if is_quick else 3):
            ours.append(await _replica(deployment, records, group=f"turn-{turn}"))
            bare.append(await in_own_process(_bare_loop, servers, topic, records))
    loops = [mean([a.records_per_s, b.records_per_s]) for a, b in pairwise(bare)]
    value = median(cost.records_per_s / loop for cost, loop in zip(ours, loops, strict=True))
    details = {
        "service_per_s": median(cost.records_per_s for cost in ours),
        "service_cpu_us": median(cost.cpu_us for cost in ours),
        "bare_per_s": median(cost.records_per_s for cost in bare),
        "bare_cpu_us": median(cost.cpu_us for cost in bare),
    }
    return [Result(name="ingest-filter", value=value, at_least=0.8, details=details)]


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of reading some records: how many a second, and the CPU that each took (microseconds, user and system)."""

    records_per_s: float
    cpu_us: float


def stream() -> list[bytes]:
    """Two hundred records, the last one relevant."""
    irrelevant = [_record(*_OTHERS[number % len(_OTHERS)], number) for number in range(199)]
    return [*irrelevant, created(Group(_ACCOUNT, _REGION, "/north/app-00001"))]


def _record(service: str, operation: str, number: int) -> bytes:
    session = {
        "sessionIssuer": {
            "type": "Role",
            "principalId": "AROAEXAMPLEEXAMPLE01",
            "arn": f"arn:aws:iam::{_ACCOUNT}:role/deploy",
            "accountId": _ACCOUNT,
            "userName": "deploy",
        },
        "attributes": {"creationDate": "2026-03-02T08:59:31Z", "mfaAuthenticated": "false"},
    }
    record = {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": "AROAEXAMPLEEXAMPLE01:terraform",
            "arn": f"arn:aws:sts::{_ACCOUNT}:assumed-role/deploy/terraform",
            "accountId": _ACCOUNT,
            "accessKeyId": "ASIAEXAMPLEEXAMPLE01",
            "sessionContext": session,
        },
        "eventTime": "2026-03-02T09:14:07Z",
        "eventSource": f"{service}.amazonaws.com",
        "eventName": operation,
        "awsRegion": _REGION,
        "sourceIPAddress": "203.0.113.10",
        "userAgent": "APN/1.0 HashiCorp/1.0 Terraform/1.9.5 terraform-provider-aws/5.64.0",
        "requestParameters": {"resource": f"checkout-{number:03d}", "limit": 50},
        "responseElements": None,
        "requestID": f"5d2a6d0e-0001-4000-8000-{number:012d}",
        "eventID": f"5d2a6d0e-0002-4000-8000-{number:012d}",
        "readOnly": True,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": _ACCOUNT,
        "eventCategory": "Management",
        "tlsDetails": {"tlsVersion": "TLSv1.3", "cipherSuite": "TLS_AES_128_GCM_SHA256"},
    }
    return json.dumps(record).encode()


def _bare_loop(bootstrap_servers: str, topic: str, records: int) -> _Cost:
    """What the loop costs."""

    async def run() -> _Cost:
        count, started, cpu_started = 0, 0.0, 0.0
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer:
            counted_from = 0
            while count < records:
                for batch in (await consumer.getmany(timeout_ms=1000)).values():
                    count += len(batch)
                if not counted_from and count >= records // 10:
                    counted_from, started, cpu_started = count, time.perf_counter(), time.process_time()
        counted = count - counted_from
        took, cpu_took = time.perf_counter() - started, time.process_time() - cpu_started
        return _Cost(counted / took, cpu_took / counted * 1e6)

    return uvloop.run(run())


async def _replica(deployment, records: int, *, group: str) -> _Cost:
    """What a replica costs that starts at the topic's beginning."""
    looks: list[tuple[float, float, float]] = []
    interval_s = records / 1_000_000  # each look costs the replica some milliseconds
    async with (
        deployment.replica(is_awaited=False, roles=frozenset({Role.INGEST}), kafka_group_prefix=group) as service,
        httpx.AsyncClient(trust_env=False) as http,
        asyncio.timeout(60),
    ):
        while not looks or looks[-1][1] < records:
            await asyncio.sleep(interval_s if looks else 0.05)
            try:
                read = await metric(service, http, "logwarden_events_total")
            except httpx.TransportError:
                continue
            looks.append((time.perf_counter(), read, cpu_s(service)))
    first = next(look for look in looks if look[1] >= records // 10)
    last = max((look for look in looks if first[1] < look[1] < records), default=looks[-1])
    read = last[1] - first[1]
    return _Cost(read / (last[0] - first[0]), (last[2] - first[2]) / read * 1e6)
