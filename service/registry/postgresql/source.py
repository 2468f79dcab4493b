"""The `AccountSource` over PostgreSQL: one statement an answer, and changes pushed by LISTEN/NOTIFY.

Notifications are lost while nobody listens, and behind a pooler such as PgBouncer none may come at all. So the version is read
every few seconds on the connection that listens, which shows both, and a connection that has died quietly as well.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import asyncpg
import structlog

from service.domain.log_group import AccountId, InvalidIdentityError, account_id
from service.registry.document import AccountDocuments
from service.registry.source import AccountTenants, Invalidate, SourceDataError, SourceUnavailableError, TenantPage

_CHANNEL: Final = "logwarden_registry"
_POOL: Final = 4  # connections, besides the one that listens: an answer takes a millisecond, and replicas are many
_IDLE_S: Final = 300.0  # unused for this long, a connection is given back to the server
_RECONNECT_S: Final = 1.0  # between attempts of the connection that listens; doubles to the poll interval

_PAGE: Final = 500  # tenants: some 250 kB
# One statement sees one snapshot, and the version grows with every change.
_ON_ACCOUNT: Final = """
SELECT version, CASE WHEN version IS DISTINCT FROM $2::bigint THEN logwarden.on_account($1)::text END AS document
FROM logwarden.registry
"""
_NO_ROW: Final = "logwarden.registry has no row: it is made by the migration, and must stay"

# What asyncpg raises for reasons outside this process; InterfaceError is a connection that closed under its user, InternalClientError
# one that closed between two steps of a statement ("cannot switch to state 12; another operation (2) is in progress").
_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

_log = structlog.get_logger(__name__)


class PostgresqlSource:
    """Use it as a context manager; it connects when it is first asked, and again after the server was away.

    `dsn` is libpq's URL; TLS is its sslmode and sslrootcert. Needs USAGE on the schema and SELECT on its tables, as ../README.md grants
    them. Statements end after `timeout_s` on the server too.
    """

    def __init__(self, *, dsn: str, password: str | None, timeout_s: float, poll_interval_s: float) -> None:
        self.name = _shown(dsn)
        self._connection_options: dict[str, Any] = {
            "dsn": dsn,
            "password": password,
            "timeout": timeout_s,
            "command_timeout": timeout_s,
            "statement_cache_size": 0,  # PgBouncer hands statements of one session to the next
            "server_settings": {"application_name": "logwarden", "statement_timeout": str(round(timeout_s * 1000))},
        }
        self._timeout_s = timeout_s
        self._poll_interval_s = poll_interval_s
        self._pool = asyncpg.create_pool(
            min_size=0, max_size=_POOL, max_inactive_connection_lifetime=_IDLE_S, **self._connection_options
        )
        self._documents = AccountDocuments()
        self._servers = 0  # that have been listened to: each may be another
        self._is_failing = False
        self._version: int | None = None

    async def __aenter__(self) -> Self:
        await self._pool  # connects to nothing yet, with its minimum of 0
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.terminate()  # it only reads

    @property
    def version(self) -> str | None:
        """The number in logwarden.registry, as `watch` last heard of it."""
        return None if self._version is None else str(self._version)

    async def on_account(self, account: AccountId, known: AccountTenants | None) -> AccountTenants:
        """Everything that may concern an account; read anew only if anything has changed since `known`. Raises SourceError."""
        # A server that took over from another may count to the same version with other tenants.
        server = self._servers
        prefix, _, version = (known.etag or "").partition(" ") if known is not None else ("", "", "")
        known_version = int(version) if prefix == str(server) else None
        try:
            async with self._connection() as connection:
                row = await connection.fetchrow(_ON_ACCOUNT, account, known_version)
        except _ERRORS as e:
            raise SourceUnavailableError(described(e)) from e
        if row is None:
            raise SourceDataError(_NO_ROW)
        if row["document"] is None and known is not None:
            return known
        document = json.loads(row["document"])
        return await self._documents.answer(document, account=account, known=known, etag=f"{server} {row['version']}")

    async def tenants(self) -> AsyncGenerator[TenantPage, None]:
        """Every tenant, by pages along the primary key. Raises SourceError."""
        last: str | None = ""
        while last is not None:
            try:
                async with self._connection() as connection:
                    everywhere = await connection.fetchval("SELECT everywhere::text FROM logwarden.registry")
                    rows = await connection.fetch(
                        "SELECT id, document::text FROM logwarden.tenants WHERE id > $1 ORDER BY id LIMIT $2",
                        last,
                        _PAGE,
                    )
            except _ERRORS as e:
                raise SourceUnavailableError(described(e)) from e
            if everywhere is None:
                raise SourceDataError(_NO_ROW)
            last = rows[-1]["id"] if len(rows) == _PAGE else None
            yield TenantPage(json.loads(everywhere), [json.loads(row["document"]) for row in rows])

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        async with self._pool.acquire(timeout=self._timeout_s) as connection:
            try:
                yield connection
            except (TimeoutError, asyncio.CancelledError, asyncpg.InternalClientError):
                # asyncpg would ask the server to cancel and wait for its answer: this one may never answer. Or it is lost.
                connection.terminate()
                raise

    async def watch(self, invalidate: Invalidate) -> None:
        """Listen, until cancelled; connects again after an outage, and then invalidates everything, since it may have missed it."""
        wait_s = _RECONNECT_S
        while True:
            try:
                async with self._listening(invalidate) as connection:
                    wait_s = _RECONNECT_S
                    self._is_failing = False
                    self._version = None
                    self._servers += 1
                    while True:
                        await self._read_version(connection, invalidate)
                        await asyncio.sleep(self._poll_interval_s)
            except _ERRORS as e:
                if not self._is_failing:
                    _log.warning("registry_version_unknown", source=self.name, reason=described(e))
                self._is_failing = True
            await asyncio.sleep(min(wait_s, self._poll_interval_s))
            wait_s *= 2

    @asynccontextmanager
    async def _listening(self, invalidate: Invalidate) -> AsyncIterator[Any]:
        def told(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            self._told(str(payload), invalidate)

        connection = await asyncpg.connect(**self._connection_options)
        try:
            await connection.add_listener(_CHANNEL, told)
            yield connection
        finally:
            connection.terminate()

    def _told(self, payload: str, invalidate: Invalidate) -> None:
        """Take a notification: an account, or after those of one change, its version."""
        kind, _, version = payload.partition(" ")
        if kind == "version" and version.isdigit():
            is_next = self._version is not None and int(version) == self._version + 1
            self._reached(int(version), invalidate, is_known=is_next)
            return
        try:
            invalidate({account_id(payload)})
        except InvalidIdentityError:  # `*`; and anybody may notify
            invalidate(None)

    async def _read_version(self, connection: Any, invalidate: Invalidate) -> None:
        version = await connection.fetchval("SELECT version FROM logwarden.registry")
        if version is not None and version != self._version:
            self._reached(version, invalidate, is_known=False)

    def _reached(self, version: int, invalidate: Invalidate, *, is_known: bool) -> None:
        """Note the version; `is_known` says that what changed with it has been told."""
        self._version = version
        if not is_known:
            invalidate(None)
        _log.info("registry_changed", source=self.name, version=version)


def described(error: Exception) -> str:
    """The server's words on one line, and what to do where the schema or a right is missing."""
    words = " ".join(str(error).split()) or type(error).__name__
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.InvalidSchemaNameError():
            return f"{words}; `logwarden registry migrate` makes the schema"
        case asyncpg.InsufficientPrivilegeError():
            return f"{words}; service/registry/README.md says what to grant"
        case _:
            return words


def _shown(dsn: str) -> str:
    """The DSN without user, password and parameters."""
    scheme, _, rest = dsn.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
