"""`logwarden pause` and `logwarden resume`: over REST, or straight onto the control topic, where no replica has to be up."""

import asyncio
import getpass
import socket
from typing import Any, Final

import httpx
from aiokafka.errors import KafkaError

from service.clock import LoopClock
from service.domain.control import KEY, MAX_NAME, InvalidReasonError, Paused, Resumed
from service.http.status import PauseState
from service.ports import OutgoingRecord
from service.settings import Settings
from service.stream.connection import client_arguments
from service.stream.publisher import KafkaPublisher
from service.stream.topics import TopicsMissingError, require_topics

_TIMEOUT_S: Final = 30.0  # a person is waiting; a broker's failover takes a few seconds


class PauseError(Exception):
    """The service could not be told; the text says why."""


async def say_by_kafka(settings: Settings, reason: str | None) -> dict[str, Any]:
    """Pause for a reason, or resume where there is none; returns what Kafka has acknowledged. Raises PauseError.

    The topic has to exist: one that the broker makes by itself would be compacted by nobody, and forget the pause in a week.
    """
    at_ms = LoopClock().epoch_ms()
    arguments = client_arguments(settings)
    try:
        word = Resumed(by=_name(), at_ms=at_ms) if reason is None else Paused.of(by=_name(), at_ms=at_ms, reason=reason)
        async with asyncio.timeout(_TIMEOUT_S):
            await require_topics(arguments, [settings.control_topic])
            async with KafkaPublisher(arguments) as publisher:
                await publisher.publish(OutgoingRecord(settings.control_topic, KEY, word.to_bytes()))
    except (InvalidReasonError, TopicsMissingError) as e:
        raise PauseError(str(e)) from e
    except TimeoutError as e:
        raise PauseError(f"{settings.kafka_bootstrap_servers} does not acknowledge; it may be written yet") from e
    except (KafkaError, OSError) as e:
        raise PauseError(f"{settings.kafka_bootstrap_servers}: {e}") from e
    return PauseState.of(word).model_dump()


def say_by_rest(url: str, token: str, reason: str | None) -> dict[str, Any]:
    """The same over REST, as the token's name. Raises PauseError."""
    method, body = ("DELETE", None) if reason is None else ("PUT", {"reason": reason})
    headers = {"Authorization": f"Bearer {token}"}
    try:
        response = httpx.request(method, f"{url.rstrip('/')}/v1/pause", json=body, headers=headers, timeout=_TIMEOUT_S)
    except httpx.InvalidURL as e:
        raise PauseError(f"{url} is no address: {e}") from e
    except httpx.HTTPError as e:
        raise PauseError(f"{url} does not answer: {e}") from e
    answer: dict[str, Any] = response.json() if response.headers.get("content-type", "").endswith("json") else {}
    if response.is_error or "paused" not in answer:
        title = answer.get("title", response.reason_phrase)
        details = [answer.get("detail", ""), *(error["detail"] for error in answer.get("errors", ()))]
        raise PauseError(f"{response.status_code}: {title}. {' '.join(d for d in details if d)}")
    return answer


def _name() -> str:
    """Who is at the command line, as far as the machine knows: in a pod the user has no name."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = "cli"
    name = f"{user}@{socket.gethostname()}"
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)[:MAX_NAME]
