"""One lane: the commands of one account and Region, de-duplicated by log group, in order of urgency, at the pace AWS allows.

After client-go's workqueue: a group is *waiting*, or *running*, or running and *dirty* (it was asked for again meanwhile, and runs
once more). So no two calls for one group ever run at once. Pure: every method takes the time, in monotonic seconds.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Final

from service.domain import log_group
from service.domain.command import EnsureCommand, Priority
from service.domain.log_group import LogGroup
from service.domain.offsets import Delivery
from service.domain.pacing import Pacer
from service.domain.status import Hold, LaneStatus

# Whoever has waited longest beyond the patience of their class goes first: a sweep that waits five minutes is as urgent as an event
# of this moment, so nothing starves and no class is served twice as often as it has to be.
PATIENCE_S: Final = {Priority.URGENT: 0.0, Priority.RETRY: 30.0, Priority.SWEEP: 300.0}

# Getters in C: a look at a hundred thousand waiting commands takes 10 ms with them, 30 ms without, and holds everything up meanwhile.
_PRIORITY: Final = attrgetter("priority")
_SINCE: Final = attrgetter("since")


@dataclass(slots=True, eq=False)
class Work:
    """One log group's pending work: the merged command and every record that asks for it. `priority` is the queue it lies in."""

    command: EnsureCommand
    deliveries: list[Delivery]
    since: float
    priority: Priority

    @property
    def log_group(self) -> LogGroup:
        return self.command.log_group

    def absorb(self, command: EnsureCommand, deliveries: Iterable[Delivery]) -> None:
        """Take another command for the same group aboard: they end together."""
        self.command = self.command.merged(command)
        self.deliveries.extend(deliveries)


@dataclass(slots=True, order=True)
class _Pause:
    """A running command that waits to call again, no earlier than `due`."""

    due: float
    number: int
    work: Work = field(compare=False)


