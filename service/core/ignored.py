"""Which log groups of a lane have the tag `logwarden:ignore`: listed once for all of them, and remembered for some minutes.

Sweeps, retries and keys that were taken off show no tags, and single look-ups are few (5 a second). So the list only says which
groups are worth one: what their tag's value is, AWS is asked of each by itself.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from service.core.turn import Turn
from service.domain.log_group import Lane, LogGroup
from service.domain.outcome import CallFailedError, FailureClass, UnknownCallError
from service.domain.pacing import Quota
from service.domain.tenancy import IGNORE_TAG
from service.ports import Clock, GivenUpError, LogGroups

FRESH_S: Final = 300.0  # one call a lane in so long, and only where a key is about to be changed
_MAX_PAGES: Final = 5  # of a thousand names: past that a look-up for each group is the lesser evil
_MAX_LANES: Final = 10_000  # whose lists are remembered, the last used ones
# Roles made before the right was needed, and what a CloudWatch Logs that does not have the call yet may say of it.
_NO_LIST: Final = frozenset({FailureClass.NOT_AUTHORIZED, FailureClass.INVALID_REQUEST, FailureClass.UNRECOGNISED})

_Names = Collection[str] | None  # None where there is no list: any group may have the tag


class Ignored:
    """Lists by lane. The first command to ask makes the call for all that join it."""

    def __init__(self, log_groups: LogGroups, *, clock: Clock) -> None:
        self._log_groups = log_groups
        self._clock = clock
        self._lists: OrderedDict[Lane, tuple[float, _Names]] = OrderedDict()
        self._asking: dict[Lane, tuple[Turn, asyncio.Future[_Names]]] = {}

    async def may_have(self, log_group: LogGroup, turn: Turn) -> bool:
        """Whether the group may have the tag, by a list that is some minutes old at most; True where listing is not allowed.

        Raises CallFailedError and GivenUpError, to everybody who shares the call.
        """
        names = await self._names(log_group.lane, turn)
        return names is None or log_group.name in names

    async def has_list(self, lane: Lane, turn: Turn) -> bool:
        """Whether there is a list of the lane's, some minutes old at most. Raises as `may_have`."""
        return await self._names(lane, turn) is not None

    def changed(self, lane: Lane) -> None:
        """The tags of a group of this lane have changed: list anew when next asked."""
        self._lists.pop(lane, None)

    async def _names(self, lane: Lane, turn: Turn) -> _Names:
        read_at, names = self._lists.get(lane, (None, None))
        if read_at is not None and self._clock.now() - read_at < FRESH_S:
            self._lists.move_to_end(lane)
            return names
        if (asking := self._asking.get(lane)) is not None:
            asker, answer = asking
            asker.promote(turn.priority)
            return await turn.shared(asyncio.shield(answer))
        answer = asyncio.get_running_loop().create_future()
        self._asking[lane] = turn, answer
        try:
            names = await self._listed(lane, turn)
        except BaseException as e:  # a cancellation too: whoever joined would wait for ever
            answer.set_exception(e if isinstance(e, CallFailedError | GivenUpError) else GivenUpError())
            answer.exception()  # nobody may have joined: asyncio would report it as never looked at
            raise
        finally:
            del self._asking[lane]
        answer.set_result(names)
        self._lists[lane] = self._clock.now(), names
        self._lists.move_to_end(lane)
        if len(self._lists) > _MAX_LANES:
            self._lists.popitem(last=False)
        return names

    async def _listed(self, lane: Lane, turn: Turn) -> _Names:
        names: set[str] = set()
        token: str | None = None
        for _ in range(_MAX_PAGES):
            await turn.session(self._log_groups.ready(lane))
            try:
                async with turn.call(Quota.DESCRIBE):  # it has a quota of its own, from which these few calls are far
                    page, token = await self._log_groups.with_tag(lane, IGNORE_TAG, token)
            except UnknownCallError:
                return None
            except CallFailedError as e:
                if e.failure in _NO_LIST:
                    return None
                raise
            names.update(page)
            if token is None:
                return frozenset(names)
        return None
