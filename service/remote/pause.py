"""`logwarden pause` and `logwarden resume`: over REST, or straight onto the control topic, where no replica has to be up."""

import getpass
import socket
from typing import Any

import httpx

from service.brokers import kafka_arguments
from service.clock import LoopClock
from service.core.control import Control, PausedByAnotherError
from service.core.waiting import CatchingUpError, NotAcknowledgedError
from service.domain.control import MAX_NAME, InvalidReasonError, Paused
from service.http.status import PauseState
from service.remote.rest import ANSWER_S, Service
from service.settings import Settings
from service.stream.follower import Follower, following
from service.stream.reach import UnreachableError, reached


class PauseError(Exception):
    """The service could not be told; the text says why."""


async def say_by_kafka(settings: Settings, reason: str | None, *, is_forced: bool = False) -> dict[str, Any]:
    """Pause for a reason, or resume where there is none; returns the last word on Kafka then. Raises PauseError.

    `is_forced` ends the pause of somebody else, too.

    The topic has to exist: one that the broker makes by itself would be compacted by nobody, and forget the pause in a week.
    """
    topic = settings.control_topic
    try:
        if reason is not None:
            Paused.of(by=_name(), at_ms=0, reason=reason)  # what is no reason is said without Kafka
        arguments = kafka_arguments(settings)
        async with reached(arguments, topic) as publisher:
            follower = Follower(topic=topic, arguments=arguments)
            control = Control(publisher=publisher, clock=LoopClock(), topic=topic, caught_up=follower.caught_up)
            async with following(follower, control.apply):
                word = await (
                    control.resume(by=_name(), is_forced=is_forced)
                    if reason is None
                    else control.pause(by=_name(), reason=reason)
                )
    except (InvalidReasonError, UnreachableError) as e:
        raise PauseError(str(e)) from e
    except PausedByAnotherError as e:
        raise PauseError(f"{e}. Agree on when it ends; `logwarden resume --force` ends it.") from e
    except CatchingUpError as e:
        raise PauseError(
            f"{settings.kafka_bootstrap_servers} does not tell whether somebody has paused the service"
        ) from e
    except NotAcknowledgedError as e:
        raise PauseError(f"{settings.kafka_bootstrap_servers} does not acknowledge; it may be written yet") from e
    return PauseState.of(word).model_dump()


def say_by_rest(service: Service, reason: str | None, *, is_forced: bool = False) -> dict[str, Any]:
    """The same over REST, as the token's name. Raises RestError."""
    method, body = ("DELETE", None) if reason is None else ("PUT", {"reason": reason})
    with service.asked():
        url = f"{service.url.rstrip('/')}/v1/pause"
        query = {"force": "true"} if is_forced else {}
        response = httpx.request(method, url, params=query, json=body, headers=service.headers, timeout=ANSWER_S)
    return service.document(response)


def _name() -> str:
    """Who is at the command line, as far as the machine knows: in a pod the user has no name."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = "cli"
    name = f"{user}@{socket.gethostname()}"
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)[:MAX_NAME]
