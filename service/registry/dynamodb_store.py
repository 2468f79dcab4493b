"""Writing a whole tenant file into the DynamoDB table: readers see the old tenants or the new ones, by the rules of `dynamodb`."""

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from service.registry.document import everywhere, tenants_by_account, written
from service.registry.dynamodb import REGISTRY, VERSION_KEY, DynamoDbSource
from service.registry.schema import TenantFile

_BATCH: Final = 25  # BatchWriteItem's maximum
_BATCH_BYTES: Final = 500_000  # it takes 16 MB, but aiohttp warns of bodies from 1 MiB on, which hold up the event loop
_MAX_WAIT_S: Final = 5.0  # between attempts to write what the table's capacity did not allow

Request = Mapping[str, Any]


class TableInUseError(Exception):
    """Somebody is changing the table, or began to and did not end."""


async def store(tenant_file: TenantFile, *, table: DynamoDbSource, is_forced: bool = False) -> None:
    """Make the table hold these tenants and no others. Expects a file that has been checked.

    An interruption leaves `is_changing` set: readers go on with what they have, for as long as the cache allows. A repeat with
    `is_forced` mends that; without it, raises TableInUseError. Raises SourceUnavailableError. Needs the rights of
    k8s/iam/registry-dynamodb-load.json, and not the reader's.
    """
    await _begin(table, is_forced=is_forced)
    new = {_key(item): item for item in _items(tenant_file)}
    puts: list[Request] = [{"PutRequest": {"Item": item}} for item in new.values()]
    deletes: list[Request] = [
        {"DeleteRequest": {"Key": {"pk": {"S": pk}, "sk": {"S": sk}}}}
        for pk, sk in await _keys(table)
        if (pk, sk) not in new and (pk, sk) != (VERSION_KEY["pk"]["S"], VERSION_KEY["sk"]["S"])
    ]
    for batch in _batches([*puts, *deletes]):
        await _write(table, batch)
    await table.call(
        "update_item",
        Key=VERSION_KEY,
        UpdateExpression="ADD #version :one REMOVE is_changing",
        ExpressionAttributeNames={"#version": "version"},
        ExpressionAttributeValues={":one": {"N": "1"}},
    )


async def _begin(table: DynamoDbSource, *, is_forced: bool) -> None:
    """Take the lock for readers, which is one for writers too."""
    condition = {} if is_forced else {"ConditionExpression": "attribute_not_exists(is_changing)"}
    answer = await table.call(
        "update_item",
        allowed="ConditionalCheckFailedException",
        Key=VERSION_KEY,
        UpdateExpression="SET is_changing = :yes",
        ExpressionAttributeValues={":yes": {"BOOL": True}},
        ReturnValues="ALL_NEW",
        **condition,
    )
    if "Attributes" not in answer:
        raise TableInUseError("is_changing is set: somebody else is changing the table, or was interrupted")


def _items(tenant_file: TenantFile) -> Iterator[dict[str, Any]]:
    documents = {tenant.id: written(tenant) for tenant in tenant_file.tenants}
    positions = {tenant.id: position for position, tenant in enumerate(tenant_file.tenants)}
    shared: dict[str, Any] = everywhere(tenant_file)
    if tenant_file.default_tenant is not None:
        shared["default_tenant"] = documents[tenant_file.default_tenant]
    yield {"pk": {"S": REGISTRY}, "sk": {"S": "EVERYWHERE"}} | _value(shared)["M"]
    for account, tenants in tenants_by_account(tenant_file):
        for tenant in tenants:
            yield {
                "pk": {"S": f"ACCOUNT#{account}"},
                "sk": {"S": f"TENANT#{tenant.id}"},
                "tenant": _value(documents[tenant.id]),
                "position": _value(positions[tenant.id]),
            }


def _key(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


async def _keys(table: DynamoDbSource) -> list[tuple[str, str]]:
    """The key of every item."""
    keys: list[tuple[str, str]] = []
    start: dict[str, Any] = {}
    while True:
        answer = await table.call("scan", ProjectionExpression="pk, sk", ConsistentRead=True, **start)
        keys += map(_key, answer["Items"])
        if not (last := answer.get("LastEvaluatedKey")):
            return keys
        start = {"ExclusiveStartKey": last}


def _batches(requests: Sequence[Request]) -> Iterator[list[Request]]:
    batch: list[Request] = []
    size = 0
    for request in requests:
        length = len(json.dumps(request))
        if batch and (len(batch) == _BATCH or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += length
    if batch:
        yield batch


async def _write(table: DynamoDbSource, requests: Sequence[Request]) -> None:
    wait_s = 0.1
    while requests:
        answer = await table.call("batch_write_item", RequestItems={table.table: requests})
        requests = answer.get("UnprocessedItems", {}).get(table.table, [])
        if requests:
            await asyncio.sleep(random.uniform(0, wait_s))  # noqa: S311  jitter, not a secret
            wait_s = min(wait_s * 2, _MAX_WAIT_S)


def _value(plain: Any) -> dict[str, Any]:
    """Plain data as DynamoDB's value."""
    match plain:
        case bool():
            return {"BOOL": plain}
        case int() | float():
            return {"N": str(plain)}
        case str():
            return {"S": plain}
        case list():
            return {"L": [_value(each) for each in plain]}
        case dict():
            return {"M": {name: _value(each) for name, each in plain.items()}}
        case _:
            return {"NULL": True}
