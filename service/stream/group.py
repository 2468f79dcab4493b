"""Joining a consumer group as aiokafka 0.14 does it in the classic protocol, and leaving it.

- No heartbeat is sent while on_partitions_assigned runs: what takes time is begun there, and not waited for.
- What the rebalance listener raises would be swallowed: it is handed to the member.
- rebalance_timeout_ms is what a drain may take; its default, the session timeout, would evict us.
- stop() does not call the listener, so drain and commit come first; and one that fails leaves connections open.
- A broker answers the requests of a connection in order, and a fetch that was given up is still held there for fetch_max_wait_ms: the
  first fetch of new partitions would wait behind it.
- Its sticky assignor keeps what the member had as attributes of the class: each member has a class of its own.
- It sends a join for each assignor, with those before it, so that each rebalance is several: there is only one.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from service.stream.connection import Deadline, close_quietly

# A member that no broker has heard of for so long is put out of its group; and after its last proof of membership it begins calls for a
# little less, so that nearly all have ended by then, and few have to be broken off.
SESSION_S: Final = 10.0
LEASE_S: Final = SESSION_S - 3.0
# How soon a member hears of a rebalance: lanes that others have given up already stand still until then. Of those without lanes nobody
# waits for anything; aiokafka's 3 s would make a rebalance of them as long.
_HEARTBEAT_MS: Final = 1000
_HEARTBEAT_OF_LANES_MS: Final = 200


class Member(Protocol):
    """Who joins. What it raises here ends it by `fail`."""

    async def revoked(self, consumer: AIOKafkaConsumer) -> None:
        """All partitions go to somebody else, once this returns."""

    def assigned(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition], generation: int) -> None:
        """These, and none else, are its own from here on: in this generation, one more with each rebalance of the group."""

    def fail(self, error: Exception) -> None:
        """What the other two raised."""


async def join(
    member: Member,
    *,
    name: str,
    group: str,
    topics: Sequence[str],
    arguments: Mapping[str, Any],
    session_s: float,
    rebalance_s: float,
    fetch_max_bytes: int,
    fetch_max_wait_ms: int,
    owns_lanes: bool,
    deadline: Deadline,
) -> AIOKafkaConsumer:
    """A consumer that has joined; waits for the first assignment. Raises KafkaError, and OSError, when the broker is away.

    `rebalance_s` (seconds) is what a member may take to give its partitions up, `deadline` that of the whole stop; `fetch_max_bytes` is
    what one answer of a broker may hold, an eighth of that from one partition. Where members own lanes, as few partitions as can be change
    hands in a rebalance, and it is over sooner; that takes the leader a second for some thousand partitions.
    """
    consumer = AIOKafkaConsumer(
        **arguments,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=round(session_s * 1000),
        heartbeat_interval_ms=_HEARTBEAT_OF_LANES_MS if owns_lanes else _HEARTBEAT_MS,
        max_partition_fetch_bytes=fetch_max_bytes // 8,
        fetch_max_bytes=fetch_max_bytes,
        fetch_max_wait_ms=fetch_max_wait_ms,
        partition_assignment_strategy=[_sticky() if owns_lanes else RoundRobinPartitionAssignor],
        rebalance_timeout_ms=round(rebalance_s * 1000),
        max_poll_interval_ms=round(rebalance_s * 2000),
    )
    consumer.subscribe(list(topics), listener=_Listener(member, consumer))
    try:
        await consumer.start()
    except BaseException:  # a cancellation too: it has opened connections
        await close_quietly(f"consumer {name}", partial(leave, consumer), timeout_s=deadline.share_s())
        raise
    return consumer


def _sticky() -> type[AbstractPartitionAssignor]:
    """Under the name of round robin, which an older release has: its members must be able to be in the group too."""

    class OneMembers(StickyPartitionAssignor):  # type: ignore[misc]
        name = RoundRobinPartitionAssignor.name

    return OneMembers


async def leave(consumer: AIOKafkaConsumer) -> None:
    """Leave the group, if it is in one, and close every connection. Hangs, or raises anything, when the broker is away: see
    `close_quietly`.
    """
    client = consumer._client  # noqa: SLF001  which a stop() that fails leaves open
    try:
        await consumer.stop()
    finally:
        async with client._get_conn_lock:  # noqa: SLF001  a connection that is being opened would be left open too
            await client.close()


def _end_given_up_fetches(consumer: AIOKafkaConsumer) -> None:
    for (_, use), connection in list(consumer._client._conns.items()):  # noqa: SLF001
        if use == ConnectionGroup.DEFAULT and connection._requests:  # noqa: SLF001
            connection.close(reason=CloseReason.SHUTDOWN)  # the next request opens another


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, member: Member, consumer: AIOKafkaConsumer) -> None:
        self._member = member
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002  eager: it is all of them
        try:
            await self._member.revoked(self._consumer)
        except Exception as e:  # noqa: BLE001  reported, not swallowed
            self._member.fail(e)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        try:
            _end_given_up_fetches(self._consumer)
            self._member.assigned(self._consumer, assigned, self._consumer._coordinator.generation)  # noqa: SLF001
        except Exception as e:  # noqa: BLE001  reported, not swallowed
            self._member.fail(e)
