"""Waiting for Kafka, and never for ever: until it acknowledges what was written, until this replica has read all that there was, and
until there is a last word on what somebody asked for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

ACK_TIMEOUT_S: Final = 10.0  # a broker's failover takes a few seconds; a caller's own time limit is often 30
CATCH_UP_TIMEOUT_S: Final = 5.0  # a replica that keeps up needs milliseconds; one that has just started is asked again


class NotAcknowledgedError(Exception):
    """Kafka has not acknowledged all of it in time. What is written of it, now or yet, takes effect. `what` is its id, if it has one."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not acknowledged in full")
        self.what = what


class CatchingUpError(Exception):
    """This replica has not read a topic to its end, so it can tell neither the last word nor that there is none."""


@contextlib.asynccontextmanager
async def acknowledged(what: str, *, within_s: float) -> AsyncIterator[None]:
    """Give the writes in the block so many seconds in all. Raises NotAcknowledgedError after them."""
    try:
        async with asyncio.timeout(within_s):
            yield
    except TimeoutError as e:
        raise NotAcknowledgedError(what) from e


async def catch_up(caught_up: Callable[[], Awaitable[None]], *, within_s: float) -> None:
    """Return when `caught_up` does. Raises CatchingUpError after so many seconds."""
    try:
        async with asyncio.timeout(within_s):
            await caught_up()
    except TimeoutError as e:
        raise CatchingUpError from e


class Waiters:
    """Whoever waits for the last word on something, by its id."""

    def __init__(self) -> None:
        self._told: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # gone with the last waiter
        self._is_closed = False

    async def wait(self, id_: str, *, is_settled: Callable[[], bool], timeout_s: float) -> None:
        """Return when it is settled, now or as of a `tell`, after `timeout_s` seconds, or on `close`."""
        told = self._told.setdefault(id_, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._is_closed and not is_settled():
                    told.clear()
                    await told.wait()

    def tell(self, id_: str, *, is_settled: Callable[[str], bool]) -> None:
        """Let those who wait for this id look again, if it is settled, which is asked only where somebody waits."""
        told = self._told.get(id_)
        if told is not None and is_settled(id_):
            told.set()

    def close(self) -> None:
        """Let nobody wait any longer, now or later, so that a shutdown does not wait for them."""
        self._is_closed = True
        for told in list(self._told.values()):
            told.set()
