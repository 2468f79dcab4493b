"""What there is in a registry elsewhere: which accounts and Regions tenants have, and their keys, for sweeps and re-keys.

Read by pages and added up, so that what is held is every tenant's keys and a few sets of accounts, never the tenants. A tenant
that is written wrong is left out and told of, as it gets no key either; whoever asks for that very tenant is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from service.domain.log_group import KeyRef, Lane, Region, TenantId
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.reach import Reach
from service.domain.tenancy import Tenant
from service.ports import Clock
from service.registry.document import AccountDocument, check, problems_text, tenant_in
from service.registry.schema import Units
from service.registry.source import (
    AccountSource,
    CannotListError,
    SourceDataError,
    SourceError,
    TenantPage,
    UnreadableTenant,
)

MAX_TENANTS: Final = 100_000  # what a list without an end is taken for; their keys alone are some 50 MB
_WHOLE_LIST_S: Final = 600.0  # a hundred pages and more, each as slow as it may be; a list that takes longer has no end
_LISTED_AGAIN_S: Final = 600.0  # while no change is heard of: a source without a version, or a writer who forgot it
_MAX_LOGGED_PROBLEMS: Final = 20

TenantKeys = Mapping[TenantId, Mapping[Region, KeyRef]]
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Listing:
    """All pages so far. `wanted` are the tenants that are kept whole, those of `asked` that there are."""

    asked: Collection[TenantId]
    reach: Reach
    units: Units
    keys: dict[TenantId, Mapping[Region, KeyRef]] = field(default_factory=dict)
    wanted: dict[TenantId, Tenant] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)  # by id

    @classmethod
    def begin(cls, everywhere: Mapping[str, Any], asked: Collection[TenantId]) -> "_Listing":
        """Raises SourceDataError."""
        default = everywhere.get("default_tenant")
        shared = {name: value for name, value in everywhere.items() if name not in {"default_tenant", "tenants"}}
        document, problems = check(shared, AccountDocument)
        if document is None or problems:
            raise SourceDataError(problems_text(problems))
        units = document.units()
        rules = [entry.conditions(units) for entry in document.shared_rules]
        reach = Reach(shared=rules, default=TenantId(default) if isinstance(default, str) else None)
        return cls(asked, reach, units)

    def add(self, documents: Collection[Any]) -> None:
        """Raises SourceDataError for more tenants than a registry has."""
        for document in documents:
            if isinstance(document, UnreadableTenant):
                self.problems[document.id] = document.problem
                continue
            name = str(document.get("id") if isinstance(document, dict) else document)[:80]
            if name in self.keys:
                continue  # a table has a tenant once for each of its accounts
            try:
                tenant = tenant_in(document, self.units)
            except SourceDataError as e:
                self.problems[name] = str(e)
                continue
            self.reach.add(tenant)
            self.keys[tenant.id] = tenant.keys
            if tenant.id in self.asked:
                self.wanted[tenant.id] = tenant
        if len(self.keys) + len(self.problems) > MAX_TENANTS:
            raise SourceDataError(f"the list has more than {MAX_TENANTS} tenants")


class TenantList:
    """Lists the tenants of a source, each question anew, except that keys are kept until something has changed.

    `timeout_s` is for each page, and there is a limit for all of them. What cannot be read raises CallFailedError(REGISTRY_UNAVAILABLE);
    a source without a list gives None.
    """

    def __init__(self, source: AccountSource, *, clock: Clock, timeout_s: float) -> None:
        self._source = source
        self._clock = clock
        self._timeout_s = timeout_s
        self._changes = 0  # heard of
        self._keys: TenantKeys | None = None
        self._keys_changes = -1
        self._keys_asked_at_s = 0.0
        self._told: Mapping[str, str] = {}

    def changed(self) -> None:
        """Be told that the source holds something else than before."""
        self._changes += 1

    async def lanes(self) -> Collection[Lane] | None:
        """Where log groups may be anybody's."""
        listing = await self._read()
        return None if listing is None else await asyncio.to_thread(lambda: listing.reach.lanes)

    async def lanes_of(self, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]] | None:
        """Where log groups may be these tenants', with their keys."""
        listing = await self._read(frozenset(tenants))
        if listing is None:
            return None
        for each in tenants:
            if each in listing.problems:
                raise self._unavailable(f"tenant {each}: {listing.problems[each]}")
        return {each: listing.reach.lanes_of(tenant) for each, tenant in listing.wanted.items()}

    async def keys(self) -> TenantKeys | None:
        """Every tenant's keys."""
        now, changes = self._clock.now(), self._changes
        if self._keys_changes == changes and now - self._keys_asked_at_s < _LISTED_AGAIN_S:
            return self._keys
        listing = await self._read()
        self._keys = None if listing is None else listing.keys
        self._keys_changes, self._keys_asked_at_s = changes, now
        return self._keys

    async def _read(self, asked: Collection[TenantId] = frozenset()) -> _Listing | None:
        listing: _Listing | None = None
        try:
            async with asyncio.timeout(_WHOLE_LIST_S), aclosing(self._source.tenants()) as pages:
                while (page := await self._next(pages.__anext__)) is not None:
                    if listing is None:
                        listing = _Listing.begin(page.everywhere, asked)
                    # Milliseconds a page: apart, so that no heartbeat waits for ten thousand tenants.
                    await asyncio.to_thread(listing.add, page.tenants)
        except CannotListError:
            return None
        except SourceError as e:
            raise self._unavailable(str(e)) from e
        except TimeoutError as e:
            raise self._unavailable(f"the list of tenants has not ended in {_WHOLE_LIST_S:g} s") from e
        if listing is None:
            raise self._unavailable("the list of tenants has no page")
        self._tell(listing.problems)
        return listing

    async def _next(self, next_page: Callable[[], Awaitable[TenantPage]]) -> TenantPage | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await next_page()
        except StopAsyncIteration:
            return None
        except TimeoutError as e:
            raise SourceError(f"no page of tenants in {self._timeout_s:g} s") from e

    def _tell(self, problems: Mapping[str, str]) -> None:
        if problems and problems != self._told:
            shown = [f"tenant {name}: {text}" for name, text in problems.items()]
            _log.error(
                "registry_tenants_refused",
                source=self._source.name,
                count=len(shown),
                problems=shown[:_MAX_LOGGED_PROBLEMS],
            )
        self._told = problems

    def _unavailable(self, reason: str) -> CallFailedError:
        return CallFailedError(FailureClass.REGISTRY_UNAVAILABLE, f"{self._source.name}: {reason}")
