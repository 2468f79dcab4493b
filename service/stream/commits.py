"""Commits of one group member: on a timer, with a time limit, and as the proof that the group still counts it as a member.

- commit() of aiokafka never returns with the broker away: it has a time limit, and a failed one is repeated by the next.
- In the classic protocol a broker counts an accepted commit as a heartbeat, as it does a join, and refuses one of a generation that is
  over. So where nothing has moved for a while, what is committed already is committed again, for whoever has to know that the
  partitions are ours.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from service.domain.offsets import Progress
from service.ports import Clock, Membership
from service.stream.assignment import Assignment
from service.stream.connection import Deadline

PROOF_S: Final = 2.0  # how often membership is proven
_NEVER: Final = float("-inf")
_PROVING_S: Final = 3.0  # how long one that proves it may take: another follows it within the lease, and calls go on

_log = structlog.get_logger(__name__)


class Commits:
    """Commits the current assignment of one member. `interval_s` and `timeout_s` are in seconds."""

    def __init__(
        self,
        *,
        name: str,
        interval_s: float,
        timeout_s: float,
        clock: Clock,
        assignment: Callable[[], Assignment],
        membership: Membership | None,
        deadline: Deadline,
    ) -> None:
        self._name = name
        self._interval_s = interval_s if membership is None else min(interval_s, PROOF_S)
        self._timeout_s = timeout_s
        self._commit_timeout_s = timeout_s if membership is None else min(timeout_s, _PROVING_S)
        self._clock = clock
        self._assignment = assignment
        self._membership = membership
        self._deadline = deadline
        self._lock = asyncio.Lock()
        self._proven_at = _NEVER
        self._given_up_at = _NEVER

    async def run(self, consumer: AIOKafkaConsumer) -> None:
        """Commit again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.commit(consumer)

    async def commit(self, consumer: AIOKafkaConsumer, *, is_last: bool = False) -> None:
        """Commit every position that moved. A failure is logged and left to the next commit, or to the next owner.

        The last one of an assignment takes as long as it may: it need not leave time for another that proves membership.
        """
        timeout_s = self._timeout_s if is_last else self._commit_timeout_s
        async with self._lock:
            assignment = self._assignment()
            sent_at = self._clock.now()
            progress = assignment.moved()
            if not progress and self._membership is not None and sent_at - self._proven_at >= PROOF_S:
                progress = assignment.standing()
            if not progress:
                return
            try:
                async with asyncio.timeout(self._deadline.share_s(timeout_s)):
                    await consumer.commit({tp: (at.position, at.metadata) for tp, at in progress.items()})
            except (CommitFailedError, IllegalStateError) as e:
                # the group has moved on: the next owner works these again
                _log.info("commit_refused", consumer=self._name, error=str(e) or type(e).__name__)
                self.given_up()
            except (KafkaError, TimeoutError) as e:
                _log.warning("commit_failed", consumer=self._name, error=str(e) or type(e).__name__)
            else:
                assignment.has_committed(progress, self._clock.now())
                self._proven(sent_at)

    def given_up(self) -> None:
        """The partitions may be somebody else's from here on."""
        self._given_up_at = self._clock.now()
        self._proven_at = _NEVER
        if self._membership is not None:
            self._membership.refuted()

    def joined(self) -> None:
        """The group has assigned us partitions, which proves membership as of the revocation before: when the join was sent is unknown."""
        self._proven(self._given_up_at)

    def _proven(self, sent_at: float) -> None:
        self._proven_at = sent_at
        if self._membership is not None:
            self._membership.proven(sent_at)

    async def adopt(self, consumer: AIOKafkaConsumer, assignment: Assignment) -> None:
        """Find out what former owners finished, and prove that the partitions are ours.

        Where that cannot be read, what they finished above their position is worked again.
        """
        if not assignment.ledgers:
            return
        committed = await self._fetch_committed(consumer, assignment.ledgers)
        assignment.adopt(committed or {})
        assignment.is_adopted.set()
        if committed is not None and (fresh := [tp for tp in assignment.ledgers if tp not in committed]):
            try:
                async with asyncio.timeout(self._timeout_s):
                    assignment.begins = await consumer.beginning_offsets(fresh)
            except (KafkaError, TimeoutError) as e:
                _log.warning("beginning_unknown", consumer=self._name, error=str(e) or type(e).__name__)
        await self.commit(consumer)

    async def _fetch_committed(
        self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, Progress] | None:
        """What is committed; None if that cannot be read. `committed()`, which is public, gives no metadata."""
        fetch = consumer._coordinator.fetch_committed_offsets  # noqa: SLF001
        try:
            async with asyncio.timeout(self._timeout_s):
                offsets = await fetch(list(partitions))
        except (KafkaError, TimeoutError) as e:
            _log.warning("committed_unknown", consumer=self._name, error=str(e) or type(e).__name__)
            return None
        return {tp: Progress(at.offset, at.metadata or "") for tp, at in offsets.items()}
