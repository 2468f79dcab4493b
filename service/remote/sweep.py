"""What `logwarden sweep` and `logwarden rekey` do: ask for a sweep over the REST API or straight over Kafka, and wait for its end."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from service.brokers import kafka_arguments
from service.clock import LoopClock
from service.core.sweep import OTHER_TENANT
from service.core.sweep_requests import NoLanesError, SweepRequests, lanes_to_sweep
from service.core.waiting import CatchingUpError, NotAcknowledgedError
from service.domain.log_group import AccountId, Region, TenantId
from service.domain.outcome import CallFailedError, State
from service.domain.sweep import is_sweep_record
from service.domain.sweep_book import SweepBook
from service.registry.opening import open_registry
from service.registry.source import Unobserved
from service.remote.rest import ANSWER_S, Service
from service.settings import Settings
from service.stream.follower import Follower, following
from service.stream.reach import PATIENCE_S, UnreachableError, reached

_LOOK_S: Final = 10.0  # of waiting in one look at a sweep that goes on
_BETWEEN_S: Final = 1.0  # between two looks, where nobody may wait, or the replica is not ready
_SETTLED: Final = frozenset({*State, OTHER_TENANT} - {State.FAILED, State.DEFERRED})


class SweepError(Exception):
    """The sweep cannot be asked for or followed; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to sweep, as it was typed and checked; each may be left out."""

    accounts: Collection[AccountId] = ()
    regions: Collection[Region] = ()
    tenant: TenantId | None = None


def is_right(status: Mapping[str, Any]) -> bool:
    """Whether a sweep is done and left nothing to do: what was deferred, failed or given up makes it wrong."""
    return status["state"] == "done" and not status["lanes"]["failed"] and set(status["counts"]) <= _SETTLED


async def sweep_by_rest(service: Service, wanted: Wanted, *, wait_s: float) -> AsyncGenerator[dict[str, Any], None]:
    """The sweep as it stands when it was asked for, and every few seconds until its end, for `wait_s` seconds. Raises RestError."""
    ends_at = time.monotonic() + wait_s
    body = {"accounts": list(wanted.accounts) or None, "regions": list(wanted.regions) or None, "tenant": wanted.tenant}
    async with httpx.AsyncClient(headers=service.headers, timeout=_LOOK_S + ANSWER_S) as http:
        url = f"{service.url.rstrip('/')}/v1/sweeps"
        with service.asked():
            status = service.document(await http.post(url, json=body))
        yield status
        while status["state"] != "done" and (left_s := ends_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, _BETWEEN_S))
            prefer = {"Prefer": f"wait={min(left_s, _LOOK_S):.0f}"}
            with service.asked():
                response = await http.get(f"{url}/{status['id']}", headers=prefer)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # a replica that has just started
                status = service.document(response)
                yield status


async def sweep_by_kafka(settings: Settings, wanted: Wanted, *, wait_s: float) -> AsyncGenerator[dict[str, Any], None]:
    """The same straight over Kafka, with the registry that the settings name. Raises SweepError, and TenantFileError."""
    clock = LoopClock()
    ends_at = clock.now() + wait_s
    try:
        async with open_registry(settings, clock=clock, observer=Unobserved()) as registry, _sweeps(settings) as sweeps:
            lanes = await lanes_to_sweep(
                registry, accounts=wanted.accounts, regions=wanted.regions, tenant=wanted.tenant
            )
            async with asyncio.timeout(PATIENCE_S):
                asked = await sweeps.ask(lanes, tenant=wanted.tenant, caller="command line")
            yield asked.as_dict()
            is_done = asked.is_done
            while not is_done and (left_s := ends_at - clock.now()) > 0:
                status = await sweeps.done(asked.id, min(left_s, _LOOK_S))
                if status is None:
                    raise SweepError(f"{asked.id} is older than the requests topic remembers")
                is_done = status.is_done
                yield status.as_dict()
    except (NoLanesError, CallFailedError, UnreachableError) as e:
        raise SweepError(str(e)) from e
    except (TimeoutError, NotAcknowledgedError, CatchingUpError) as e:
        raise SweepError(f"{settings.kafka_bootstrap_servers} does not answer; a part may be asked for") from e


@asynccontextmanager
async def _sweeps(settings: Settings) -> AsyncIterator[SweepRequests]:
    arguments = kafka_arguments(settings)
    follower = Follower(topic=settings.requests_topic, arguments=arguments)

    def follow(_: bytes | None, value: bytes | None) -> None:
        if value is not None and is_sweep_record(value):
            sweeps.apply(value)

    async with reached(arguments, settings.requests_topic, settings.work_topic) as publisher:
        sweeps = SweepRequests(
            publisher=publisher,
            clock=LoopClock(),
            book=SweepBook(capacity=1_000_000),
            requests_topic=settings.requests_topic,
            work_topic=settings.work_topic,
            caught_up=follower.caught_up,
        )
        async with following(follower, follow):
            yield sweeps
