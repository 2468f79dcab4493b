"""Credentials by account: our own account's are our own, every other account's come from the role that we assume there.

Sessions are kept for as long as their account is used, are refreshed before they end, and are thrown away when AWS rejects them.
A failure is remembered for a moment, so that a queue of calls for a broken account costs STS one request and not one each.
"""

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from service.aws.clients import AwsClients, CredentialChain, SigningCredentials
from service.aws.errors import VENDOR_ERRORS, translate
from service.domain.log_group import AccountId, account_id, partition_of
from service.domain.outcome import PASSING, CallFailedError, FailureClass
from service.ports import Clock

_SESSION_S: Final = 3600  # the longest that role chaining allows
_RENEWAL_S: Final = 900  # renewed in its last 15 minutes, as botocore does: a shorter outage of STS is bridged
_LAST_CALLS_S: Final = 60  # not used in its last minute: a call signed now is worked a little later, by another clock
_FAILURE_TTL_S: Final = 3.0  # under the shortest hold of a lane (5 s), so that a hold always ends in a fresh answer
_MIN_AGE_S: Final = 5.0  # credentials rejected this young are not stale; fetching more would only burden STS
_IDLE_S: Final = 3600.0  # unused for this long, a session has ended anyway, and its secrets should not stay in memory
_MAX_ACCOUNTS: Final = 4096  # sessions kept, some 2 kB each; past it the least recently used is dropped

_STS_ATTEMPTS: Final = 3
_STS_WAIT_S: Final = 0.2  # first upper bound of the random wait between attempts; doubles
_STS_MAX_WAIT_S: Final = 2.0

_log = structlog.get_logger(__name__)

_OURS: Final = frozenset({FailureClass.CREDENTIALS_MISSING, FailureClass.CREDENTIALS_REJECTED})


def _of_sts(failure: FailureClass) -> FailureClass:
    """The class of a failure at STS: THROTTLED would slow a lane down, whose quota it is not."""
    return FailureClass.SERVICE_UNAVAILABLE if failure is FailureClass.THROTTLED else failure


class _RecentFailure:
    """A failure that is given again to everybody who asks within a moment."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failure: CallFailedError | None = None
        self._until_s = 0.0

    def remember(self, failure: CallFailedError) -> CallFailedError:
        self._failure, self._until_s = failure, self._clock.now() + _FAILURE_TTL_S
        return failure

    def is_recent(self) -> bool:
        return self._failure is not None and self._clock.now() < self._until_s

    def raise_again(self) -> None:
        """Raise the failure anew, not the same object: a traceback grows each time that an exception is raised."""
        if self._failure is not None and self.is_recent():
            raise CallFailedError(self._failure.failure, self._failure.detail)


class OwnCredentials:
    """What this process runs as: Pod Identity, IRSA, an instance's role, a profile, or keys in the environment."""

    def __init__(self, *, chain: CredentialChain, clock: Clock) -> None:
        self._chain = chain
        self._clock = clock
        self._found: SigningCredentials | None = None
        self._found_at_s = 0.0
        self._searching = asyncio.Lock()
        self._failed = _RecentFailure(clock)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The credentials as they are now. Raises CallFailedError: CREDENTIALS_MISSING, or a class that passes by itself."""
        self._failed.raise_again()
        try:
            return await (await self._search()).get_frozen_credentials()
        except VENDOR_ERRORS as e:
            error = translate(e, call="our own credentials")
            failure = _of_sts(error.failure) if error.failure in PASSING else FailureClass.CREDENTIALS_MISSING
            raise self._failed.remember(CallFailedError(failure, error.detail)) from e

    def forget(self) -> None:
        """Look for credentials anew at the next call: AWS rejected these."""
        if self._clock.now() - self._found_at_s >= _MIN_AGE_S:
            self._found = None

    async def _search(self) -> SigningCredentials:
        async with self._searching:
            if self._found is None:
                self._failed.raise_again()
                found = await self._chain.load_credentials()
                if found is None:
                    raise NoCredentialsError
                self._found, self._found_at_s = found, self._clock.now()
            return self._found


class _AssumedRole:
    """One account's session, renewed while it is used. Callers share a renewal, and go on with the old session while it lasts.

    botocore's own refreshable credentials would log a traceback for every caller of a failing role, and give a session up ten
    minutes before its end. Age is counted from the request by our monotonic clock: STS grants what was asked for, and a wrong wall
    clock then does no harm here.
    """

    def __init__(
        self, account: AccountId, *, assume: Callable[[], Awaitable[ReadOnlyCredentials]], clock: Clock
    ) -> None:
        self._account = account
        self._assume = assume
        self._clock = clock
        self._session: ReadOnlyCredentials | None = None
        self._assumed_at_s = 0.0
        self._renewing = asyncio.Lock()
        self._failed = _RecentFailure(clock)
        self.used_at_s = clock.now()

    @property
    def age_s(self) -> float:
        """Seconds since the session was asked for."""
        return self._clock.now() - self._assumed_at_s

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The session as it is now, assumed or renewed first where that is due. Raises CallFailedError when there is none to use."""
        if self._session is None or self.age_s >= _SESSION_S - _LAST_CALLS_S:
            async with self._renewing:
                if self._session is None or self.age_s >= _SESSION_S - _LAST_CALLS_S:
                    return await self._renew()
        elif self.age_s >= _SESSION_S - _RENEWAL_S and not self._renewing.locked():
            async with self._renewing:
                return await self._renew_early(self._session)
        return self._session

    async def _renew(self) -> ReadOnlyCredentials:
        self._failed.raise_again()
        asked_at_s = self._clock.now()
        try:
            self._session = await self._assume()
        except CallFailedError as e:
            self._failed.remember(e)
            raise
        self._assumed_at_s = asked_at_s
        return self._session

    async def _renew_early(self, session: ReadOnlyCredentials) -> ReadOnlyCredentials:
        if self._failed.is_recent():
            return session
        try:
            return await self._renew()
        except CallFailedError as e:
            _log.warning(
                "session_not_renewed",
                account=self._account,
                failure=e.failure.label,
                detail=e.detail,
                left_s=round(_SESSION_S - self.age_s),
            )
            return session


