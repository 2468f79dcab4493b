"""What many accounts weigh: their sessions, connections and TLS contexts, without anything else of the service."""

import asyncio
import gc
import os
import ssl
from itertools import product
from pathlib import Path

from aiobotocore.session import AioSession

from service.app import App
from service.domain.log_group import LogGroup, key_arn
from service.settings import Settings
from tests.benchmarks.client import IN_FLIGHT
from tests.benchmarks.endpoint import KEYS, OWN_ACCOUNT, QuickAws
from tests.benchmarks.result import Result
from tests.benchmarks.stage import in_own_process

_REGIONS = ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2")
_CLIENTS_TRIED = 40  # enough to tell what one more of them weighs


async def accounts(is_quick: bool) -> list[Result]:
    """MB and TLS contexts that 1,000 accounts in 4 Regions cost, from before the first client is opened to after a call in each lane.

    With the credentials of 1,000 assumed roles, 64 calls in flight; what the models of botocore weigh is in it. Beside it what a client
    of aiobotocore for each account and Region would weigh: 4,000 times what one more weighs, by 40 of them.
    """
    count = 100 if is_quick else 1_000
    async with QuickAws.start() as aws:
        grown_mb, contexts = await in_own_process(_ours, aws.endpoint, count)
        one_more_mb = await in_own_process(_one_more_client, aws.endpoint)
    return [
        Result(name="accounts-mb", value=grown_mb, at_most=100, details={"lanes": count * len(_REGIONS)}),
        Result(name="accounts-tls-contexts", value=contexts, at_most=1),
        Result(
            name="accounts-client-each-mb",
            value=one_more_mb * count * len(_REGIONS),
            details={"one_more_client_mb": one_more_mb},
        ),
    ]


def _ours(endpoint: str, count: int) -> tuple[float, int]:
    """What `count` accounts cost through `service.aws`, as the service opens it: MB, and TLS contexts."""
    os.environ |= KEYS
    settings = Settings(aws_endpoint_url=endpoint, aws_own_account=OWN_ACCOUNT, max_in_flight=IN_FLIGHT)
    lanes = product((f"{111122220000 + number}" for number in range(count)), _REGIONS)

    async def run() -> tuple[float, int]:
        app = App(settings)
        before_mb, contexts_before = _rss_mb(), _tls_contexts()
        async with app.open_aws() as aws:

            async def one_after_the_other() -> None:
                for account, region in lanes:
                    key = key_arn(f"arn:aws:kms:{region}:{account}:key/0d9ac4b8-0001-4000-8000-000000000001")
                    await aws.log_groups.associate(LogGroup.of(account, region, "/tenant/app"), key)

            await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
            return _rss_mb() - before_mb, _tls_contexts() - contexts_before

    return asyncio.run(run())


def _one_more_client(endpoint: str) -> float:
    """What one more client of a shared session weighs once it has been called (MB)."""
    os.environ |= KEYS

    async def run() -> float:
        session = AioSession()

        async def call() -> None:
            client = await session.create_client("logs", region_name=_REGIONS[0], endpoint_url=endpoint).__aenter__()
            clients.append(client)
            await client.associate_kms_key(resourceIdentifier="arn", kmsKeyId="arn")

        clients: list = []
        await call()
        before_mb = _rss_mb()
        for _ in range(_CLIENTS_TRIED):
            await call()
        grown_mb = _rss_mb() - before_mb
        for client in clients:
            await client.close()
        return grown_mb / _CLIENTS_TRIED

    return asyncio.run(run())


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def _tls_contexts() -> int:
    gc.collect()
    return sum(isinstance(thing, ssl.SSLContext) for thing in gc.get_objects())
