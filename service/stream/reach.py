"""Kafka for a command that somebody waits for: where the service waits out every fault, this says so at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aiokafka.errors import KafkaError

from service.stream.publisher import KafkaPublisher
from service.stream.topics import TopicsMissingError, require_topics

PATIENCE_S: Final = 30.0  # a person is waiting; a broker's failover takes a few seconds


class UnreachableError(Exception):
    """Kafka does not answer, or lacks a topic. Nothing was written."""


@asynccontextmanager
async def reached(arguments: dict[str, Any], *topics: str) -> AsyncIterator[KafkaPublisher]:
    """A publisher, once Kafka has answered and has these topics. Raises UnreachableError, after a few seconds where nobody is there.

    A topic that the broker would make by itself is refused too: it would have neither our partitions nor our retention.
    """
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await require_topics(arguments, topics)
                publisher = await stack.enter_async_context(KafkaPublisher(arguments))
        except TopicsMissingError as e:
            raise UnreachableError(f"{e}. Nothing was written.") from e
        except (KafkaError, OSError) as e:  # a TimeoutError is one
            why = str(e) or type(e).__name__
            raise UnreachableError(
                f"{arguments['bootstrap_servers']} does not answer. Nothing was written. ({why})"
            ) from e
        yield publisher
