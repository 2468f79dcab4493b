"""The way into the worker: records of the work topic into the dispatcher's lanes."""

import asyncio

from service.dead_letters import DeadLetters
from service.dispatcher import Dispatcher
from service.domain.command import EnsureCommand, MalformedCommandError
from service.domain.offsets import Delivery
from service.domain.outcome import FailureClass
from service.forwarding import Forwarding
from service.ports import IncomingRecord


class Intake(Forwarding):
    """Handles the records of the work topic."""

    def __init__(self, *, dispatcher: Dispatcher, dead_letters: DeadLetters) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._dead_letters = dead_letters

    def handle(self, record: IncomingRecord, delivery: Delivery) -> None:
        """Queue the record's command; what is no command becomes a dead letter."""
        try:
            command = EnsureCommand.from_bytes(record.value)
        except MalformedCommandError as e:
            self.start(
                self._dead_letters.send_record(record, FailureClass.MALFORMED_COMMAND, str(e), field=e.field), delivery
            )
        else:
            self._dispatcher.submit(command, delivery)

    async def drain(self, deadline_s: float) -> None:
        """Let what is calling end, drop what waits: the next owner of the partitions reads it again."""
        await asyncio.gather(self._dispatcher.drain(deadline_s), super().drain(deadline_s))

    def restart(self) -> None:
        self._dispatcher.restart()
