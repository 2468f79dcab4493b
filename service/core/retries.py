"""The retry topics: each record goes back to the work topic when it is due.

One topic a delay, so that a topic's records come due in the order in which they were written, and one that is not due yet has
nothing urgent behind it. What is held here is bounded by what the consumer may have open.
"""

import asyncio
import heapq
from typing import Final

from service.core.forwarding import Forwarding
from service.core.worker import DUE_HEADER
from service.domain.offsets import Delivery
from service.ports import Clock, IncomingRecord, OutgoingRecord, Publisher

_LONGEST_TIMER_S: Final = 3600.0  # a due time far in the future is looked at again: clocks are set, headers are forged


class Retries(Forwarding):
    """Handles the records of the retry topics."""

    def __init__(self, *, publisher: Publisher, clock: Clock, work_topic: str, longest_delay_s: float) -> None:
        """No record is held for longer than `longest_delay_s`, whatever it says: a wrong clock would stop its partition."""
        super().__init__()
        self._longest_delay_ms = round(longest_delay_s * 1000)
        self._publisher = publisher
        self._clock = clock
        self._work_topic = work_topic
        self._held: list[tuple[int, int, IncomingRecord, Delivery]] = []
        self._serial = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """How many records wait here for their time."""
        return len(self._held)

    def handle(self, record: IncomingRecord, delivery: Delivery) -> None:
        """Hold the record until it is due; one that does not say when is due now."""
        self._serial += 1
        due_ms = min(_due_ms(record), self._clock.epoch_ms() + self._longest_delay_ms)
        heapq.heappush(self._held, (due_ms, self._serial, record, delivery))
        self._forward_due()

    async def drain(self, deadline_s: float) -> None:
        """Drop what is not due; what is being forwarded ends."""
        self._held.clear()
        self._set_timer(None)
        await super().drain(deadline_s)

    def _forward_due(self) -> None:
        now_ms = self._clock.epoch_ms()
        while self._held and self._held[0][0] <= now_ms:
            _, _, record, delivery = heapq.heappop(self._held)
            self.start(self._publisher.publish(OutgoingRecord(self._work_topic, record.key, record.value)), delivery)
        self._set_timer((self._held[0][0] - now_ms) / 1000 if self._held else None)

    def _set_timer(self, delay_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if delay_s is None else loop.call_later(min(delay_s, _LONGEST_TIMER_S), self._forward_due)


def _due_ms(record: IncomingRecord) -> int:
    due = dict(record.headers).get(DUE_HEADER) or b""  # Kafka has headers whose value is null
    return int(due) if due.isdigit() and len(due) <= 15 else 0
