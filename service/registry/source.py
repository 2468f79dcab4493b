"""What a registry that is asked account by account has to do: the Protocols around the cache, and the errors between them.

Every rule lists accounts, so the tenants with a rule on an account, the exclusions of everybody and the default tenant are all that
a decision in that account needs. An organisation of ten thousand tenants is never loaded as a whole.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from service.domain.log_group import AccountId
from service.domain.tenancy import TenantRules
from service.ports import TenantDirectory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccountTenants:
    """What the registry holds on one account: `rules` decide there as the whole registry's would.

    `is_listed` is false where no tenant has a rule on the account. `digest` is equal for equal content; `etag` is the source's own,
    by which it tells that an answer is still good.
    """

    rules: TenantRules
    is_listed: bool
    digest: str
    etag: str | None = None


class SourceError(Exception):
    """The source gave no answer that can be used; the text says why."""


class SourceUnavailableError(SourceError):
    """The source did not answer in time, refused, or answered with something that is not from a registry."""


class CannotListError(SourceError):
    """The source answers for one account at a time, and has no list of all tenants."""


class SourceDataError(SourceError):
    """The source answered, and what it holds is wrong: a line for each problem. Its data must not be used, not even in part."""


@dataclass(frozen=True, slots=True)
class UnreadableTenant:
    """In place of a tenant that is not even written as one: its id, as far as it is known, and what is wrong."""

    id: str
    problem: str


@dataclass(frozen=True, slots=True)
class TenantPage:
    """Some tenants as they are written, which may be wrong or an UnreadableTenant, and what holds for everybody: the other fields of the
    tenant file.
    """

    everywhere: Mapping[str, Any]
    tenants: Sequence[Any]


# None stands for every account.
Invalidate = Callable[[Collection[AccountId] | None], None]


class AccountSource(Protocol):
    """A registry elsewhere. It is asked by one caller at a time for an account, and by many for different accounts."""

    @property
    def name(self) -> str:
        """What it is and where, for people; without secrets."""

    @property
    def version(self) -> str | None:
        """The version of the whole registry as `watch` last saw it; None where the source has none, or it is not known yet."""

    async def on_account(self, account: AccountId, known: AccountTenants | None) -> AccountTenants:
        """Everything that may concern an account, as it is now: of one moment, never half of a change.

        `known` is an earlier answer, to ask only for what is newer. Raises SourceError. Reads only, so it may be cancelled at any
        time; the caller limits its time.
        """

    def tenants(self) -> AsyncGenerator[TenantPage, None]:
        """Every tenant, some perhaps more than once, by pages of what a moment's work is; at least one page.

        Changes meanwhile may be seen or not. Raises SourceError, of which CannotListError where there is no such list. Reads only; the
        caller limits the time of each page, and closes what it does not read to the end.
        """

    async def watch(self, invalidate: Invalidate) -> None:
        """Tell what has changed as soon as it is known, and everything after a gap. Never raises SourceError.

        Runs until cancelled, and mends its own connection; returns where the source has no way to tell.
        """


class Registry(TenantDirectory, Protocol):
    """A tenant directory as the composition root and the status page see it."""

    @property
    def version(self) -> str:
        """Changes with what the registry holds."""

    @property
    def loaded_at_ms(self) -> int:
        """When that last was found changed, in ms since 1970."""

    @property
    def last_error(self) -> Exception | None:
        """Why something in force is not what the registry holds now; None where it is."""

    @property
    def is_refused(self) -> bool:
        """Whether that is because what the registry holds is wrong, which somebody has to mend; an outage is not."""

    async def watch(self) -> None:
        """Keep up with the registry until cancelled. Never returns."""


class RegistryObserver(Protocol):
    """Told how the cache does, for metrics; must not raise, and must not take long."""

    def registry_asked(self, answer: Literal["hit", "miss", "stale", "refused"]) -> None:
        """A look-up was answered from memory, by the source, by an old answer while the source fails, or not at all."""

    def registry_fetched(self, result: Literal["ok", "unavailable", "wrong"], *, seconds: float) -> None:
        """The source was asked about an account, and how that ended."""


class Unobserved:
    """The observer where nobody looks."""

    def registry_asked(self, answer: Literal["hit", "miss", "stale", "refused"]) -> None:
        pass

    def registry_fetched(self, result: Literal["ok", "unavailable", "wrong"], *, seconds: float) -> None:
        pass
