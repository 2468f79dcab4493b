"""The core of one replica, real from the topics to the ports: ingest, intake, dispatcher, worker, ensure, second looks, sweeps, retries."""

import asyncio
from collections.abc import Sequence

from service.core.dead_letters import DeadLetters
from service.core.dispatcher import Dispatcher
from service.core.ensure import Ensure, Policy
from service.core.ingest import Ingest
from service.core.intake import Intake
from service.core.retries import Retries
from service.core.sweep import Sweeper
from service.core.verification import Verification
from service.core.worker import Topics, Worker
from service.domain.offsets import untracked
from service.domain.outcome import Outcome
from service.domain.schedule import Schedule
from service.domain.sweep import Command
from service.ports import Clock, Keys, LogGroups, Publisher, RecordHandler, TenantDirectory
from tests.support.fakes import RecordingObserver, new_lane, unlimited

SOURCE, WORK, OUTCOMES, REQUESTS, DEAD_LETTERS = "source", "work", "outcomes", "requests", "dead-letters"


class Replica:
    """`handlers` are the record handlers by their topics. What it remembers begins with it and ends with it."""

    def __init__(
        self,
        *,
        directory: TenantDirectory,
        log_groups: LogGroups,
        keys: Keys,
        publisher: Publisher,
        clock: Clock,
        retry_delays_s: Sequence[float],
        verify_after_s: float = 5.0,
    ) -> None:
        self.observer = RecordingObserver()
        dead_letters = DeadLetters(
            publisher=publisher, observer=self.observer, limit=unlimited(), topic=DEAD_LETTERS, work_topic=WORK
        )
        retries = {f"retry.{step}": delay_s for step, delay_s in enumerate(retry_delays_s, start=1)}
        ensure = Ensure(
            directory=directory,
            log_groups=log_groups,
            keys=keys,
            clock=clock,
            policy=Policy(attempts=4, max_wait_s=2.0, observe_after_s=60.0),
        )
        worker = Worker(
            ensure=ensure,
            publisher=publisher,
            dead_letters=dead_letters,
            clock=clock,
            observer=self.observer,
            topics=Topics(outcomes=OUTCOMES, requests=REQUESTS, retries=list(retries)),
            retry_delays_s=list(retries.values()),
            on_outcome=self._ended,
        )
        self._dispatcher = Dispatcher(
            schedule=Schedule(new_lane=new_lane, max_under_way=64),
            work=worker.work,
            sweep=lambda command, turn: self._sweeper.work(command, turn),  # noqa: PLW0108  made below
            verify=lambda command, turn: self._verification.look(command, turn),  # noqa: PLW0108  made below
            clock=clock,
            hold_s=5.0,
            max_hold_s=60.0,
        )
        self._sweeper = Sweeper(
            directory=directory,
            log_groups=log_groups,
            keys=keys,
            publisher=publisher,
            clock=clock,
            submit=self._dispatcher.submit,
            report=worker.report,
            requests_topic=REQUESTS,
            max_waiting=300,
        )
        self._verification = Verification(
            submit=self._submit,
            log_groups=log_groups,
            clock=clock,
            observer=self.observer,
            after_s=verify_after_s,
        )
        intake = Intake(
            dispatcher=self._dispatcher,
            verification=self._verification,
            sweeper=self._sweeper,
            dead_letters=dead_letters,
            publisher=publisher,
            home_of=lambda key: 0,
            observer=self.observer,
        )
        ingest = Ingest(publisher=publisher, dead_letters=dead_letters, observer=self.observer, work_topic=WORK)
        retrying = {
            topic: Retries(publisher=publisher, clock=clock, work_topic=WORK, longest_delay_s=max(retry_delays_s))
            for topic in retries
        }
        self.handlers: dict[str, RecordHandler] = {SOURCE: ingest, WORK: intake, **retrying}
        self._loops = [
            self._dispatcher.run,
            intake.run,
            ingest.run,
            self._sweeper.run,
            *(r.run for r in retrying.values()),
        ]

    def pause(self, seconds: float) -> None:
        """Start nothing for a while."""
        self._dispatcher.suspend()
        asyncio.get_running_loop().call_later(seconds, self._dispatcher.resume)

    def _ended(self, outcome: Outcome) -> None:
        self._verification.ended(outcome)
        self._sweeper.ended(outcome)

    def _submit(self, command: Command) -> None:
        self._dispatcher.submit(command, untracked())

    async def run(self) -> None:
        """Work until cancelled; a bug in any part ends it."""
        async with asyncio.TaskGroup() as tasks:
            for loop in self._loops:
                tasks.create_task(loop())

    async def drain(self, deadline_s: float) -> None:
        """As when partitions are taken away; 0 is as good as a kill."""
        await asyncio.gather(*(handler.drain(deadline_s) for handler in self.handlers.values()))

    def restart(self) -> None:
        """As when partitions are given back."""
        for handler in self.handlers.values():
            handler.restart()
