"""Manual requests: written to Kafka before they are answered for, and looked up on any replica.

A request is one ensure command for each of its log groups on the work topic, and then one record on the requests topic: whoever reads
it knows that every command is written. What becomes of them comes back over the requests topic, which every replica follows whole.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from weakref import WeakValueDictionary

import structlog

from service.domain.command import EnsureCommand, Trigger
from service.domain.log_group import LogGroup
from service.domain.request import (
    ENTROPY_BYTES,
    MalformedRequestRecordError,
    RequestAccepted,
    RequestBook,
    RequestStatus,
    is_request_id,
    new_request_id,
    record_from_bytes,
    repeated_request_id,
)
from service.ports import Clock, OutgoingRecord, Publisher

ACK_TIMEOUT_S: Final = 10.0  # a broker's failover takes a few seconds; a caller's own time limit is often 30
CATCH_UP_TIMEOUT_S: Final = 5.0  # a replica that keeps up needs milliseconds; one that has just started is asked again

_log = structlog.get_logger(__name__)


class NotAcknowledgedError(Exception):
    """Kafka has not acknowledged the whole of a request in time. What was written of it will be carried out."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"{request_id} is not acknowledged in full")
        self.request_id = request_id


class KeyReusedError(Exception):
    """An idempotency key came back with other log groups than the request that it belongs to."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the key belongs to {request_id}, which asks for other log groups")
        self.request_id = request_id


class CatchingUpError(Exception):
    """This replica has not read the requests topic to its end, so it cannot say that a request does not exist."""


class Requests:
    """Takes requests and answers for them.

    `caught_up` returns when everything that was on the requests topic at the time of the call has come through `apply`; it waits
    while the broker is away. Time limits are in seconds.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        clock: Clock,
        book: RequestBook,
        requests_topic: str,
        work_topic: str,
        caught_up: Callable[[], Awaitable[None]],
        ack_timeout_s: float = ACK_TIMEOUT_S,
        catch_up_timeout_s: float = CATCH_UP_TIMEOUT_S,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._publisher = publisher
        self._clock = clock
        self._book = book
        self._requests_topic = requests_topic
        self._work_topic = work_topic
        self._caught_up = caught_up
        self._ack_timeout_s = ack_timeout_s
        self._catch_up_timeout_s = catch_up_timeout_s
        self._random_bytes = random_bytes
        self._waited_for: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # gone with the last waiter
        self._is_closed = False

    async def submit(
        self, log_groups: Sequence[LogGroup], *, caller: str, idempotency_key: str | None = None
    ) -> RequestStatus:
        """Ask for some log groups; returns once Kafka has acknowledged every record of it.

        A repeat with the caller's same `idempotency_key` is the same request: it only sends again what has no outcome yet. Raises
        KeyReusedError, and NotAcknowledgedError after `ack_timeout_s`. A submit that fails or is cancelled may be carried out in part,
        and is then no request that can be asked for: a repeat completes it.
        """
        at_ms = self._clock.epoch_ms()
        request_id = (
            new_request_id(at_ms, self._random_bytes(ENTROPY_BYTES))
            if idempotency_key is None
            else repeated_request_id(caller, idempotency_key)
        )
        accepted = RequestAccepted(
            id=request_id, accepted_at_ms=at_ms, log_groups=tuple(dict.fromkeys(log_groups)), caller=caller
        )
        known = self._book.find(request_id)
        if known is not None and set(known.log_groups) != set(accepted.log_groups):
            raise KeyReusedError(request_id)
        status = known or RequestStatus(accepted, {})
        try:
            async with asyncio.timeout(self._ack_timeout_s):
                # gather, not a TaskGroup, which takes a publish that was cancelled from inside for one that is done
                await asyncio.gather(*(self._command(status.accepted, g) for g in status.unanswered))
                if known is None:
                    await self._publisher.publish(
                        OutgoingRecord(self._requests_topic, request_id.encode(), accepted.to_bytes())
                    )
                    self._book.apply(accepted)
        except TimeoutError as e:
            raise NotAcknowledgedError(request_id) from e
        return self._book.find(request_id) or status

    async def find(self, request_id: str) -> RequestStatus | None:
        """A request as it stands, or None when there is none of this id. Raises CatchingUpError when that is not known yet."""
        status = self._book.find(request_id)
        if status is None and is_request_id(request_id):
            try:
                async with asyncio.timeout(self._catch_up_timeout_s):
                    await self._caught_up()
            except TimeoutError as e:
                raise CatchingUpError from e
            status = self._book.find(request_id)
        return status

    async def answered(self, request_id: str, timeout_s: float) -> RequestStatus | None:
        """`find`, but wait up to `timeout_s` seconds for the last word on every log group, or for `close`.

        A deferred one is waited for while it is tried again in that time; where that is all there is left, no longer.
        """
        until_ms = self._clock.epoch_ms() + timeout_s * 1000
        status = await self.find(request_id)
        answered = self._waited_for.setdefault(request_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while status is not None and status.may_change_by(until_ms) and not self._is_closed:
                    answered.clear()
                    await answered.wait()
                    status = self._book.find(request_id)
        return self._book.find(request_id)

    def apply(self, value: bytes) -> None:
        """Take in a record of the requests topic. One that is not ours is logged and passed over."""
        try:
            record = record_from_bytes(value)
        except MalformedRequestRecordError as e:
            _log.warning("request_record_skipped", topic=self._requests_topic, reason=str(e))
            return
        self._book.apply(record)
        answered = self._waited_for.get(record.id)
        if answered is not None and self._book.is_answered(record.id):
            answered.set()

    def close(self) -> None:
        """Let nobody wait any longer, now or later, so that a shutdown does not wait for them: they get what is known."""
        self._is_closed = True
        for answered in list(self._waited_for.values()):
            answered.set()

    async def _command(self, accepted: RequestAccepted, log_group: LogGroup) -> None:
        command = EnsureCommand(
            log_group=log_group,
            trigger=Trigger.REQUEST,
            accepted_at_ms=accepted.accepted_at_ms,
            request_ids=(accepted.id,),
        )
        await self._publisher.publish(OutgoingRecord(self._work_topic, command.partition_key, command.to_bytes()))
