"""Sweeps as people ask for them: which lanes, one command each on the work topic, and how far all of them have come.

Whatever a lane's owner reports comes back over the requests topic, which every replica follows whole, so any replica can answer.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import product, starmap
from typing import Final

import structlog

from service.core.waiting import ACK_TIMEOUT_S, CATCH_UP_TIMEOUT_S, Waiters, acknowledged, catch_up
from service.domain.log_group import AccountId, KeyRef, Lane, Region, TenantId
from service.domain.request import ENTROPY_BYTES
from service.domain.sweep import (
    MAX_LANES,
    MalformedSweepRecordError,
    SweepAsked,
    SweepCommand,
    is_sweep_id,
    new_sweep_id,
    sweep_record_from_bytes,
)
from service.domain.sweep_book import SweepBook, SweepStatus
from service.ports import Clock, OutgoingRecord, Publisher, TenantDirectory

_AT_ONCE: Final = 1000  # records on their way: a sweep of a whole organisation should not fill the producer's buffer

_log = structlog.get_logger(__name__)


class NoLanesError(Exception):
    """What is asked for has no lanes, or too many; the text says why."""


async def lanes_to_sweep(
    directory: TenantDirectory | None,
    *,
    accounts: Collection[AccountId],
    regions: Collection[Region],
    tenant: TenantId | None,
) -> Mapping[Lane, KeyRef | None]:
    """The lanes that these accounts, Regions and tenant mean, each of which may be left out; the tenant's key in each, where it is known.

    Regions are looked in where they are named, with a key there or without: groups that no key may be put on are to be told of.
    Raises NoLanesError, and CallFailedError when the registry cannot be asked.
    """
    known = None if directory is None else await _known_lanes(directory, tenant)
    if known is None:
        if not accounts or not regions:
            raise NoLanesError("there is no list of all tenants here: name accounts and Regions")
        known = {Lane(account, region): None for account, region in product(accounts, regions)}
    if regions:
        known = {lane: known.get(lane) for lane in starmap(Lane, product({lane.account for lane in known}, regions))}
    lanes = {lane: key for lane, key in sorted(known.items()) if not accounts or lane.account in accounts}
    if not lanes:
        whose = "no tenant" if tenant is None else f"no tenant {tenant}"
        raise NoLanesError(f"{whose} has a rule and a key there")
    if len(lanes) > MAX_LANES:
        raise NoLanesError(f"{len(lanes)} accounts and Regions: a sweep has {MAX_LANES} at most, so name fewer of them")
    return lanes


async def _known_lanes(directory: TenantDirectory, tenant: TenantId | None) -> Mapping[Lane, KeyRef | None] | None:
    if tenant is None:
        lanes = await directory.lanes()
        return None if lanes is None else dict.fromkeys(lanes)
    by_tenant = await directory.lanes_of({tenant})
    return None if by_tenant is None else by_tenant.get(tenant, {})


class SweepRequests:
    """Asks for sweeps and answers for them.

    `caught_up` returns when everything that was on the requests topic at the time of the call has come through `apply`. Time limits
    are in seconds.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        clock: Clock,
        book: SweepBook,
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

    async def ask(
        self,
        lanes: Mapping[Lane, KeyRef | None],
        *,
        tenant: TenantId | None,
        caller: str,
        sweep_id: str | None = None,
        keys: str = "",
    ) -> SweepStatus:
        """Ask for a sweep; returns once Kafka has acknowledged every record of it. `lanes` are as `lanes_to_sweep` gives them.

        The sweep is known of when all its commands are written; one that was asked for in part is carried out in part, and asking
        again with its id completes it. Raises NotAcknowledgedError when nothing is acknowledged for `ack_timeout_s`.
        """
        at_ms = self._clock.epoch_ms()
        sweep_id = sweep_id or new_sweep_id(at_ms, self._random_bytes(ENTROPY_BYTES))
        asked = SweepAsked(id=sweep_id, asked_at_ms=at_ms, caller=caller, lanes=tuple(lanes), tenant=tenant, keys=keys)
        commands = [
            SweepCommand(lane=lane, sweep_id=sweep_id, asked_at_ms=at_ms, tenant=tenant, key=key)
            for lane, key in lanes.items()
        ]
        records = [OutgoingRecord(self._work_topic, each.partition_key, each.to_bytes()) for each in commands]
        for start in range(0, len(records), _AT_ONCE):
            await self._publish(sweep_id, records[start : start + _AT_ONCE])
        await self._publish(sweep_id, [OutgoingRecord(self._requests_topic, sweep_id.encode(), asked.to_bytes())])
        self._book.apply(asked)
        _log.info("sweep_asked", sweep_id=sweep_id, caller=caller, tenant=tenant, lanes=len(lanes))
        return self._book.find(sweep_id) or SweepStatus(asked, {})

    async def find(self, sweep_id: str) -> SweepStatus | None:
        """A sweep as it stands, or None when there is none of this id. Raises CatchingUpError when that is not known yet."""
        status = self._book.find(sweep_id)
        if status is None and is_sweep_id(sweep_id):
            await self.caught_up()
            status = self._book.find(sweep_id)
        return status

    async def newest(self, limit: int) -> Sequence[SweepStatus]:
        """At most `limit` sweeps as they stand, the last asked for first. Raises CatchingUpError when they are not known yet."""
        await self.caught_up()
        return self._book.newest(limit)

    async def done(self, sweep_id: str, timeout_s: float) -> SweepStatus | None:
        """`find`, but wait up to `timeout_s` seconds for every lane to be done, or for `close`."""

        def is_settled() -> bool:
            status = self._book.find(sweep_id)
            return status is None or status.is_done

        await self.find(sweep_id)
        await self._waiters.wait(sweep_id, is_settled=is_settled, timeout_s=timeout_s)
        return self._book.find(sweep_id)

    async def caught_up(self) -> None:
        """Return when this replica knows of every sweep that has been asked for. Raises CatchingUpError."""
        await catch_up(self._caught_up, within_s=self._catch_up_timeout_s)

    def latest(self, caller: str) -> SweepAsked | None:
        """The last sweep that was asked for in this name, as far as it is known here."""
        return self._book.latest(caller)

    def apply(self, value: bytes) -> None:
        """Take in a record of the requests topic. One that is not ours is logged and passed over."""
        try:
            record = sweep_record_from_bytes(value)
        except MalformedSweepRecordError as e:
            _log.warning("sweep_record_skipped", topic=self._requests_topic, reason=str(e))
            return
        self._book.apply(record)
        self._waiters.tell(record.id, is_settled=self._book.is_done)

    def close(self) -> None:
        """Let nobody wait any longer, now or later."""
        self._waiters.close()

    async def _publish(self, sweep_id: str, records: Collection[OutgoingRecord]) -> None:
        async with acknowledged(sweep_id, within_s=self._ack_timeout_s):
            await asyncio.gather(*map(self._publisher.publish, records))
