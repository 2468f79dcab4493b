"""Every tenant registry, each real, with the same controls: what it holds, and whether it can be reached."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import asyncpg

from service.domain.log_group import AccountId
from service.registry.cache import CachedDirectory, CacheLimits
from service.registry.dynamodb import DynamoDbSource
from service.registry.dynamodb_store import store as store_in_dynamodb
from service.registry.file import load_tenants
from service.registry.http import HttpSource
from service.registry.postgresql.migration import migrate
from service.registry.postgresql.source import PostgresqlSource
from service.registry.postgresql.store import store as store_in_postgresql
from service.registry.schema import TenantFile
from service.registry.source import AccountSource, AccountTenants, Invalidate, TenantPage
from service.sandbox.aws.sandbox import AwsSandbox
from tests.support.postgres import PASSWORD, Postgres, new_database
from tests.support.tcp_proxy import TcpProxy, tcp_proxy
from tests.support.tenant_service import TenantService, tenant_service

POLL_INTERVAL_S = 0.02
ACCOUNT = AccountId("111122223333")
TENANT_FILE = """\
version: 1
tenants:
  - id: acme
    keys: {eu-west-1: "arn:aws:kms:eu-west-1:111122223333:key/1"}
    rules: [{accounts: ["111122223333"]}]
"""


TABLE: Final[Mapping[str, Any]] = {
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
    "BillingMode": "PAY_PER_REQUEST",
}


class SteppingClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    def epoch_ms(self) -> int:
        return 1_772_442_847_000 + round(self.now_s * 1000)


@dataclass
class Counts:
    """The observer of a cache."""

    asked: Counter[str] = field(default_factory=Counter)
    fetched: Counter[str] = field(default_factory=Counter)

    def registry_asked(self, answer: Literal["hit", "miss", "stale", "refused"]) -> None:
        self.asked[answer] += 1

    def registry_fetched(self, result: Literal["ok", "unavailable", "wrong"], *, seconds: float) -> None:
        self.fetched[result] += 1


class CountingSource:
    """A source whose questions are counted, and whose push can be waited for."""

    def __init__(self, source: AccountSource) -> None:
        self._source = source
        self.questions: Counter[AccountId] = Counter()
        self.listings = 0
        self.pushes: list[Collection[AccountId] | None] = []

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def version(self) -> str | None:
        return self._source.version

    async def on_account(self, account: AccountId, known: AccountTenants | None) -> AccountTenants:
        self.questions[account] += 1
        return await self._source.on_account(account, known)

    async def tenants(self) -> AsyncGenerator[TenantPage, None]:
        self.listings += 1
        async with aclosing(self._source.tenants()) as pages:
            async for page in pages:
                yield page

    async def watch(self, invalidate: Invalidate) -> None:
        def tell(accounts: Collection[AccountId] | None) -> None:
            invalidate(accounts)
            self.pushes.append(accounts)

        await self._source.watch(tell)

    async def until_pushed(self, count: int) -> None:
        """Wait for so many pushes since the start."""
        async with asyncio.timeout(20):
            while len(self.pushes) < count:
                await asyncio.sleep(0.005)


class Scene(Protocol):
    """A registry elsewhere, reached through `proxy`."""

    proxy: TcpProxy

    def source(self, *, timeout_s: float) -> Any:
        """A new source, an async context manager."""

    async def store(self, tenant_file: TenantFile) -> None:
        """Let it hold these tenants and no others."""

    async def store_wrong(self, account: str) -> None:
        """Change a tenant's key on the account to something that is no key, as a careless writer would."""

    async def store_odd(self, account: str) -> None:
        """Put `odd`, which is as little of a tenant as this registry lets anybody write, beside the tenants on the account."""


class DynamoDbScene:
    def __init__(self, proxy: TcpProxy, table: DynamoDbSource) -> None:
        self.proxy = proxy
        self.table = table

    @classmethod
    @asynccontextmanager
    async def open(cls, aws: AwsSandbox) -> AsyncIterator["DynamoDbScene"]:
        await aws.reset()
        port = urlsplit(aws.endpoint).port
        assert port
        async with tcp_proxy(port) as proxy, cls._table(port, timeout_s=20.0) as table:
            await table.call("create_table", **TABLE)
            yield cls(proxy, table)

    @staticmethod
    def _table(port: int, *, timeout_s: float) -> DynamoDbSource:
        return DynamoDbSource(
            table="tenants",
            region="eu-west-1",
            endpoint_url=f"http://127.0.0.1:{port}",
            timeout_s=timeout_s,
            poll_interval_s=POLL_INTERVAL_S,
        )

    def source(self, *, timeout_s: float) -> DynamoDbSource:
        return self._table(self.proxy.port, timeout_s=timeout_s)

    async def store(self, tenant_file: TenantFile) -> None:
        await store_in_dynamodb(tenant_file, table=self.table)

    async def store_wrong(self, account: str) -> None:
        answer = await self.table.call(
            "query",
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"ACCOUNT#{account}"}},
        )
        item = answer["Items"][0]
        for region in item["tenant"]["M"]["keys"]["M"]:
            item["tenant"]["M"]["keys"]["M"][region] = {"S": "alias/wrong"}
        await self.table.call("put_item", Item=item)

    async def store_odd(self, account: str) -> None:
        item = {"pk": {"S": f"ACCOUNT#{account}"}, "sk": {"S": "TENANT#odd"}, "tenant": {"S": "odd"}}
        await self.table.call("put_item", Item=item)


