"""All lanes of one replica: whose turn it is, and when to look again.

Regions that have lanes that may call take turns, and so do the lanes of each: one with 20,000 groups waiting delays no other. The
rest lie in a heap by the time at which they may. Nothing here polls: `next` and `wake_at` say it all. Pure, like the lane: times are monotonic seconds.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final

from service.domain import log_group
from service.domain.lane import Lane
from service.domain.log_group import Region
from service.domain.offsets import Delivery
from service.domain.pacing import Quota
from service.domain.status import LanesStatus
from service.domain.sweep import Command
from service.domain.work import Work

_IDLE_S = 60.0  # an idle lane is kept this long after its pace is back to normal: bursts come in pairs
_NOW = float("-inf")  # the place of a lane in the turn queue
# Where AWS does not answer, every call keeps its place until it times out, and soon such Regions would have them all. So while lanes of
# others are known, a Region may have three times as many places as are free (Choudhury and Hahne's dynamic threshold), or else an equal
# share: three quarters of all where one is sick, fewer each where several are, and always some are left.
_PER_FREE_PLACE: Final = 3


class Schedule:
    """Lanes by account and Region, made when first asked for and forgotten when idle, so that bad input cannot pile them up.

    `new_lane` takes since when a lane is ours, in monotonic seconds.

    `max_under_way` bounds the commands under way at once in all lanes, not counting those that wait. No Region takes all of that, nor do
    several together, unless it is the only one.
    """

    def __init__(self, *, new_lane: Callable[[log_group.Lane, float], Lane], max_under_way: int) -> None:
        self._new_lane = new_lane
        self._max_under_way = max_under_way
        self._lanes: dict[log_group.Lane, Lane] = {}
        self._turns: dict[Region, deque[Lane]] = {}  # Regions with lanes that may call now; the next one first
        self._later: list[tuple[float, int, Lane]] = []
        self._placed: dict[Lane, float] = {}  # the time under which a lane's one valid entry lies
        self._serial = 0
        self.under_way = 0
        self._under_way_in: Counter[Region] = Counter()
        self._lanes_in: Counter[Region] = Counter()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __len__(self) -> int:
        return len(self._lanes)

    def status(self, now: float) -> LanesStatus:
        """Every lane as it stands, idle ones that are not forgotten yet included."""
        return LanesStatus.of(lane.status(now) for lane in self._lanes.values())

    def lane_of(self, work: Work) -> Lane:
        """The lane of a command that is waiting or running: it is not forgotten before the command is finished."""
        return self._lanes[work.lane]

    def add(self, command: Command, delivery: Delivery, now: float) -> None:
        """Queue a command in its lane."""
        lane_id = command.lane
        lane = self._lanes.get(lane_id)
        if lane is None:
            lane = self._lanes[lane_id] = self._new_lane(lane_id, delivery.owned_since)
            self._lanes_in[lane_id.region] += 1
        lane.add(command, delivery, now)
        self._place(lane, now)

    def has_waiting(self, log_group: log_group.LogGroup) -> bool:
        """Whether a command for this group has not been started yet."""
        lane = self._lanes.get(log_group.lane)
        return lane is not None and lane.has_waiting(log_group.name)

    def next(self, now: float) -> Work | None:
        """The next command that may start, or call, now, lanes in turn; None if there is none, or enough are under way."""
        while self._later and self._later[0][0] <= now:
            at, _, lane = heapq.heappop(self._later)
            if self._placed.get(lane) != at:
                continue  # it was placed anew since
            del self._placed[lane]
            if lane.is_idle:
                self._forget(lane)
            else:
                self._place(lane, now)
        while (region := self._whose_turn()) is not None:
            lane = self._take_turn(region)
            work = lane.next(now)
            if work is not None:
                self._entered(lane)
            self._place(lane, now)
            if work is not None:
                return work
        return None

    def wake_at(self) -> float | None:
        """When `next` may have something again, if nothing else happens before; None if only an `add` or a `finish` can tell."""
        if self._whose_turn() is not None:
            return _NOW
        while self._later and self._placed.get(self._later[0][2]) != self._later[0][0]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def wait(self, work: Work, quota: Quota, now: float) -> None:
        """Let a command that is under way wait for a token; `next` returns it with one."""
        lane = self.lane_of(work)
        lane.wait(work, quota)
        self._left(lane, now)

    def stop_waiting(self, work: Work) -> None:
        """Let a command that waits for a token go on without one: it is cancelled."""
        lane = self.lane_of(work)
        lane.stop_waiting(work)
        self._entered(lane)

    def park(self, work: Work, now: float) -> None:
        """Let a command that is under way wait for something that is no token, until `unpark`."""
        lane = self.lane_of(work)
        lane.park(work)
        self._left(lane, now)

    def unpark(self, work: Work) -> None:
        """Go on with a parked command at once."""
        lane = self.lane_of(work)
        lane.unpark()
        self._entered(lane)

    def throttled(self, work: Work, quota: Quota, now: float) -> None:
        """AWS refused a command's call for its rate: its lane slows down."""
        self.lane_of(work).throttled(quota, now)

    def finish(self, work: Work, now: float) -> None:
        """End a command that is under way."""
        lane = self.lane_of(work)
        lane.finish(work, now)
        self._left(lane, now)

    def put_back(self, work: Work, now: float, *, is_first: bool = False) -> None:
        """Return a command that is under way to its queue: to its end, or to its beginning."""
        lane = self.lane_of(work)
        lane.put_back(work, is_first=is_first)
        self._left(lane, now)

    def take_overdue(self, lane: Lane, now: float, *, after_s: float) -> list[Work]:
        """Start what has waited too long in a lane that is held; see there. They may be more than are let under way: park them."""
        works = lane.take_overdue(now, after_s=after_s)
        for _ in works:
            self._entered(lane)
        return works

    def give_up_waits(self, lane: Lane) -> list[Work]:
        """Return the commands of a lane that wait for tokens: they are under way, and whoever works them is to put them back or finish them."""
        given_up = lane.give_up_waits()
        for _ in given_up:
            self._entered(lane)
        return given_up

    def drop(self, now: float) -> list[Work]:
        """Forget what waits, and return the commands that wait for tokens: whoever works them is to give up and finish them.

        What is under way goes on. Lanes keep their pace, for those of their commands that come back to us.
        """
        given_up: list[Work] = []
        for lane in self._lanes.values():
            lane.drop_waiting()
            given_up += self.give_up_waits(lane)
            self._place(lane, now)
        return given_up

    # -- inside

    def _entered(self, lane: Lane) -> None:
        self.under_way += 1
        self._under_way_in[lane.id.region] += 1

    def _left(self, lane: Lane, now: float) -> None:
        self.under_way -= 1
        self._under_way_in[lane.id.region] -= 1
        self._place(lane, now)
        for refused in lane.crowd.let_in():
            if self._lanes.get(refused.id) is refused:  # and not forgotten meanwhile
                self._place(refused, now)

    def _forget(self, lane: Lane) -> None:
        region = lane.id.region
        del self._lanes[lane.id]
        self._lanes_in[region] -= 1
        if not self._lanes_in[region]:
            del self._lanes_in[region], self._under_way_in[region]

    def _whose_turn(self) -> Region | None:
        """The Region that is to have the next place; None if nobody wants it, or there is none."""
        if self.under_way >= self._max_under_way:
            return None
        return next((region for region in self._turns if not self._has_its_share(region)), None)

    def _has_its_share(self, region: Region) -> bool:
        regions = len(self._lanes_in)
        free = self._max_under_way - self.under_way
        share = max(_PER_FREE_PLACE * free, self._max_under_way // regions)
        return regions > 1 and self._under_way_in[region] >= share

    def _take_turn(self, region: Region) -> Lane:
        lanes = self._turns.pop(region)
        lane = lanes.popleft()
        if lanes:
            self._turns[region] = lanes  # behind the others
        del self._placed[lane]
        return lane

    def _place(self, lane: Lane, now: float) -> None:
        """Put the lane where it will be found when it is ready, or when it may be forgotten."""
        placed = self._placed.get(lane)
        if placed == _NOW:
            return  # its turn comes anyway, and is looked at then
        at = lane.ready_at()
        if at is None:
            if not lane.is_idle:
                return  # all of it is under way: a finish will place it
            at = lane.settles_at(now) + _IDLE_S
        if placed == at:
            return
        if at <= now:
            self._placed[lane] = _NOW
            self._turns.setdefault(lane.id.region, deque()).append(lane)
        else:
            self._placed[lane] = at
            self._serial += 1
            heapq.heappush(self._later, (at, self._serial, lane))
