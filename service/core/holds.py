"""Tells all replicas which lanes of this one are held, and why, so that whoever asks any of them what became of a log group is told."""

import asyncio
from dataclasses import dataclass

from service.domain.held import VALID_MS, HeldLane, HeldLanes, key_of
from service.domain.log_group import Lane
from service.domain.outcome import FailureClass
from service.ports import Clock, OutgoingRecord, Publisher


@dataclass(slots=True)
class _Hold:
    """`at_ms` is when the lane was last found held (ms since 1970)."""

    since_ms: int
    at_ms: int
    is_said: bool = False


class Holds:
    """What `held` and `released` are told is written in the background, the last word on each lane; while Kafka is away it waits.

    A lane is spoken of from its second hold on, which is some seconds after the first: what passes by then needs no explanation.
    """

    def __init__(self, *, publisher: Publisher, clock: Clock, topic: str, known: HeldLanes) -> None:
        """`known` is what all replicas have said."""
        self._publisher = publisher
        self._clock = clock
        self._topic = topic
        self._known = known
        self._holds: dict[Lane, _Hold] = {}
        self._unwritten: dict[Lane, bytes | None] = {}
        self._has_some = asyncio.Event()

    def held(self, lane: Lane, failure: FailureClass, detail: str) -> None:
        """The lane waits, or waits again: to be told each time."""
        now_ms = self._clock.epoch_ms()
        before = self._known.find(lane, now_ms=now_ms)  # by whoever owned the lane, which may be this replica
        hold = self._holds.get(lane)
        if hold is not None and now_ms - hold.at_ms > VALID_MS:
            hold = None  # the lane has been somebody else's since
        if hold is None and before is None:
            self._holds[lane] = _Hold(now_ms, now_ms)
            return
        since_ms = min(known.since_ms for known in (hold, before) if known is not None)
        self._holds[lane] = _Hold(since_ms, now_ms, is_said=True)
        self._write(
            lane, HeldLane(lane=lane, failure=failure.label, detail=detail, since_ms=since_ms, at_ms=now_ms).to_bytes()
        )

    def released(self, lane: Lane) -> None:
        """The lane goes on."""
        hold = self._holds.pop(lane, None)
        if hold is not None and hold.is_said:
            self._write(lane, None)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._has_some.wait()
            while self._unwritten:
                lane = next(iter(self._unwritten))
                value = self._unwritten.pop(lane)
                await self._publisher.publish(OutgoingRecord(self._topic, key_of(lane), value))
            self._has_some.clear()

    def _write(self, lane: Lane, value: bytes | None) -> None:
        self._unwritten[lane] = value
        self._has_some.set()
