"""All lanes of one replica: whose turn it is, and when to look again.

Lanes that may call take turns, so that one with 20,000 groups waiting delays no other. The rest lie in a heap by the time at which
they may. Nothing here polls: `next` and `wake_at` say it all. Pure, like the lane: times are monotonic seconds.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator

from service.domain import log_group
from service.domain.command import EnsureCommand
from service.domain.lane import Lane, Work
from service.domain.offsets import Delivery
from service.domain.status import LanesStatus

_IDLE_S = 60.0  # an idle lane is kept this long after its pace is back to normal: bursts come in pairs
_NOW = float("-inf")  # the place of a lane in the turn queue


class Schedule:
    """Lanes by account and Region, made when first asked for and forgotten when idle, so that bad input cannot pile them up.

    `max_calling` bounds the commands under way at once in all lanes, not counting those that wait to call again.
    """

    def __init__(self, *, new_lane: Callable[[log_group.Lane, float], Lane], max_calling: int) -> None:
        self._new_lane = new_lane
        self._max_calling = max_calling
        self._lanes: dict[log_group.Lane, Lane] = {}
        self._turns: deque[Lane] = deque()
        self._later: list[tuple[float, int, Lane]] = []
        self._placed: dict[Lane, float] = {}  # the time under which a lane's one valid entry lies
        self._serial = 0
        self.calling = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __len__(self) -> int:
        return len(self._lanes)

    def status(self, now: float) -> LanesStatus:
        """Every lane as it stands, idle ones that are not forgotten yet included."""
        return LanesStatus.of(lane.status(now) for lane in self._lanes.values())

    def lane_of(self, work: Work) -> Lane:
        """The lane of a command that is waiting or running: it is not forgotten before the command is finished."""
        return self._lanes[work.log_group.lane]

    def add(self, command: EnsureCommand, delivery: Delivery, now: float) -> None:
        """Queue a command in its lane."""
        lane_id = command.log_group.lane
        lane = self._lanes.get(lane_id)
        if lane is None:
            lane = self._lanes[lane_id] = self._new_lane(lane_id, now)
        lane.add(command, delivery, now)
        self._place(lane, now)

    def next(self, now: float) -> Work | None:
        """The next command that may call now, lanes in turn; None if there is none, or enough are calling."""
        while self._later and self._later[0][0] <= now:
            at, _, lane = heapq.heappop(self._later)
            if self._placed.get(lane) != at:
                continue  # it was placed anew since
            del self._placed[lane]
            if lane.is_idle:
                del self._lanes[lane.id]
            else:
                self._place(lane, now)
        while self._turns and self.calling < self._max_calling:
            lane = self._turns.popleft()
            del self._placed[lane]
            work = lane.next(now)
            self._place(lane, now)
            if work is not None:
                self.calling += 1
                return work
        return None

    def wake_at(self) -> float | None:
        """When `next` may have something again, if nothing else happens before; None if only an `add` or a `finish` can tell."""
        if self._turns and self.calling < self._max_calling:
            return _NOW
        while self._later and self._placed.get(self._later[0][2]) != self._later[0][0]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def pause(self, work: Work, due: float, now: float) -> None:
        """Let a command that is under way call again from `due` on; `next` returns it."""
        lane = self.lane_of(work)
        lane.pause(work, due)
        self._leave(lane, now)

    def give_back(self, work: Work, now: float) -> None:
        """Return the token of a command that turned out to need no call."""
        lane = self.lane_of(work)
        lane.pacer.give_back(now)
        self._place(lane, now)

    def finish(self, work: Work, now: float) -> None:
        """End a command that is under way."""
        lane = self.lane_of(work)
        lane.finish(work, now)
        self._leave(lane, now)

    def put_back(self, work: Work, now: float) -> None:
        """Return a command that is under way to its queue."""
        lane = self.lane_of(work)
        lane.put_back(work, now)
        self._leave(lane, now)

    def drop(self, now: float) -> list[Work]:
        """Forget what waits, and return the commands that wait to call again: whoever works them is to give up and finish them.

        What is calling goes on. Lanes begin again with an empty bucket, since they may have another owner meanwhile.
        """
        given_up: list[Work] = []
        for lane in self._lanes.values():
            lane.drop_waiting()
            given_up += lane.unpause()
            lane.pacer.start_empty(now)
            self._place(lane, now)
        self.calling += len(given_up)  # each is under way again until it is finished
        return given_up

    def _leave(self, lane: Lane, now: float) -> None:
        self.calling -= 1
        self._place(lane, now)

    def _place(self, lane: Lane, now: float) -> None:
        """Put the lane where it will be found when it is ready, or when it may be forgotten."""
        at = lane.ready_at()
        if at is None:
            if not lane.is_idle:
                return  # all of it is under way: a finish will place it
            at = lane.pacer.settles_at(now) + _IDLE_S
        placed = self._placed.get(lane)
        if placed in (_NOW, at):
            return  # its turn comes anyway, and is looked at then
        if at <= now:
            self._placed[lane] = _NOW
            self._turns.append(lane)
        else:
            self._placed[lane] = at
            self._serial += 1
            heapq.heappush(self._later, (at, self._serial, lane))
