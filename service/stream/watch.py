"""Watches over one group member: how far the partitions go, and whether their records still come.

aiokafka's fetching can end without a word, and getmany() returns nothing for ever. That is noticed here, and ends the process.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from service.ports import Clock
from service.stream.assignment import Assignment

_MEASURE_S: Final = 5.0  # how old a lag may be: one small request to each broker in that time

_log = structlog.get_logger(__name__)


class FetchStalledError(Exception):
    """There are records, the broker answers, and none come: aiokafka's fetching has ended. Only a new consumer helps."""


class Watch:
    """Looks at the current assignment of one member. Times are in seconds; `fetched` are the partitions that are asked for now."""

    def __init__(
        self,
        *,
        name: str,
        clock: Clock,
        assignment: Callable[[], Assignment],
        fetched: Callable[[], list[TopicPartition]],
        stall_s: float,
        timeout_s: float,
    ) -> None:
        self._name = name
        self._clock = clock
        self._assignment = assignment
        self._fetched = fetched
        self._stall_s = stall_s
        self._timeout_s = timeout_s

    async def measure(self, consumer: AIOKafkaConsumer) -> None:
        """Ask for the end of every partition again and again, until cancelled: a fetch tells it only of those that are fetched."""
        while True:
            assignment = self._assignment()
            if assignment.ledgers:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        ends = await consumer.end_offsets(list(assignment.ledgers))
                    assignment.measured(ends, self._clock.now())
                except (KafkaError, TimeoutError) as e:
                    _log.debug("ends_unknown", consumer=self._name, error=str(e) or type(e).__name__)
            await asyncio.sleep(_MEASURE_S)

    async def stalls(self, consumer: AIOKafkaConsumer) -> None:
        """Raise FetchStalledError when records are there and do not come; not while the broker is away, since no restart would help.

        Only two checks in a row at the same position count: at one, a partition that was held back until a moment ago looks the same, and
        so does one whose broker has just come back.
        """
        suspected: dict[TopicPartition, int] = {}
        while True:
            await asyncio.sleep(self._stall_s / 4)
            behind = await self._behind(consumer)
            for tp, (position, end) in behind.items():
                if suspected.get(tp) == position:
                    raise FetchStalledError(f"{tp.topic}/{tp.partition} stays at {position} of {end}")
            suspected = {tp: position for tp, (position, _) in behind.items()}

    async def _behind(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, tuple[int, int]]:
        """The partitions that have room and records, and no answer to a fetch for `stall_s`: position and end of each."""
        assignment = self._assignment()
        before_ms = self._clock.epoch_ms() - self._stall_s * 1000
        fetchable = set(self._fetched()) & consumer.assignment()
        stale = [tp for tp in fetchable if (consumer.last_poll_timestamp(tp) or assignment.joined_at_ms) < before_ms]
        if not stale:
            return {}
        try:
            async with asyncio.timeout(self._timeout_s):
                ends = await consumer.end_offsets(stale)
                positions = {tp: await consumer.position(tp) for tp in stale}
        except (KafkaError, TimeoutError):
            return {}
        is_same = assignment is self._assignment()
        return {tp: (positions[tp], ends[tp]) for tp in stale if is_same and positions[tp] < ends[tp]}
