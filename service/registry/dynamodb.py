"""Tenants in a DynamoDB table, with `pk` and `sk` (strings) as its keys:

    pk                    sk            other attributes
    ACCOUNT#111122223333  TENANT#acme   tenant (map): an entry of `tenants` in the tenant file; position (number, 0 if left out)
    REGISTRY              EVERYWHERE    the other fields of the tenant file, except that default_tenant (map) is the whole tenant
    REGISTRY              VERSION       version (number), is_changing (true, while several items are being changed)

A tenant has an item in each account that its rules list, the same in all, and in each that a shared rule lists, whose name it may
be. They are read in the order of `position` and then of ids, which matters where the first match decides. REGISTRY/VERSION must
exist; REGISTRY/EVERYWHERE need not.

DynamoDB has no snapshot over several items, so the version is a lock for readers: whoever changes more than one item sets
`is_changing` first, and at the end adds 1 to `version` and removes `is_changing`. An answer counts only where the version was the
same before and after and nobody was changing anything. One item alone may be changed at any time; adding 1 to `version` after it
spreads the change within seconds instead of the cache's ttl. All reads are strongly consistent.

Which tenants there are is found out by a scan: once after a change where tenants are re-keyed by themselves, and for sweeps. It is
strongly consistent too, at twice the units: right after a change an old key would be taken for the new one, and kept. An index of
tenants would be one more thing to keep in step.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.parsers import ResponseParserError

from service.domain.log_group import AccountId
from service.registry.document import AccountDocuments
from service.registry.polling import VersionPoll
from service.registry.source import (
    AccountTenants,
    Invalidate,
    SourceDataError,
    SourceUnavailableError,
    TenantPage,
    UnreadableTenant,
)

REGISTRY: Final = "REGISTRY"
TABLE_OPTIONS: Final = (
    "--billing-mode PAY_PER_REQUEST --attribute-definitions AttributeName=pk,AttributeType=S AttributeName=sk,AttributeType=S "
    "--key-schema AttributeName=pk,KeyType=HASH AttributeName=sk,KeyType=RANGE"
)
VERSION_KEY: Final = {"pk": {"S": REGISTRY}, "sk": {"S": "VERSION"}}

# Throttles and 5xx, with botocore's jittered exponential waits; the cache's time limit is over all of them.
_ATTEMPTS: Final = 4
_READS: Final = 3  # of an account while others change the table; then the next look-up tries again
_POOL: Final = 16  # connections: what the cache asks at once

Item = Mapping[str, Mapping[str, Any]]


class DynamoDbSource:
    """The `AccountSource` over such a table. Use it as a context manager; it connects when it is first asked.

    Credentials are the process's own. k8s/iam/registry-dynamodb.json has the rights that it needs on the table; dynamodb:Scan only
    for sweeps and re-keys that name no accounts.
    """

    def __init__(
        self,
        *,
        table: str,
        region: str,
        endpoint_url: str | None,
        timeout_s: float,
        poll_interval_s: float,
        use_fips: bool = False,
        use_dualstack: bool = False,
    ) -> None:
        """FIPS and dual-stack endpoints are AWS's own: where a URL is given, the table is asked there, as it is."""
        self.name = f"dynamodb:{table}"
        self.table = table
        self._session = AioSession()
        self._region = region
        self._endpoint_url = endpoint_url
        # None, not False: then AWS_USE_FIPS_ENDPOINT and the like decide, for our own credentials' token exchange too.
        self._session.set_default_client_config(
            AioConfig(use_fips_endpoint=use_fips or None, use_dualstack_endpoint=use_dualstack or None)
        )
        self._config = AioConfig(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            max_pool_connections=_POOL,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        )
        self._documents = AccountDocuments()
        self._client: AioBaseClient | None = None
        self._connecting = asyncio.Lock()
        self._poll = VersionPoll(self._read_version, source=self.name, interval_s=poll_interval_s, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._disconnect()

    @property
    def version(self) -> str | None:
        """The number in REGISTRY/VERSION, as `watch` last read it."""
        return self._poll.version

    async def watch(self, invalidate: Invalidate) -> None:
        """Read the version every few seconds, until cancelled: one request unit each time."""
        await self._poll.run(invalidate)

    async def on_account(self, account: AccountId, known: AccountTenants | None) -> AccountTenants:
        """Everything that may concern an account. Raises SourceError."""
        for _ in range(_READS):
            everywhere = {item["sk"]["S"]: item async for item in self._partition(REGISTRY)}
            before = _version_in(everywhere.get("VERSION"))
            items = [item async for item in self._partition(f"ACCOUNT#{account}")]
            after = _version_in((await self.call("get_item", Key=VERSION_KEY, ConsistentRead=True)).get("Item"))
            if before == after and after is not None:
                document = _document(items, everywhere.get("EVERYWHERE", {}))
                return await self._documents.answer(document, account=account, known=known)
        raise SourceUnavailableError(
            "the table is being changed; where nobody does that, a writer ended before it removed is_changing"
        )

    async def tenants(self) -> AsyncGenerator[TenantPage, None]:
        """Every tenant, once for each of its accounts: a scan, of a megabyte a page. Raises SourceError."""
        registry = {item["sk"]["S"]: item async for item in self._partition(REGISTRY)}
        if _version_in(registry.get("VERSION")) is None:
            raise SourceUnavailableError("the table is being changed")
        everywhere = _document([], registry.get("EVERYWHERE", {}))
        yield TenantPage(everywhere, everywhere["tenants"])
        start: dict[str, Any] = {}
        while True:
            answer = await self.call(
                "scan",
                FilterExpression="begins_with(pk, :account)",
                ExpressionAttributeValues={":account": {"S": "ACCOUNT#"}},
                ProjectionExpression="pk, sk, tenant",
                ConsistentRead=True,
                **start,
            )
            yield TenantPage(everywhere, [_tenant_of(item) for item in _items_in(answer, "scan")])
            if not (last := answer.get("LastEvaluatedKey")):
                return
            start = {"ExclusiveStartKey": last}

    async def _read_version(self) -> str | None:
        """The version of the last finished change. Raises SourceError."""
        answer = await self.call("get_item", Key=VERSION_KEY, ConsistentRead=True)
        return _version_in(answer.get("Item")) or self._poll.version or "unfinished"

    async def _partition(self, key: str) -> AsyncIterator[Item]:
        start: dict[str, Any] = {}
        while True:
            answer = await self.call(
                "query",
                KeyConditionExpression="pk = :pk",
                ExpressionAttributeValues={":pk": {"S": key}},
                ConsistentRead=True,
                **start,
            )
            for item in _items_in(answer, "query"):
                yield item
            if not (last := answer.get("LastEvaluatedKey")):
                return
            start = {"ExclusiveStartKey": last}

    async def call(self, operation: str, *, allowed: str = "", **params: Any) -> Mapping[str, Any]:
        """One call on the table, throttles retried. Raises SourceUnavailableError, but gives `{}` for the error code `allowed`."""
        of_table = {} if operation == "batch_write_item" else {"TableName": self.table}
        try:
            client = await self._connected()
            answer: Mapping[str, Any] = await getattr(client, operation)(**of_table, **params)
        except NoCredentialsError as e:
            await self._disconnect()  # a client never looks for credentials again
            raise SourceUnavailableError(f"{operation}: {e}") from e
        except ClientError as e:
            if e.response.get("Error", {}).get("Code") == allowed:
                return {}
            raise SourceUnavailableError(self._explained(e)) from e
        except (BotoCoreError, ResponseParserError, aiohttp.ClientError, OSError) as e:
            raise SourceUnavailableError(f"{operation}: {str(e) or type(e).__name__}") from e
        return answer

    def _explained(self, error: ClientError) -> str:
        """AWS's words, and for a table that is absent or of another shape how to make the right one."""
        code, message = error.response.get("Error", {}).get("Code"), str(error)
        if code != "ResourceNotFoundException" and not (code == "ValidationException" and "schema" in message):
            return message
        return (
            f"there is no table {self.table} in {self._region} with the string keys pk (partition) and sk (sort): `aws dynamodb "
            f"create-table --table-name {self.table} --region {self._region} {TABLE_OPTIONS}` makes it ({message})"
        )

    async def _connected(self) -> AioBaseClient:
        async with self._connecting:
            if self._client is None:
                opening = self._session.create_client(
                    "dynamodb", region_name=self._region, endpoint_url=self._endpoint_url, config=self._config
                )
                self._client = await opening.__aenter__()  # closed in _disconnect
            return self._client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _items_in(answer: Mapping[str, Any], operation: str) -> list[Item]:
    if "Items" not in answer:
        raise SourceUnavailableError(f"{operation}: the answer is not DynamoDB's; a proxy's, perhaps")
    items: list[Item] = answer["Items"]
    return items


def _version_in(item: Item | None) -> str | None:
    """The version, None while the table is being changed. Raises SourceDataError."""
    version = _plain(item.get("version", {"NULL": True})) if item else None
    if version is None:
        raise SourceDataError(f"there is no item {REGISTRY}/VERSION with a version: no tenants have been stored")
    return None if item and "is_changing" in item else str(version)


def _document(items: list[Item], everywhere: Item) -> dict[str, Any]:
    """The account's tenant document."""
    items.sort(key=_position)  # DynamoDB gives them by id
    tenants = [_attribute(item, "tenant") for item in items]
    document = {name: _plain(value) for name, value in everywhere.items() if name not in {"pk", "sk"}}
    if (default := document.get("default_tenant")) is not None:
        document["default_tenant"] = default.get("id") if isinstance(default, dict) else default
        if default not in tenants:  # where it differs from an item of the account, its id is there twice: refused
            tenants.append(default)
    return {"version": 1} | document | {"tenants": tenants}


def _position(item: Item) -> float:
    position = _plain(item.get("position", {"N": "0"}))
    if not isinstance(position, int | float):
        raise SourceDataError(f"item {_plain(item['pk'])}/{_plain(item['sk'])} has a position that is no number")
    return position


def _attribute(item: Item, name: str) -> Any:
    if name not in item:
        raise SourceDataError(f"item {_plain(item['pk'])}/{_plain(item['sk'])} has no attribute {name}")
    return _plain(item[name])


def _tenant_of(item: Item) -> Any:
    """The tenant in an item by itself: one that cannot be read is that tenant's problem, and spoils nobody else's."""
    try:
        return _attribute(item, "tenant")
    except SourceDataError as e:
        return UnreadableTenant(item["sk"]["S"].removeprefix("TENANT#"), str(e))


def _plain(value: Mapping[str, Any]) -> Any:
    """A DynamoDB value as plain data; a set of strings is a list. Raises SourceDataError for what no tenant has."""
    [(kind, content)] = value.items()
    match kind:
        case "S" | "BOOL":
            return content
        case "N":
            return int(content) if content.lstrip("-").isdigit() else float(content)
        case "NULL":
            return None
        case "L":
            return [_plain(each) for each in content]
        case "SS":
            return sorted(content)
        case "M":
            return {name: _plain(each) for name, each in content.items()}
        case _:
            raise SourceDataError(f"there is a value of DynamoDB's type {kind}, which no tenant has")
