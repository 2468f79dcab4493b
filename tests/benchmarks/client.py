"""AssociateKmsKey through a client, 64 calls in flight, and nothing around it: ours, the one that aiobotocore gives by default, others.

The functions run in a process of their own (`in_own_process`), in asyncio's own event loop, and make some calls first that do not
count: clients load their model and open their connections at the first.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp
import boto3  # type: ignore[import-untyped]
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from service.app import App
from service.domain.log_group import LogGroup, key_arn
from service.settings import Settings
from tests.benchmarks.endpoint import KEYS, OWN_ACCOUNT

IN_FLIGHT = 64
_WARM_UP = 500  # calls
_ACCOUNT, _REGION = "111122223333", "eu-west-1"
_KEY = key_arn(f"arn:aws:kms:{_REGION}:{_ACCOUNT}:key/0d9ac4b8-0001-4000-8000-000000000001")

Call = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of some calls: how many were made a second, and the CPU that each took (microseconds, user and system)."""

    calls_per_s: float
    cpu_us: float


def default_calls(endpoint: str, calls: int) -> Cost:
    """What so many calls of one default client cost."""

    async def run() -> Cost:
        async with _default_client(endpoint) as call:
            await _cost(call, _WARM_UP)
            return await _cost(call, calls)

    return asyncio.run(run())


def calls_in_turns(endpoint: str, rounds: int, calls: int) -> list[dict[str, Cost]]:
    """What `calls` calls of each client cost in each of some rounds, in one process: `ours`, `default`, `bare`, `threads`."""
    os.environ |= KEYS

    async def run() -> list[dict[str, Cost]]:
        async with (
            _our_client(endpoint) as ours,
            _default_client(endpoint) as default,
            _bare_client(endpoint) as bare,
        ):
            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                clients = {
                    "ours": partial(_cost, ours),
                    "default": partial(_cost, default),
                    "bare": partial(_cost, bare),
                    "threads": partial(_cost_in_threads, _boto3_call(endpoint), pool),
                }
                for cost in clients.values():
                    await cost(_WARM_UP)
                return [{name: await cost(calls) for name, cost in clients.items()} for _ in range(rounds)]

    return asyncio.run(run())


@asynccontextmanager
async def _default_client(endpoint: str):
    """One aiobotocore client as its documentation shows it. Its pool of 10 connections is widened: 64 calls are to be in flight."""
    async with AioSession().create_client(
        "logs",
        region_name=_REGION,
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        config=AioConfig(max_pool_connections=IN_FLIGHT),
    ) as client:

        async def call(name: str) -> None:
            arn = f"arn:aws:logs:{_REGION}:{_ACCOUNT}:log-group:{name}"
            await client.associate_kms_key(resourceIdentifier=arn, kmsKeyId=_KEY)

        yield call


@asynccontextmanager
async def _our_client(endpoint: str):
    """`service.aws` as the service itself opens it, in an account whose role it has to assume."""
    settings = Settings(aws_endpoint_url=endpoint, aws_own_account=OWN_ACCOUNT, max_in_flight=IN_FLIGHT)
    async with App(settings).open_aws() as aws:

        async def call(name: str) -> None:
            await aws.log_groups.associate(LogGroup.of(_ACCOUNT, _REGION, name), _KEY)

        yield call


@asynccontextmanager
async def _bare_client(endpoint: str):
    """aiohttp and botocore's signer, and nothing else of botocore: what one would write by hand. It does not even look at the answer."""
    url = f"{endpoint}/"
    credentials = ReadOnlyCredentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"], "token")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as http:

        async def call(name: str) -> None:
            arn = f"arn:aws:logs:{_REGION}:{_ACCOUNT}:log-group:{name}"
            body = json.dumps({"resourceIdentifier": arn, "kmsKeyId": _KEY}).encode()
            headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Logs_20140328.AssociateKmsKey"}
            request = AWSRequest(method="POST", url=url, headers=headers, data=body)
            SigV4Auth(credentials, "logs", _REGION).add_auth(request)
            async with http.post(url, data=body, headers=dict(request.headers)) as response:
                await response.read()

        yield call


def _boto3_call(endpoint: str) -> Callable[[str], None]:
    """One boto3 client, which threads may share."""
    client = boto3.client(
        "logs", region_name=_REGION, endpoint_url=endpoint, config=Config(max_pool_connections=IN_FLIGHT)
    )

    def call(name: str) -> None:
        arn = f"arn:aws:logs:{_REGION}:{_ACCOUNT}:log-group:{name}"
        client.associate_kms_key(resourceIdentifier=arn, kmsKeyId=_KEY)

    return call


def _names(calls: int) -> Iterator[str]:
    return (f"/tenant/app-{number:05d}" for number in range(calls))


async def _cost_in_threads(call: Callable[[str], None], pool: ThreadPoolExecutor, calls: int) -> Cost:
    started, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.to_thread(lambda: list(pool.map(call, _names(calls))))
    took, cpu_took = time.perf_counter() - started, time.process_time() - cpu_started
    return Cost(calls / took, cpu_took / calls * 1e6)


async def _cost(call: Call, calls: int) -> Cost:
    names = _names(calls)

    async def one_after_the_other() -> None:
        for name in names:
            await call(name)

    started, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
    took, cpu_took = time.perf_counter() - started, time.process_time() - cpu_started
    return Cost(calls / took, cpu_took / calls * 1e6)
