"""What AWS says of log groups, asked for many at once: DescribeLogGroups takes 50 of a lane, and every call costs a token."""

import asyncio
from collections.abc import Mapping
from typing import Final

from service.core.turn import Turn
from service.domain.log_group import KeyArn, Lane, LogGroup
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.pacing import Quota
from service.ports import MAX_DESCRIBED, GivenUpError, LogGroups

# What AWS may say of a whole call for one of its names. (No source says whether it does; it leaves out groups that do not exist.)
_OF_A_NAME: Final = frozenset(
    {FailureClass.INVALID_REQUEST, FailureClass.RESERVED_NAME, FailureClass.LOG_GROUP_NOT_FOUND}
)


class Observations:
    """Looks at log groups for the commands that are worked now. The first to ask waits for the token, and calls for all who join it."""

    def __init__(self, log_groups: LogGroups) -> None:
        self._log_groups = log_groups
        self._gathering: dict[Lane, _Batch] = {}

    async def key_of(self, log_group: LogGroup, turn: Turn) -> KeyArn | None:
        """The key that a log group is under, None for none, as AWS shows it now.

        Raises CallFailedError, LOG_GROUP_NOT_FOUND too, and GivenUpError, all of them to everybody who shares the call. Whoever is
        cancelled leaves the others to themselves, unless it was the one who calls: they are given up with it.
        """
        batch = self._gathering.get(log_group.lane)
        if batch is None:
            batch = self._gathering[log_group.lane] = _Batch(turn)
            batch.names.add(log_group.name)
            ask = self._call(log_group.lane, batch, turn)
        else:
            batch.names.add(log_group.name)
            batch.turn.promote(turn.priority)
            if len(batch.names) >= MAX_DESCRIBED:
                self._close(log_group.lane, batch)
            ask = turn.shared(asyncio.shield(batch.answer))
        try:
            keys = await ask
        except CallFailedError as e:
            if e.failure not in _OF_A_NAME or len(batch.names) == 1:
                raise
            keys = await self._call(log_group.lane, _Batch(turn, log_group.name), turn)  # it may be about another one
        if log_group.name not in keys:
            raise CallFailedError(FailureClass.LOG_GROUP_NOT_FOUND, "DescribeLogGroups does not show it")
        return keys[log_group.name]

    async def _call(self, lane: Lane, batch: "_Batch", turn: Turn) -> Mapping[str, KeyArn | None]:
        try:
            await turn.session(self._log_groups.ready(lane))
            async with turn.call(Quota.DESCRIBE):
                self._close(lane, batch)
                keys = await self._log_groups.describe(lane, batch.names)
        except BaseException as e:  # a cancellation too: whoever joined would wait for ever
            self._close(lane, batch)
            batch.fail(e if isinstance(e, CallFailedError | GivenUpError) else GivenUpError())
            raise
        batch.answer.set_result(keys)
        return keys

    def _close(self, lane: Lane, batch: "_Batch") -> None:
        """Whoever asks from here on begins another batch."""
        if self._gathering.get(lane) is batch:
            del self._gathering[lane]


class _Batch:
    """Log groups of one lane that are described together, and what AWS says of them."""

    def __init__(self, turn: Turn, *names: str) -> None:
        self.turn = turn
        self.names = set(names)
        self.answer: asyncio.Future[Mapping[str, KeyArn | None]] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        self.answer.set_exception(error)
        self.answer.exception()  # nobody may have joined: asyncio would report it as never looked at
