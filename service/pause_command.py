"""`logwarden pause` and `logwarden resume`: over REST, or straight onto the control topic, where no replica has to be up."""

import asyncio
import getpass
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from aiokafka.errors import KafkaError

from service.clock import LoopClock
from service.control import Control, NotAcknowledgedError, PausedByAnotherError
from service.domain.control import MAX_NAME, InvalidReasonError, Paused
from service.http.status import PauseState
from service.settings import Settings
from service.stream.connection import client_arguments
from service.stream.follower import Follower, following
from service.stream.publisher import KafkaPublisher
from service.stream.topics import TopicsMissingError, require_topics

_TIMEOUT_S: Final = 30.0  # a person is waiting; a broker's failover takes a few seconds


class PauseError(Exception):
    """The service could not be told; the text says why."""


async def say_by_kafka(settings: Settings, reason: str | None) -> dict[str, Any]:
    """Pause for a reason, or resume where there is none; returns what Kafka has acknowledged. Raises PauseError.

    The topic has to exist: one that the broker makes by itself would be compacted by nobody, and forget the pause in a week.
    """
    try:
        if reason is not None:
            Paused.of(by=_name(), at_ms=0, reason=reason)  # what is no reason is said without Kafka
        async with asyncio.timeout(_TIMEOUT_S), _control(settings) as control:
            word = await (control.resume(by=_name()) if reason is None else control.pause(by=_name(), reason=reason))
    except (InvalidReasonError, TopicsMissingError, PausedByAnotherError) as e:
        raise PauseError(str(e)) from e
    except (TimeoutError, NotAcknowledgedError) as e:
        raise PauseError(f"{settings.kafka_bootstrap_servers} does not acknowledge; it may be written yet") from e
    except (KafkaError, OSError) as e:
        raise PauseError(f"{settings.kafka_bootstrap_servers}: {e}; nothing was written") from e
    return PauseState.of(word).model_dump()


@asynccontextmanager
async def _control(settings: Settings) -> AsyncIterator[Control]:
    arguments, topic = client_arguments(settings), settings.control_topic
    await require_topics(arguments, [topic])
    follower = Follower(topic=topic, arguments=arguments)
    async with KafkaPublisher(arguments) as publisher:
        control = Control(publisher=publisher, clock=LoopClock(), topic=topic, caught_up=follower.caught_up)
        async with following(follower, control.apply):
            yield control


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
