"""A second look, some seconds after groups were sealed: whether AWS shows them under their key. What it does not is ensured again.

Fifty groups of a lane are one look, which waits in its lane behind everything else. What is remembered here is in no topic: a restart
or a rebalance forgets it, and the next sweep looks instead.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from service.core.turn import Held, Turn
from service.domain.command import EnsureCommand, Trigger
from service.domain.log_group import KeyArn, Lane, LogGroup
from service.domain.outcome import CallFailedError, Outcome, Recourse, State
from service.domain.pacing import Quota
from service.domain.sweep import Command
from service.domain.verify import VerifyCommand
from service.ports import MAX_DESCRIBED, Clock, LogGroups, Observer


class Verification:
    """Looks at each group from `after_s` to twice as many seconds after it was sealed; 0 for never.

    `submit` queues a command for which no record waits. One timer, for the look that is due first.
    """

    def __init__(
        self,
        *,
        submit: Callable[[Command], None],
        log_groups: LogGroups,
        clock: Clock,
        observer: Observer,
        after_s: float,
    ) -> None:
        self._submit = submit
        self._log_groups = log_groups
        self._clock = clock
        self._observer = observer
        self._after_s = after_s
        self._gathering: dict[Lane, tuple[float, dict[str, KeyArn]]] = {}  # since when, and what was sealed
        self._due: deque[tuple[float, Lane, dict[str, KeyArn]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self._owned_since = 0  # changes when the lanes may have changed hands

    def ended(self, outcome: Outcome) -> None:
        """Be told of an outcome, of any command: a group that was sealed is looked at in a while."""
        log_group, key = outcome.log_group, outcome.key
        if outcome.state is not State.SEALED or key is None or not self._after_s:
            return
        now = self._clock.now()
        since, keys = self._gathering.get(log_group.lane, (0.0, {}))
        if now - since >= self._after_s or len(keys) >= MAX_DESCRIBED:
            keys = {}
            self._gathering[log_group.lane] = now, keys
            self._due.append((now + 2 * self._after_s, log_group.lane, keys))
            if self._timer is None:
                self._set_timer()
        keys[log_group.name] = key

    async def look(self, command: VerifyCommand, turn: Turn) -> Held | None:
        """Look at some groups, and submit those that are not under their key. Held where the lane cannot be called now.

        Where AWS fails otherwise they are not looked at: the calls that sealed them succeeded. Raises GivenUpError.
        """
        owned_since = self._owned_since
        try:
            await turn.session(self._log_groups.ready(command.lane))
            async with turn.call(Quota.DESCRIBE):
                seen = await self._log_groups.describe(command.lane, command.keys)
        except CallFailedError as e:
            self._observer.verified(right=0, wrong=0, unseen=len(command.keys))
            return Held(e.failure, e.detail) if e.failure.recourse is Recourse.HOLD else None
        if owned_since != self._owned_since:
            return None  # forgotten meanwhile
        wrong = [name for name, key in command.keys.items() if name in seen and seen[name] != key]
        self._observer.verified(right=len(seen) - len(wrong), wrong=len(wrong), unseen=len(command.keys) - len(seen))
        at_ms = self._clock.epoch_ms()
        for name in wrong:
            log_group = LogGroup(command.lane.account, command.lane.region, name)
            self._submit(EnsureCommand(log_group=log_group, trigger=Trigger.VERIFY, accepted_at_ms=at_ms))
        return None

    def forget(self) -> None:
        """The lanes may have another owner from here on."""
        self._owned_since += 1
        self._gathering.clear()
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._due[0][0], self._come_due)

    def _come_due(self) -> None:
        self._timer = None
        now = self._clock.now()
        while self._due and self._due[0][0] <= now:
            _, lane, keys = self._due.popleft()
            if self._gathering.get(lane, (0.0, None))[1] is keys:
                del self._gathering[lane]
            self._number += 1
            self._submit(VerifyCommand(lane=lane, number=self._number, keys=keys))
        if self._due:
            self._set_timer()
