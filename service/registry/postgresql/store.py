"""Writing a whole tenant file into the database, in one transaction: readers see the old tenants or the new ones."""

import json

import asyncpg

from service.registry.document import everywhere, written
from service.registry.schema import TenantFile

_TIMEOUT_S = 60.0  # for each statement; ten thousand tenants take a few seconds


async def store(
    tenant_file: TenantFile, *, dsn: str, password: str | None = None, timeout_s: float = _TIMEOUT_S
) -> None:
    """Make the database hold these tenants and no others. Expects a file that has been checked.

    Tenants that are the same already are left alone. A repeat does no harm, an interruption changes nothing. Needs the rights to
    write in the schema. Raises asyncpg's errors, OSError and TimeoutError.
    """
    tenants = [(json.dumps(written(tenant)), position) for position, tenant in enumerate(tenant_file.tenants)]
    connection = await asyncpg.connect(dsn, password=password, timeout=timeout_s, command_timeout=timeout_s)
    try:
        async with connection.transaction():
            # First of all the row that every writer takes in the end: two that store at once wait here, and not for each other.
            await connection.execute("SELECT FROM logwarden.registry FOR UPDATE")
            await connection.execute(
                """
                INSERT INTO logwarden.tenants (document, position)
                SELECT document::jsonb, position FROM unnest($1::text[], $2::integer[]) AS new (document, position)
                ON CONFLICT (id) DO UPDATE SET document = excluded.document, position = excluded.position
                WHERE (tenants.document, tenants.position) IS DISTINCT FROM (excluded.document, excluded.position)
                """,
                [document for document, _ in tenants],
                [position for _, position in tenants],
            )
            await connection.execute(
                "DELETE FROM logwarden.tenants WHERE id <> ALL ($1)", [tenant.id for tenant in tenant_file.tenants]
            )
            await connection.execute(
                "UPDATE logwarden.registry SET everywhere = $1::text::jsonb WHERE everywhere <> $1::text::jsonb",
                json.dumps(everywhere(tenant_file)),
            )
    finally:
        await connection.close(timeout=timeout_s)
