"""How brokers are reached: the arguments that every aiokafka client takes, and waiting for a broker that is away."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context

from service.settings import Settings, SettingsError
from service.stream.token import TokenProvider

_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 15.0  # a broker that comes back is noticed within this
_CLOSE_TIMEOUT_S: Final = 10.0  # aiokafka's stop() can hang or fail when the broker is away
# Of the time that is left, what one step of the stop may take: some come after it, and none may take it all.
_SHARE: Final = 1 / 3

_log = structlog.get_logger(__name__)
T = TypeVar("T")


def client_arguments(settings: Settings, *, make_token: Callable[[], Awaitable[str]] | None = None) -> dict[str, Any]:
    """Keyword arguments for AIOKafkaConsumer, AIOKafkaProducer and AIOKafkaAdminClient; `service.brokers` is where to get them.

    `make_token` makes the proof of who connects, where that takes more than the settings; raises CallFailedError when it cannot.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "client_id": "logwarden",
        "security_protocol": settings.kafka_security_protocol,
        "request_timeout_ms": 30_000,
    }
    if make_token is not None:
        arguments |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": TokenProvider(make_token)}
    elif settings.kafka_security_protocol.startswith("SASL"):
        password = settings.kafka_sasl_password
        arguments |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    if settings.kafka_security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings)
    return arguments


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=settings.kafka_ssl_cafile and str(settings.kafka_ssl_cafile),
            certfile=settings.kafka_ssl_certfile and str(settings.kafka_ssl_certfile),
            keyfile=settings.kafka_ssl_keyfile and str(settings.kafka_ssl_keyfile),
        )
    except OSError as e:  # ssl.SSLError is one
        raise SettingsError(f"LOGWARDEN_KAFKA_SSL_...: the certificates or the key cannot be read: {e}") from e
    return context


class NotReadyError(Exception):
    """The broker answers, but something that we need is not there yet; the text says what."""


async def until_connected(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat `attempt` until it gets through, saying so each time that it does not; never gives up, ends only by cancellation."""
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return await attempt()
        except (NotReadyError, KafkaError, OSError, TimeoutError) as e:
            _log.warning("kafka_not_ready", waiting_for=what, error=str(e) or type(e).__name__, retry_in_s=wait_s)
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


class Deadline:
    """When the stop of the whole process is to be over; there is none until it begins. Seconds, on the event loop's clock."""

    def __init__(self) -> None:
        self._at: float | None = None

    def begin(self, in_s: float) -> None:
        """Let it be over in `in_s` seconds from now."""
        self._at = asyncio.get_running_loop().time() + in_s

    def share_s(self, most_s: float = _CLOSE_TIMEOUT_S) -> float:
        """How long a step that needs `most_s` seconds at the most may take from now on."""
        if self._at is None:
            return most_s
        return min(most_s, max(0.0, self._at - asyncio.get_running_loop().time()) * _SHARE)


async def close_quietly(
    what: str, close: Callable[[], Awaitable[None]], *, timeout_s: float = _CLOSE_TIMEOUT_S
) -> None:
    """Close a client within `timeout_s` seconds, in a task of its own.

    With the broker away aiokafka's stop() hangs, or raises a CancelledError that nobody asked for, so neither may reach the caller; our
    own cancellation does.
    """
    task = asyncio.ensure_future(close())
    _, late = await asyncio.wait([task], timeout=timeout_s)
    if late:
        task.cancel()
        await asyncio.wait([task], timeout=1)
        _log.warning("kafka_close_timed_out", client=what, timeout_s=round(timeout_s, 3))
    elif task.cancelled() or task.exception() is not None:
        _log.warning(
            "kafka_close_failed", client=what, error="cancelled" if task.cancelled() else str(task.exception())
        )
