"""Work that only passes something on to another topic: a task a record, finished when the broker has it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from service.domain.offsets import Delivery
from service.ports import GivenUpError


class Forwarding:
    """The tasks that write what follows from a record and then finish its delivery; how many is bounded by what is fetched."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._bugs: asyncio.Queue[BaseException] = asyncio.Queue()

    async def run(self) -> None:
        """Wait until cancelled; raise what a forwarding task raised, before or since: a bug, which is to end the process."""
        raise await self._bugs.get()

    def start(self, forward: Coroutine[Any, Any, None], delivery: Delivery) -> asyncio.Task[None]:
        """Run `forward`, then finish the delivery."""
        task = asyncio.get_running_loop().create_task(forward)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, delivery))
        return task

    async def drain(self, deadline_s: float) -> None:
        """Wait up to `deadline_s` seconds for what has started, then cancel it; its records are read again."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=deadline_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def restart(self) -> None:
        """Nothing to do: there is no queue behind the tasks."""

    def _ended(self, task: "asyncio.Task[None]", delivery: Delivery) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not task.cancelling():
                self._bugs.put_nowait(RuntimeError("a forwarding was cancelled by nobody"))
            return
        if (error := task.exception()) is None:
            delivery.finish()
        elif not isinstance(error, GivenUpError):  # a record that is given up stays open
            self._bugs.put_nowait(error)