class AccountCredentials:
    """The credentials for a call, by the account that it is to act in."""

    def __init__(
        self,
        *,
        clients: AwsClients,
        own: OwnCredentials,
        clock: Clock,
        own_account: AccountId | None,
        role_name: str,
        role_session_name: str,
        external_id: str | None,
        sts_region: str,
        role_session_tags: Mapping[str, str] | None = None,
        max_accounts: int = _MAX_ACCOUNTS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`role_name` may have a path; None for `own_account` means that STS is asked once. `sleep` waits between calls to STS."""
        self._clients = clients
        self._own = own
        self._clock = clock
        self._own_account = own_account
        self._role = role_name.lstrip("/")
        self._role_session_name = role_session_name
        self._role_session_tags = [{"Key": key, "Value": value} for key, value in (role_session_tags or {}).items()]
        self._external_id = external_id
        self._sts_region = sts_region
        self._max_accounts = max_accounts
        self._sleep = sleep
        self._sessions: OrderedDict[AccountId, _AssumedRole] = OrderedDict()  # the least recently used first
        self._identifying = asyncio.Lock()
        self._identity_failed = _RecentFailure(clock)

    async def of(self, account: AccountId) -> SigningCredentials:
        """The credentials that act in an account; its role is assumed when they are first used to sign.

        Raises CallFailedError where our own account is not known and STS does not say.
        """
        if account == await self._identity():
            return self._own
        session = self._sessions.get(account)
        if session is None:
            assume = functools.partial(self._assume, account)
            session = self._sessions[account] = _AssumedRole(account, assume=assume, clock=self._clock)
        self._sessions.move_to_end(account)
        session.used_at_s = self._clock.now()
        self._drop_unused()
        return session

    def forget(self, account: AccountId, credentials: SigningCredentials) -> None:
        """Drop credentials that AWS rejected, so that the next call gets others; newer ones stay."""
        if credentials is self._own:
            self._own.forget()
            return
        session = self._sessions.get(account)
        if session is credentials and session.age_s >= _MIN_AGE_S:
            del self._sessions[account]

    def _drop_unused(self) -> None:
        """Drop idle sessions, and what is beyond the bound."""
        idle_since_s = self._clock.now() - _IDLE_S
        while len(self._sessions) > self._max_accounts or next(iter(self._sessions.values())).used_at_s < idle_since_s:
            self._sessions.popitem(last=False)

    async def _identity(self) -> AccountId:
        if self._own_account is not None:
            return self._own_account
        async with self._identifying:
            if self._own_account is None:
                self._identity_failed.raise_again()
                try:
                    self._own_account = account_id((await self._ask_sts("get_caller_identity"))["Account"])
                except CallFailedError as e:
                    # Whatever else STS has against the question is ours to mend, and never a record's fault.
                    is_ours = e.failure not in PASSING | _OURS
                    hint = "; LOGWARDEN_AWS_OWN_ACCOUNT makes the question needless" if is_ours else ""
                    failure = FailureClass.CREDENTIALS_MISSING if is_ours else e.failure
                    error = CallFailedError(failure, f"{e.detail}{hint}")
                    self._identity_failed.remember(error)
                    raise error from e
        return self._own_account

    async def _assume(self, account: AccountId) -> ReadOnlyCredentials:
        role = f"arn:{partition_of(self._sts_region)}:iam::{account}:role/{self._role}"
        optional: dict[str, Any] = {} if self._external_id is None else {"ExternalId": self._external_id}
        if self._role_session_tags:  # not transitive: nobody assumes a role from there
            optional["Tags"] = self._role_session_tags
        try:
            answer = await self._ask_sts(
                "assume_role",
                RoleArn=role,
                RoleSessionName=self._role_session_name,
                DurationSeconds=_SESSION_S,
                **optional,
            )
        except CallFailedError as e:
            # Whatever else STS has against the request is about the role or our settings, never about a record.
            is_role = e.failure not in PASSING | _OURS
            failure = FailureClass.ROLE_NOT_ASSUMABLE if is_role else e.failure
            raise CallFailedError(failure, f"role {role}: {e.detail}") from e
        session = answer["Credentials"]
        return ReadOnlyCredentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])

    async def _ask_sts(self, operation: str, **params: Any) -> Mapping[str, Any]:
        """Call STS with our own credentials; try again, a few times within a second or two, what passes by itself."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(_STS_ATTEMPTS),
            wait=wait_random_exponential(multiplier=_STS_WAIT_S, max=_STS_MAX_WAIT_S),
            retry=retry_if_exception(lambda e: isinstance(e, CallFailedError) and e.failure in PASSING),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(
                self._clients.call, "sts", self._sts_region, operation, credentials=self._own, **params
            )
        except CallFailedError as e:
            if e.failure is FailureClass.CREDENTIALS_REJECTED:
                self._own.forget()
            raise CallFailedError(_of_sts(e.failure), e.detail) from e
