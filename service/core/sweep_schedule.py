"""Sweeps that nobody asks for: one in every interval, and one when the registry has other keys than at the last.

The whole fleet needs one replica that asks: it is whoever owns the first partition of the work topic. What it has asked for is on
the requests topic, so a restart or another owner asks for nothing twice, and people follow these sweeps as any other. While a
partition changes hands two may ask: for an interval both use one id, and a second re-key finds everything right.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from service.core.sweep_requests import NoLanesError, SweepRequests, lanes_to_sweep
from service.core.waiting import CatchingUpError, NotAcknowledgedError
from service.domain.log_group import KeyRef, Lane, Region, TenantId
from service.domain.outcome import CallFailedError
from service.domain.sweep import repeated_sweep_id
from service.ports import Clock, RecordTooLargeError, TenantDirectory

INTERVAL_CALLER: Final = "logwarden, by interval"
REKEY_CALLER: Final = "logwarden, by changed keys"
_LOOK_S: Final = 5.0  # between two looks whether one is due, which cost nothing while none is
_FAILED_LOOK_S: Final = 60.0  # after one that failed: the log should say so, and not fill up with it
_MAX_TENANTS: Final = 100  # that are swept one by one after a change of their keys

TenantKeys = Mapping[TenantId, Mapping[Region, KeyRef]]
_log = structlog.get_logger(__name__)


class SweepSchedule:
    """Asks for sweeps while `is_ours` says that it is this replica's to do. `interval_s` (seconds) is 0 for none."""

    def __init__(
        self,
        *,
        directory: TenantDirectory,
        sweeps: SweepRequests,
        clock: Clock,
        is_ours: Callable[[], bool],
        interval_s: float,
        is_rekeying: bool,
    ) -> None:
        self._directory = directory
        self._sweeps = sweeps
        self._clock = clock
        self._is_ours = is_ours
        self._interval_ms = round(interval_s * 1000)
        self._is_rekeying = is_rekeying
        self._keys: TenantKeys | None = None  # as they were when all was settled

    async def run(self) -> None:
        """Ask until cancelled; what is away is waited for."""
        wait_s = _LOOK_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = _LOOK_S
            if not self._is_ours():
                self._keys = None
                continue
            try:
                if self._is_rekeying:
                    await self._rekey()
                if self._interval_ms:
                    await self._sweep_once_an_interval()
            except (CatchingUpError, NotAcknowledgedError, CallFailedError, NoLanesError, RecordTooLargeError) as e:
                _log.warning("sweep_not_asked", reason=str(e) or type(e).__name__)
                wait_s = _FAILED_LOOK_S

    async def _sweep_once_an_interval(self) -> None:
        """Intervals are counted from 1970, so that every replica means the same: a day's begins at midnight, UTC."""
        occasion = f"{self._interval_ms} {self._clock.epoch_ms() // self._interval_ms}"
        sweep_id = repeated_sweep_id(INTERVAL_CALLER, occasion)
        if await self._sweeps.find(sweep_id) is None:
            lanes = await lanes_to_sweep(self._directory, accounts=(), regions=(), tenant=None)
            await self._sweeps.ask(lanes, tenant=None, caller=INTERVAL_CALLER, sweep_id=sweep_id)

    async def _rekey(self) -> None:
        keys = await self._directory.keys()
        if keys is None:
            raise NoLanesError("the registry cannot list all tenants: it cannot be seen here that a key has changed")
        if keys == self._keys:
            return
        before, digest = self._keys, _digest(keys)
        await self._sweeps.caught_up()
        last = self._sweeps.latest(REKEY_CALLER)
        if last is None or last.keys != digest:
            is_known = before is not None and last is not None and last.keys == _digest(before)
            changed = _changed(before, keys) if is_known and before is not None else None
            sweeps = [(tenant, lanes) for tenant, lanes in await self._concerned(changed) if lanes]
            # Only the last sweep carries the new digest, so that a crash half-way leaves the old one and the re-key is repeated. Where a
            # tenant was only removed, that sweep has no lanes.
            *others, last_one = sweeps or [(None, {})]
            for tenant, lanes in others:
                await self._sweeps.ask(lanes, tenant=tenant, caller=REKEY_CALLER, keys=last.keys if last else "")
            await self._sweeps.ask(last_one[1], tenant=last_one[0], caller=REKEY_CALLER, keys=digest)
        self._keys = keys

    async def _concerned(
        self, changed: Mapping[TenantId, frozenset[Region]] | None
    ) -> Sequence[tuple[TenantId | None, Mapping[Lane, KeyRef | None]]]:
        """Each tenant of a change with its lanes and its keys there, by which an owner knows that its registry lags behind; everything
        where it is not known what has changed, and where so many tenants have that a sweep for each would look at groups many times.
        """
        if changed is not None and len(changed) <= _MAX_TENANTS:
            lanes_of = await self._directory.lanes_of(changed.keys()) or {}
            return [
                (tenant, {lane: key for lane, key in sorted(lanes.items()) if lane.region in changed[tenant]})
                for tenant, lanes in sorted(lanes_of.items())
            ]
        regions = frozenset().union(*changed.values()) if changed else ()
        return [(None, await lanes_to_sweep(self._directory, accounts=(), regions=regions, tenant=None))]


def _changed(before: TenantKeys, now: TenantKeys) -> Mapping[TenantId, frozenset[Region]]:
    """The Regions in which a tenant has a key that it did not have."""
    changed = {
        tenant: frozenset(region for region, key in keys.items() if before.get(tenant, {}).get(region) != key)
        for tenant, keys in now.items()
    }
    return {tenant: regions for tenant, regions in changed.items() if regions}


def _digest(keys: TenantKeys) -> str:
    ordered = sorted((tenant, sorted(theirs.items())) for tenant, theirs in keys.items())
    return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()[:16]
