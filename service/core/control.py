"""Pause and resume of the whole service: written to the control topic, and followed by every replica.

A change takes effect when it is read back from the topic, also on the replica that wrote it, so that all replicas see one order. A
paused replica goes on reading, answering and taking requests; it starts nothing and calls nobody.
"""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from service.core.dispatcher import Dispatcher
from service.core.waiting import ACK_TIMEOUT_S, CATCH_UP_TIMEOUT_S, CatchingUpError, acknowledged, catch_up
from service.domain.control import KEY, MalformedControlRecordError, Paused, Resumed, Word, word_from_record
from service.domain.held import is_of_a_lane
from service.ports import Clock, OutgoingRecord, Publisher

_log = structlog.get_logger(__name__)


class PausedByAnotherError(Exception):
    """Somebody else has paused the service: `paused` says who, when and why."""

    def __init__(self, paused: Paused) -> None:
        since = datetime.fromtimestamp(paused.at_ms / 1000, UTC).isoformat(timespec="seconds")
        super().__init__(f"{paused.by} has paused the service since {since}: {paused.reason}")
        self.paused = paused


class Control:
    """The last word, and what follows from it.

    `caught_up` returns when everything that was on the control topic at the time of the call has come through `apply`; it waits while
    the broker is away. Time limits are in seconds.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        clock: Clock,
        topic: str,
        caught_up: Callable[[], Awaitable[None]],
        ack_timeout_s: float = ACK_TIMEOUT_S,
        catch_up_timeout_s: float = CATCH_UP_TIMEOUT_S,
    ) -> None:
        self._publisher = publisher
        self._clock = clock
        self._topic = topic
        self._caught_up = caught_up
        self._ack_timeout_s = ack_timeout_s
        self._catch_up_timeout_s = catch_up_timeout_s
        self._word: Word | None = None
        self._dispatcher: Dispatcher | None = None
        self.is_known = False
        self.changed_at = float("-inf")

    # -- what there is to see

    @property
    def paused(self) -> Paused | None:
        """Who paused the service, when and why; None while it is to work, as far as this replica knows."""
        return self._word if isinstance(self._word, Paused) else None

    async def last_word(self) -> Word | None:
        """The last word that is on the topic now, None where there is none. Raises CatchingUpError after `catch_up_timeout_s`."""
        await catch_up(self._caught_up, within_s=self._catch_up_timeout_s)
        return self._word

    # -- what follows from it

    def attach(self, dispatcher: Dispatcher) -> None:
        """Let a dispatcher work only while the service is not paused."""
        self._dispatcher = dispatcher
        if self.paused:
            dispatcher.suspend()

    async def until_known(self) -> None:
        """Return once the last word is known and heeded; waits while the broker is away. From then on changes are logged."""
        await self._caught_up()
        if not self.is_known:
            self.is_known = True
            if self.paused:
                self._tell()

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take in a record of the control topic; no value means a word that was deleted. One that is not ours is logged and passed over,
        unless it is about a lane, for which `HeldLanes` is there.
        """
        if is_of_a_lane(key):
            return
        try:
            word = word_from_record(key, value)
        except MalformedControlRecordError as e:
            _log.warning("control_record_skipped", topic=self._topic, reason=str(e))
            return
        before, self._word = self._word, word
        if word == before:
            return
        was_paused = isinstance(before, Paused)
        if was_paused != (self.paused is not None):
            self.changed_at = self._clock.now()
            if self._dispatcher is not None:
                if was_paused:
                    self._dispatcher.resume()
                else:
                    self._dispatcher.suspend()
        if self.is_known and (was_paused or self.paused):
            self._tell()

    def _tell(self) -> None:
        match self._word:
            case Paused(by=by, reason=reason):
                _log.warning("service_paused", by=by, reason=reason)
            case Resumed(by=by):
                _log.warning("service_resumed", by=by)
            case None:
                _log.warning("service_resumed", by=None, reason="the record on the control topic was deleted")

    # -- what is said

    async def pause(self, *, by: str, reason: str) -> Paused:
        """Pause the service, all replicas; returns once Kafka has acknowledged it.

        A pause in force keeps its age. Its author may change the reason; others are refused, since one resume would end both.
        Raises InvalidReasonError, PausedByAnotherError, and NotAcknowledgedError after `ack_timeout_s`.
        A pause that is cancelled may be in force all the same.
        """
        pause = Paused.of(by=by, at_ms=self._clock.epoch_ms(), reason=reason)
        with contextlib.suppress(CatchingUpError):  # a replica that is behind pauses too: what it knows may be over
            if isinstance(now := await self.last_word(), Paused):
                if now.by != by:
                    raise PausedByAnotherError(now)
                pause = replace(pause, at_ms=now.at_ms)
        await self._say(pause)
        return pause

    async def resume(self, *, by: str, is_forced: bool = False) -> Word | None:
        """Let all replicas work; returns the last word once Kafka has acknowledged it. Where none is paused, nothing is written.

        Raises PausedByAnotherError, and CatchingUpError as `last_word` does, unless `is_forced`: then it is said whoever made the pause,
        and also by a replica that cannot tell. Raises NotAcknowledgedError after `ack_timeout_s`.
        """
        try:
            if not isinstance(word := await self.last_word(), Paused):
                return word
            if word.by != by and not is_forced:
                raise PausedByAnotherError(word)
        except CatchingUpError:
            if not is_forced:
                raise
        resumed = Resumed(by=by, at_ms=self._clock.epoch_ms())
        await self._say(resumed)
        return resumed

    async def _say(self, word: Word) -> None:
        async with acknowledged("the word", within_s=self._ack_timeout_s):
            await self._publisher.publish(OutgoingRecord(self._topic, KEY, word.to_bytes()))
        with contextlib.suppress(CatchingUpError):  # so that who asks this replica next is told of it
            await self.last_word()
