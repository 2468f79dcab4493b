"""What is on a topic at this moment, for a command that somebody waits for: no group, no commits, and an end."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from service.ports import IncomingRecord
from service.stream.connection import close_quietly
from service.stream.reach import PATIENCE_S
from service.stream.records import incoming
from service.stream.unreadable import RecordsByPartition, read_one

_POLL_MS: Final = 1000


async def backlog(arguments: Mapping[str, Any], topic: str) -> AsyncGenerator[IncomingRecord, None]:
    """Every record that is on the topic when reading begins, one partition after the other, each in its order.

    Raises KafkaError, and TimeoutError where the broker has said nothing for 30 s. Close it (`aclosing`) when it is left early.
    """
    consumer = AIOKafkaConsumer(topic, **arguments, auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await consumer.start()
            ends = await consumer.end_offsets(consumer.assignment())
        for tp, end in sorted(ends.items()):
            while True:
                async with asyncio.timeout(PATIENCE_S):
                    batches = await _next(consumer, tp, end)
                if batches is None:
                    break
                for record in batches.get(tp, ()):
                    if record.offset < end:
                        yield incoming(record)
    finally:
        await close_quietly(f"reader of {topic}", consumer.stop)


async def _next(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> RecordsByPartition | None:
    """More records of a partition, or none yet where a marker or a compacted record was passed; None at its end."""
    while (before := await consumer.position(tp)) < end:
        try:
            batches: RecordsByPartition = await consumer.getmany(tp, timeout_ms=_POLL_MS)
        except UnicodeDecodeError:
            consumer.seek(tp, before)  # some of what could be read is lost with what could not
            batches = await read_one(consumer, tp)
        if batches:
            return batches
    return None
