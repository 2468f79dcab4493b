"""Tokens for brokers that ask for one at each connection, handed to aiokafka.

aiokafka 0.14 sends the token when it connects and never again (no KIP-368): a broker that lets a session end with its token closes the
connection at the next request, unanswered. That is like any other broken connection: the request is repeated over a new one, with a new
token.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from service.domain.outcome import CallFailedError

_WARN_EVERY_S: Final = 30.0  # a client that cannot connect tries several times a second

_log = structlog.get_logger(__name__)


class NoTokenError(KafkaError):  # type: ignore[misc]
    """No token could be made, so there is no connection yet: aiokafka tries again after this one, as after every error of its own."""


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """A new token for each connection."""

    def __init__(self, make: Callable[[], Awaitable[str]]) -> None:
        """`make` raises CallFailedError, for a lack of credentials."""
        self._make = make
        self._warned_at = float("-inf")

    async def token(self) -> str:
        """Raises NoTokenError, and says why once in a while: aiokafka's own words are not logged."""
        try:
            return await self._make()
        except CallFailedError as e:
            now = asyncio.get_running_loop().time()
            if now - self._warned_at >= _WARN_EVERY_S:
                self._warned_at = now
                _log.warning("kafka_token_missing", failure=e.failure.label, detail=e.detail, hint=e.failure.hint)
            raise NoTokenError(f"no token for the broker: {e.failure.label}: {e.detail}") from e