class Lane:
    """The queue of one account and Region. Not thread-safe; one owner at a time in the whole fleet."""

    __slots__ = (
        "_dirty",
        "_held_until",
        "_hold_s",
        "_max_running",
        "_pauses",
        "_queues",
        "_running",
        "_serial",
        "_waiting",
        "hold_reason",
        "id",
        "pacer",
    )

    def __init__(self, lane: log_group.Lane, *, pacer: Pacer, max_running: int) -> None:
        self.id = lane
        self.pacer = pacer
        self.hold_reason: str | None = None
        self._max_running = max_running
        self._waiting: dict[str, Work] = {}
        self._queues: dict[Priority, deque[Work]] = {priority: deque() for priority in Priority}
        self._running: dict[str, Work] = {}
        self._dirty: dict[str, Work] = {}
        self._pauses: list[_Pause] = []
        self._serial = 0
        self._held_until = 0.0
        self._hold_s = 0.0

    # -- what comes in

    def add(self, command: EnsureCommand, delivery: Delivery, now: float) -> None:
        """Queue a command: on its own, joined to the one that waits for the same group, or after the one that runs."""
        name = command.log_group.name
        if name in self._running:
            if (again := self._dirty.get(name)) is None:
                self._dirty[name] = Work(command, [delivery], now, command.priority)
            else:
                again.absorb(command, [delivery])
        elif (waiting := self._waiting.get(name)) is None:
            self._enqueue(Work(command, [delivery], now, command.priority))
        else:
            waiting.absorb(command, [delivery])
            self._promote(waiting)

    # -- what goes out

    def next(self, now: float) -> Work | None:
        """Take what may call now and spend a token on it: first what is to be tried again, then what waits."""
        if now < self._ready_to_call_at():
            return None
        if self._pauses and self._pauses[0].due <= now:
            work = heapq.heappop(self._pauses).work
        elif self._waiting and len(self._running) < self._room:
            work = self._dequeue()
            self._running[work.log_group.name] = work
        else:
            return None
        self.pacer.take(now)
        return work

    def ready_at(self) -> float | None:
        """The earliest time at which `next` has something, as things stand; None if that needs an `add` or a `finish` first."""
        starts: list[float] = []
        if self._pauses:
            starts.append(self._pauses[0].due)
        if self._waiting and len(self._running) < self._room:
            starts.append(0.0)
        return max(self._ready_to_call_at(), min(starts)) if starts else None

    def pause(self, work: Work, due: float) -> None:
        """Let a running command call again from `due` on, when there is a token: `next` returns it then, before new work."""
        self._serial += 1
        heapq.heappush(self._pauses, _Pause(due, self._serial, work))

    def unpause(self) -> list[Work]:
        """Forget all pauses, and return the commands that were in them: they are given up."""
        works = [pause.work for pause in self._pauses]
        self._pauses.clear()
        return works

    def finish(self, work: Work, now: float) -> None:
        """End a running command; one that was asked for meanwhile waits again."""
        name = work.log_group.name
        del self._running[name]
        if (again := self._dirty.pop(name, None)) is not None:
            again.since = now
            self._enqueue(again)

    def put_back(self, work: Work, now: float) -> None:
        """Return a running command to the queue, with what was asked meanwhile: its failure was not its own."""
        name = work.log_group.name
        del self._running[name]
        if (again := self._dirty.pop(name, None)) is not None:
            work.absorb(again.command, again.deliveries)
        work.since = min(work.since, now)
        self._enqueue(work)

    def hold(self, now: float, reason: str, *, first_s: float, longest_s: float) -> bool:
        """Start nothing for a while, for a fault that is not any one command's: `first_s` seconds, then twice that, and so on.

        The commands that were under way when the fault appeared come back one by one: they make one hold, not many. Returns
        whether this one made it.
        """
        self.hold_reason = reason
        if now < self._held_until:
            return False
        self._hold_s = min(2 * self._hold_s or first_s, longest_s)
        self._held_until = now + self._hold_s
        return True

    def release(self) -> None:
        """Go on: a call has succeeded, or the reason is gone."""
        self._held_until = 0.0
        self._hold_s = 0.0
        self.hold_reason = None

    def drop_waiting(self) -> list[Work]:
        """Forget everything that has not started; the records will be read again by whoever owns the partition next."""
        dropped = [*self._waiting.values(), *self._dirty.values()]
        self._waiting.clear()
        self._dirty.clear()
        for queue in self._queues.values():
            queue.clear()
        return dropped

    # -- what there is to see

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def held_until(self) -> float:
        return self._held_until

    def waiting(self) -> dict[Priority, int]:
        """How many groups wait, by priority. Looks at every one."""
        counts = Counter(map(_PRIORITY, self._waiting.values()))
        counts.update(work.command.priority for work in self._dirty.values())
        return {priority: counts[priority] for priority in Priority}

    def oldest_since(self) -> float | None:
        """When the command that waits longest came in. Looks at every one: the order of a queue is not that of their ages."""
        return min(map(_SINCE, chain(self._waiting.values(), self._dirty.values())), default=None)

    def status(self, now: float) -> LaneStatus:
        """The lane as it stands; one without work is not held, since there is nothing that waits for it. Looks at every command."""
        throttled_at, oldest_since = self.pacer.throttled_at, self.oldest_since()
        hold = None
        if self.hold_reason is not None and not self.is_idle:
            hold = Hold(self.hold_reason, max(0.0, self._held_until - now))
        return LaneStatus(
            lane=self.id,
            waiting=self.waiting(),
            in_flight=len(self._running),
            rate_per_s=self.pacer.rate(now),
            ceiling_per_s=self.pacer.ceiling_per_s,
            throttled_ago_s=None if throttled_at is None else now - throttled_at,
            oldest_waiting_s=None if oldest_since is None else now - oldest_since,
            hold=hold,
        )

    # -- inside

    @property
    def _room(self) -> int:
        """How many may run: one, until a hold is over, so that a fault that persists takes one slot and not a lane's worth of them."""
        return 1 if self._hold_s else self._max_running

    def _ready_to_call_at(self) -> float:
        return max(self.pacer.due, self._held_until)

    def _enqueue(self, work: Work) -> None:
        work.priority = work.command.priority
        self._waiting[work.log_group.name] = work
        self._queues[work.priority].append(work)

    def _promote(self, work: Work) -> None:
        """Move a waiting command up when a more urgent one joins it; the entry left behind is skipped when it comes up."""
        if work.command.priority < work.priority:
            work.priority = work.command.priority
            self._queues[work.priority].append(work)

    def _head(self, priority: Priority) -> Work | None:
        """The first live entry of a class: those that were promoted out of it, for good, are dropped here."""
        queue = self._queues[priority]
        while queue and queue[0].priority is not priority:
            queue.popleft()
        return queue[0] if queue else None

    def _dequeue(self) -> Work:
        heads = [head for priority in Priority if (head := self._head(priority)) is not None]
        work = min(heads, key=lambda head: head.since + PATIENCE_S[head.priority])
        self._queues[work.priority].popleft()
        del self._waiting[work.log_group.name]
        return work
