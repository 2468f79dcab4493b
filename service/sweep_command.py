"""What `logwarden sweep` and `logwarden rekey` do: ask for a sweep over the REST API or straight over Kafka, and wait for its end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from service.clock import LoopClock
from service.domain.log_group import AccountId, Region, TenantId
from service.domain.outcome import CallFailedError, State
from service.domain.sweep import is_sweep_record
from service.domain.sweep_book import SweepBook
from service.registry.opening import open_registry
from service.registry.source import Unobserved
from service.requests import CatchingUpError, NotAcknowledgedError
from service.settings import Settings
from service.stream.connection import client_arguments
from service.stream.follower import Follower, following
from service.stream.publisher import KafkaPublisher
from service.sweep import OTHER_TENANT
from service.sweep_requests import NoLanesError, SweepRequests, lanes_to_sweep

_START_S: Final = 30.0  # a person is waiting; a broker's failover takes a few seconds
_LOOK_S: Final = 10.0  # between two looks at a sweep that goes on
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


async def sweep_by_rest(
    url: str, token: str, wanted: Wanted, *, is_awaited: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The sweep as it stands when it was asked for, and every few seconds until its end where that is awaited. Raises SweepError."""
    body = {"accounts": list(wanted.accounts) or None, "regions": list(wanted.regions) or None, "tenant": wanted.tenant}
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=_LOOK_S + _START_S) as http:
        status = _answer(url, await _send(http, "POST", "/v1/sweeps", json=body))
        yield status
        while is_awaited and status["state"] != "done":
            prefer = {"Prefer": f"wait={_LOOK_S:g}"}
            response = await _send(http, "GET", f"/v1/sweeps/{status['id']}", headers=prefer)
            if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # a replica that has just started
                await asyncio.sleep(float(response.headers.get("Retry-After", _LOOK_S)))
                continue
            status = _answer(url, response)
            yield status


async def _send(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    try:
        return await http.request(method, path, **options)
    except httpx.HTTPError as e:
        raise SweepError(f"{http.base_url} does not answer: {e}") from e


def _answer(url: str, response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError as e:
        raise SweepError(f"{url} answers with something that is not from this service") from e
    if response.is_error:
        errors = "".join(f"\n{error['detail']}" for error in answer.get("errors") or ())
        raise SweepError(f"{response.status_code}: {answer.get('title')}. {answer.get('detail')}{errors}")
    status: dict[str, Any] = answer
    return status


async def sweep_by_kafka(
    settings: Settings, wanted: Wanted, *, is_awaited: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The same straight over Kafka, with the registry that the settings name. Raises SweepError, and TenantFileError."""
    clock = LoopClock()
    async with open_registry(settings, clock=clock, observer=Unobserved()) as registry, _sweeps(settings) as sweeps:
        try:
            lanes = await lanes_to_sweep(
                registry, accounts=wanted.accounts, regions=wanted.regions, tenant=wanted.tenant
            )
            async with asyncio.timeout(_START_S):
                asked = await sweeps.ask(lanes, tenant=wanted.tenant, caller="command line")
            yield asked.as_dict()
            is_done = asked.is_done
            while is_awaited and not is_done:
                status = await sweeps.done(asked.id, _LOOK_S)
                if status is None:
                    raise SweepError(f"{asked.id} is older than the requests topic remembers")
                is_done = status.is_done
                yield status.as_dict()
        except (NoLanesError, CallFailedError) as e:
            raise SweepError(str(e)) from e
        except (TimeoutError, NotAcknowledgedError, CatchingUpError) as e:
            raise SweepError(f"{settings.kafka_bootstrap_servers} does not answer; a part may be asked for") from e


@asynccontextmanager
async def _sweeps(settings: Settings) -> AsyncIterator[SweepRequests]:
    arguments = client_arguments(settings)
    follower = Follower(topic=settings.requests_topic, arguments=arguments)

    def follow(_: bytes | None, value: bytes | None) -> None:
        if value is not None and is_sweep_record(value):
            sweeps.apply(value)

    try:
        async with asyncio.timeout(_START_S) as connecting, KafkaPublisher(arguments) as publisher:
            connecting.reschedule(None)
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
    except TimeoutError as e:
        raise SweepError(f"{settings.kafka_bootstrap_servers} does not answer") from e
