"""Bringing the database to this release's schema: numbered SQL files, each applied once, in a transaction of its own."""

from importlib.resources import files
from typing import Final

import asyncpg

_LOCK: Final = 0x6C6F6777  # an advisory lock of ours ("logw"): two migrations at once would trip over each other
_TIMEOUT_S: Final = 60.0  # for each statement; an index over ten thousand tenants takes well under a second

_BOOKKEEPING: Final = """
CREATE SCHEMA IF NOT EXISTS logwarden;
CREATE TABLE IF NOT EXISTS logwarden.schema_version (
    version integer PRIMARY KEY,
    file text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


def migrations() -> dict[int, str]:
    """File names by version, in order."""
    names = sorted(file.name for file in files(__package__).iterdir() if file.name.endswith(".sql"))
    return {int(name.partition("_")[0]): name for name in names}


async def migrate(dsn: str, *, password: str | None = None, timeout_s: float = _TIMEOUT_S) -> list[str]:
    """Apply the files that the database has not seen yet; returns their names, none where it is up to date.

    Needs the rights to create a schema and what is in it. A repeat, an interruption and several at once do no harm: they wait for
    each other, and a file is applied as a whole or not at all. Raises asyncpg's errors, OSError and TimeoutError.
    """
    connection = await asyncpg.connect(dsn, password=password, timeout=timeout_s, command_timeout=timeout_s)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)  # until the connection ends
        await connection.execute(_BOOKKEEPING)
        applied = {row["version"] for row in await connection.fetch("SELECT version FROM logwarden.schema_version")}
        new = {version: name for version, name in migrations().items() if version not in applied}
        for version, name in new.items():
            async with connection.transaction():
                await connection.execute(files(__package__).joinpath(name).read_text())
                await connection.execute(
                    "INSERT INTO logwarden.schema_version (version, file) VALUES ($1, $2)", version, name
                )
        return list(new.values())
    finally:
        await connection.close(timeout=timeout_s)
