"""Manual requests: written to Kafka before they are answered for, and looked up on any replica.

A request is one ensure command for each of its log groups on the work topic, and then one record on the requests topic: whoever reads
it knows that every command is written. What becomes of them comes back over the requests topic, which every replica follows whole.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

import structlog

from service.core.waiting import ACK_TIMEOUT_S, CATCH_UP_TIMEOUT_S, Waiters, acknowledged, catch_up
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

_log = structlog.get_logger(__name__)


class KeyReusedError(Exception):
    """An idempotency key came back with other log groups than the request that it belongs to."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the key belongs to {request_id}, which asks for other log groups")
        self.request_id = request_id


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
        self._waiters = Waiters()

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
        async with acknowledged(request_id, within_s=self._ack_timeout_s):
            # gather, not a TaskGroup, which takes a publish that was cancelled from inside for one that is done
            await asyncio.gather(*(self._command(status.accepted, g) for g in status.unanswered))
            if known is None:
                await self._publisher.publish(
                    OutgoingRecord(self._requests_topic, request_id.encode(), accepted.to_bytes())
                )
                self._book.apply(accepted)
        return self._book.find(request_id) or status

    async def find(self, request_id: str) -> RequestStatus | None:
        """A request as it stands, or None when there is none of this id. Raises CatchingUpError when that is not known yet."""
        status = self._book.find(request_id)
        if status is None and is_request_id(request_id):
            await catch_up(self._caught_up, within_s=self._catch_up_timeout_s)
            status = self._book.find(request_id)
        return status

    async def answered(self, request_id: str, timeout_s: float) -> RequestStatus | None:
        """`find`, but wait up to `timeout_s` seconds for the last word on every log group, or for `close`.

        A deferred one is waited for while it is tried again in that time; where that is all there is left, no longer.
        """
        until_ms = self._clock.epoch_ms() + timeout_s * 1000

        def is_settled() -> bool:
            status = self._book.find(request_id)
            return status is None or not status.may_change_by(until_ms)

        await self.find(request_id)
        await self._waiters.wait(request_id, is_settled=is_settled, timeout_s=timeout_s)
        return self._book.find(request_id)

    def apply(self, value: bytes) -> None:
        """Take in a record of the requests topic. One that is not ours is logged and passed over."""
        try:
            record = record_from_bytes(value)
        except MalformedRequestRecordError as e:
            _log.warning("request_record_skipped", topic=self._requests_topic, reason=str(e))
            return
        self._book.apply(record)
        self._waiters.tell(record.id, is_settled=self._book.is_answered)

    def close(self) -> None:
        """Let nobody wait any longer, now or later: they get what is known."""
        self._waiters.close()

    async def _command(self, accepted: RequestAccepted, log_group: LogGroup) -> None:
        command = EnsureCommand(
            log_group=log_group,
            trigger=Trigger.REQUEST,
            accepted_at_ms=accepted.accepted_at_ms,
            request_ids=(accepted.id,),
        )
        await self._publisher.publish(OutgoingRecord(self._work_topic, command.partition_key, command.to_bytes()))
