"""`logwarden dead-letters`: what is on the dead-letter topic, and back to where it came from.

Where reading came to is kept nowhere: each time the whole topic is read, as it is when the command begins, so that a replay never meets
the letters that it leads to. What is written goes through the service's own publisher, which knows a key's partition.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from heapq import heappush, heappushpop
from itertools import zip_longest
from typing import Final

from aiokafka.errors import KafkaError

from service.brokers import kafka_arguments
from service.domain.command import Origin
from service.domain.replay import DeadLetter, Selection
from service.ports import OutgoingRecord, Publisher, RecordTooLargeError
from service.settings import Settings
from service.stream.backlog import backlog
from service.stream.reach import PATIENCE_S, UnreachableError, reached

_AT_ONCE: Final = 500  # letters on their way: most are some hundred bytes
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024  # some are up to 2 MiB, and in a pod it is the service's memory


class DeadLettersError(Exception):
    """Kafka does not answer; the text says how far it came."""


@dataclass(slots=True)
class Listed:
    """How many letters there are by failure class, and the newest of them without their values, the oldest first."""

    counts: Counter[str] = field(default_factory=Counter)
    newest: list[DeadLetter] = field(default_factory=list)


async def list_letters(settings: Settings, selection: Selection, *, limit: int) -> Listed:
    """The letters that are meant. Raises DeadLettersError. Holds `limit` of them in memory at the most."""
    listed, heap = Listed(), list[tuple[int, int, int, DeadLetter]]()
    async with _explained(settings, lambda: "Nothing was written."), aclosing(_letters(settings, selection)) as letters:
        async for letter in letters:
            listed.counts[letter.failure] += 1
            entry = (letter.at_ms, letter.place.partition, letter.place.offset, with_fields(letter, value=None))
            if len(heap) < limit:
                heappush(heap, entry)
            else:
                heappushpop(heap, entry)
    listed.newest = [letter for *_, letter in sorted(heap, key=lambda entry: entry[:3])]
    return listed


@dataclass(slots=True)
class Replayed:
    """How many letters went to which topic, by failure class and topic; and those that could not, with the reason."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: list[tuple[Origin, str]] = field(default_factory=list)


async def replay(settings: Settings, selection: Selection, *, limit: int | None, is_dry_run: bool) -> Replayed:
    """Write the letters that are meant, `limit` of them at the most, to their topics again: key, bytes and headers as they were.

    Raises DeadLettersError. It may be repeated, and ended at any time: a letter stays where it is, and one that was replayed already leads
    to one more look at its log group.
    """
    topics = {settings.work_topic, *settings.source_topics}
    done, waiting, size = Replayed(), list[DeadLetter](), 0

    async def write(publisher: Publisher) -> None:
        async with asyncio.timeout(PATIENCE_S):
            refusals = await asyncio.gather(*([] if is_dry_run else [_write(publisher, each) for each in waiting]))
        for letter, refusal in zip_longest(waiting, refusals):
            if refusal is None:
                done.counts[letter.failure, letter.topic] += 1
            else:
                done.left.append((letter.place, refusal))
        waiting.clear()

    async with (
        _explained(settings, lambda: f"{done.counts.total()} were replayed, and maybe some more."),
        reached(kafka_arguments(settings), settings.dead_letter_topic, *topics) as publisher,
        aclosing(_letters(settings, selection)) as letters,
    ):
        async for letter in letters:
            if (why_not := letter.why_not(topics)) is not None:
                done.left.append((letter.place, why_not))
                continue
            waiting.append(letter)
            is_enough = limit is not None and done.counts.total() + len(waiting) >= limit
            size += len(letter.value or b"")
            if is_enough or len(waiting) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                size = 0
                await write(publisher)
            if is_enough:
                break
        await write(publisher)
    return done


async def _letters(settings: Settings, selection: Selection) -> AsyncGenerator[DeadLetter, None]:
    async with aclosing(backlog(kafka_arguments(settings), settings.dead_letter_topic)) as records:
        async for record in records:
            place = Origin(record.topic, record.partition, record.offset)
            letter = DeadLetter.of(place, record.timestamp_ms, record.key, record.value, record.headers)
            if selection.takes(letter):
                yield letter


async def _write(publisher: Publisher, letter: DeadLetter) -> str | None:
    """None once the broker has it, or why it never will."""
    try:
        await publisher.publish(OutgoingRecord(letter.topic, letter.key, letter.value, letter.headers))
    except RecordTooLargeError as e:
        return f"it is too large for {e}"
    return None


@asynccontextmanager
async def _explained(settings: Settings, how_far: Callable[[], str]) -> AsyncGenerator[None, None]:
    """Raise DeadLettersError for whatever Kafka does."""
    try:
        yield
    except UnreachableError as e:
        raise DeadLettersError(str(e)) from e
    except (KafkaError, OSError) as e:  # a TimeoutError is one
        why = str(e) or type(e).__name__
        raise DeadLettersError(f"{settings.kafka_bootstrap_servers} does not answer. {how_far()} ({why})") from e