class PostgresqlScene:
    password = PASSWORD

    def __init__(self, proxy: TcpProxy, postgres: Postgres, database: str) -> None:
        self.proxy = proxy
        self._postgres = postgres
        self._database = database
        self.dsn = postgres.dsn(database)

    @classmethod
    @asynccontextmanager
    async def open(cls, postgres: Postgres, *, is_migrated: bool = True) -> AsyncIterator["PostgresqlScene"]:
        async with new_database(postgres) as database, tcp_proxy(postgres.port) as proxy:
            if is_migrated:
                await migrate(postgres.dsn(database), password=PASSWORD)
            yield cls(proxy, postgres, database)

    def source(self, *, timeout_s: float) -> PostgresqlSource:
        return PostgresqlSource(
            dsn=self._postgres.dsn(self._database, port=self.proxy.port),
            password=PASSWORD,
            timeout_s=timeout_s,
            poll_interval_s=POLL_INTERVAL_S,
        )

    async def store(self, tenant_file: TenantFile) -> None:
        await store_in_postgresql(tenant_file, dsn=self.dsn, password=PASSWORD)

    async def store_wrong(self, account: str) -> None:
        await self.execute(
            "UPDATE logwarden.tenants SET document = jsonb_set(document, '{keys,eu-west-1}', '\"alias/wrong\"') "
            "WHERE accounts @> ARRAY[$1]",
            account,
        )

    async def store_odd(self, account: str) -> None:
        document = {"id": "odd", "keys": {"eu-west-1": 1}, "rules": [{"accounts": [account]}]}
        await self.execute("INSERT INTO logwarden.tenants (document) VALUES ($1)", json.dumps(document))

    async def execute(self, statement: str, *arguments: object) -> list[Any]:
        connection = await asyncpg.connect(self.dsn, password=PASSWORD)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()


class HttpScene:
    def __init__(self, proxy: TcpProxy, service: TenantService) -> None:
        self.proxy = proxy
        self.service = service

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["HttpScene"]:
        async with tenant_service() as service, tcp_proxy(service.port) as proxy:
            yield cls(proxy, service)

    def source(self, *, timeout_s: float, token_file: Path | None = None) -> HttpSource:
        return HttpSource(
            url=f"http://127.0.0.1:{self.proxy.port}/tenants",
            token_file=token_file,
            timeout_s=timeout_s,
            poll_interval_s=POLL_INTERVAL_S,
        )

    async def store(self, tenant_file: TenantFile) -> None:
        self.service.store(tenant_file)
        self.service.answers.clear()

    async def store_wrong(self, account: str) -> None:
        document = json.loads(json.dumps(self.service.documents[account]))
        document["tenants"][0]["keys"]["eu-west-1"] = "alias/wrong"
        self.service.documents[account] = document
        assert self.service.everything is not None
        self.service.everything["tenants"][0]["keys"]["eu-west-1"] = "alias/wrong"

    async def store_odd(self, account: str) -> None:
        assert self.service.everything is not None
        for document in (self.service.documents[account], self.service.everything):
            document["tenants"] = [*document["tenants"], "odd"]


@dataclass
class Opened:
    """A cache over a scene's source, as a worker has it."""

    directory: CachedDirectory
    source: CountingSource
    clock: SteppingClock
    counts: Counts


@asynccontextmanager
async def opened(
    scene: Scene, limits: CacheLimits, *, is_watched: bool = False, **options: Any
) -> AsyncIterator[Opened]:
    clock, counts = SteppingClock(), Counts()
    async with AsyncExitStack() as stack:
        source = CountingSource(await stack.enter_async_context(scene.source(timeout_s=limits.timeout_s, **options)))
        directory = await stack.enter_async_context(
            CachedDirectory(source, clock=clock, observer=counts, limits=limits)
        )
        watching = asyncio.create_task(directory.watch()) if is_watched else None
        try:
            yield Opened(directory, source, clock, counts)
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait([watching])
                assert watching.cancelled(), watching.exception()


def parsed(text: str, folder: Path) -> TenantFile:
    """A tenant file's text, checked."""
    (folder / "parsed.yaml").write_text(text)
    return load_tenants(folder / "parsed.yaml")
