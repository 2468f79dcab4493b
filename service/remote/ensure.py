"""What `logwarden ensure` does: ask for log groups over the REST API and wait, or straight onto the work topic."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from service.brokers import kafka_arguments
from service.clock import LoopClock
from service.domain.command import EnsureCommand, Trigger
from service.domain.log_group import LogGroup
from service.ports import OutgoingRecord
from service.remote.rest import ANSWER_S, Service
from service.settings import Settings
from service.stream.reach import PATIENCE_S, UnreachableError, reached

_LOOK_S: Final = 20  # of waiting in one request: under the limits of the service and of usual proxies
_BETWEEN_S: Final = 1.0  # between two looks
_RIGHT: Final = frozenset({"sealed", "already-sealed", "excluded", "would-seal", "kept"})


class EnsureError(Exception):
    """Kafka could not be told; the text says why."""


async def ensure_by_kafka(settings: Settings, log_groups: Sequence[LogGroup]) -> None:
    """Return once Kafka has acknowledged a command for each. Raises EnsureError."""
    at_ms = LoopClock().epoch_ms()
    commands = [EnsureCommand(log_group=group, trigger=Trigger.REQUEST, accepted_at_ms=at_ms) for group in log_groups]
    try:
        async with reached(kafka_arguments(settings), settings.work_topic) as publisher, asyncio.timeout(PATIENCE_S):
            records = [
                OutgoingRecord(settings.work_topic, command.partition_key, command.to_bytes()) for command in commands
            ]
            await asyncio.gather(*map(publisher.publish, records))
    except UnreachableError as e:
        raise EnsureError(str(e)) from e
    except TimeoutError as e:
        raise EnsureError(
            f"{settings.kafka_bootstrap_servers} does not acknowledge; some commands may be written"
        ) from e


def ensure_by_rest(service: Service, log_groups: Sequence[LogGroup], *, wait_s: int) -> dict[str, Any]:
    """The request as it stands when all is said, or after `wait_s` seconds, or when nothing more is to come by then. Raises RestError."""
    ends_at = time.monotonic() + wait_s
    body = {"log_groups": [{"arn": group.arn} for group in log_groups]}
    with service.asked(), httpx.Client(headers=service.headers, timeout=_LOOK_S + ANSWER_S) as http:
        url = f"{service.url.rstrip('/')}/v1/requests"
        request = service.document(http.post(url, json=body, headers=_prefer(wait_s)))
        while request["state"] != "done" and _may_change(request, wait_s) and time.monotonic() + _BETWEEN_S < ends_at:
            time.sleep(_BETWEEN_S)
            response = http.get(f"{url}/{request['id']}", headers=_prefer(ends_at - time.monotonic()))
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # a replica that has just started
                request = service.document(response)
    return request


def is_right(request: Mapping[str, Any]) -> bool:
    """Whether every log group of a request is as it should be, or is to be left as it is."""
    return {group["state"] for group in request["log_groups"]} <= _RIGHT


def _prefer(wait_s: float) -> dict[str, str]:
    return {"Prefer": f"wait={min(int(wait_s), _LOOK_S)}"} if wait_s >= 1 else {}


def _may_change(request: Mapping[str, Any], wait_s: int) -> bool:
    """Whether a log group is outstanding, or deferred by no more than the whole wait."""
    return any(
        group["state"] == "pending" or (group["state"] == "deferred" and group.get("retry_in_s", 0) <= wait_s)
        for group in request["log_groups"]
    )
