"""Times as they stand in records and are shown to people: milliseconds since 1970."""

from datetime import UTC, datetime
from typing import Final

# The year 10000, where datetime ends: no record of ours has it or a later one
END_OF_TIME_MS: Final = 253_402_300_800_000


def timestamp(epoch_ms: int) -> str:
    """A time in ms since 1970, before END_OF_TIME_MS, as the REST API and the command line show it: in UTC."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds")
