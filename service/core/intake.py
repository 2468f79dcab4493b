"""The way into the worker: records of the work topic into the dispatcher's lanes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from service.core.dead_letters import DeadLetters
from service.core.dispatcher import Dispatcher
from service.core.forwarding import Forwarding
from service.core.sweep import Sweeper
from service.core.verification import Verification
from service.domain.command import EnsureCommand, MalformedCommandError, NewerCommandError, Origin, Trigger
from service.domain.offsets import Delivery
from service.domain.outcome import FailureClass
from service.domain.sweep import SweepCommand, is_sweep
from service.ports import IncomingRecord, Observer, OutgoingRecord, Publisher

# Header of a command that was brought home: not again, or it might go in circles.
FORWARDED: Final = "logwarden-forwarded"


class Intake(Forwarding):
    """Handles the records of the work topic."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        verification: Verification,
        sweeper: Sweeper,
        dead_letters: DeadLetters,
        publisher: Publisher,
        home_of: Callable[[bytes], int | None],
        observer: Observer,
    ) -> None:
        """`home_of` is the partition where `publisher` puts a command of this key, None where it cannot tell."""
        super().__init__()
        self._dispatcher = dispatcher
        self._verification = verification
        self._sweeper = sweeper
        self._dead_letters = dead_letters
        self._publisher = publisher
        self._home_of = home_of
        self._observer = observer
        self._too_new: dict[tuple[str, int], int] = {}

    @property
    def too_new(self) -> Sequence[str]:
        """The first record of each partition that is left for a newer release, as topic/partition/offset."""
        return [f"{topic}/{partition}/{offset}" for (topic, partition), offset in sorted(self._too_new.items())]

    def handle(self, record: IncomingRecord, delivery: Delivery) -> None:
        """Queue the record's command, or begin its sweep; what is neither becomes a dead letter.

        What a newer release wrote stays unfinished: one that owns the partition, after an upgrade, finds it there. What is not on its
        lane's partition, since some other producer put it there, is brought home: here two replicas would spend one lane's quota.
        """
        try:
            command = (
                SweepCommand.from_bytes(record.value)
                if is_sweep(record.value)
                else EnsureCommand.from_bytes(record.value)
            )
        except NewerCommandError as e:
            if (at := (record.topic, record.partition)) not in self._too_new:  # to be told once
                self._too_new[at] = record.offset
                self._observer.command_too_new(f"{record.topic}/{record.partition}/{record.offset}", str(e))
        except MalformedCommandError as e:
            self.start(
                self._dead_letters.send_record(record, FailureClass.MALFORMED_COMMAND, str(e), field=e.field), delivery
            )
        else:
            key = command.partition_key
            if (home := self._home_of(key)) not in (record.partition, None) and not _was_forwarded(record):
                self.start(self._bring_home(record, key, home), delivery)
            elif isinstance(command, SweepCommand):
                self._sweeper.begin(command, delivery)
            elif self._concerns_nobody(command):
                delivery.finish()
            else:
                self._dispatcher.submit(command, delivery)

    async def drain(self, deadline_s: float) -> None:
        """Let what is under way end, drop what waits: the next owner of the partitions reads it again."""
        self._verification.forget()
        self._sweeper.forget()
        await asyncio.gather(
            self._dispatcher.drain(deadline_s), self._sweeper.drain(deadline_s), super().drain(deadline_s)
        )
        self._verification.forget()  # what was sealed meanwhile, too
        self._sweeper.forget()
        self._too_new.clear()

    async def _bring_home(self, record: IncomingRecord, key: bytes, home: int) -> None:
        await self._publisher.publish(OutgoingRecord(record.topic, key, record.value, [(FORWARDED, b"1")]))
        self._observer.command_misplaced(Origin(record.topic, record.partition, record.offset), home=home)

    def _concerns_nobody(self, command: EnsureCommand) -> bool:
        """A deletion concerns only who waits: the group is looked at before it is sealed."""
        is_bare = command.trigger is Trigger.DELETED and not command.deferrals and not command.request_ids
        return is_bare and not self._dispatcher.schedule.has_waiting(command.log_group)

    def restart(self) -> None:
        self._dispatcher.restart()


def _was_forwarded(record: IncomingRecord) -> bool:
    """Whether it is where another replica put it, who may know of more partitions than we do, or of fewer: it is not put back."""
    return any(name == FORWARDED for name, _ in record.headers)
