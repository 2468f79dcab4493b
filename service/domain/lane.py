"""One lane: the commands of one account and Region, de-duplicated by log group, in order of urgency, at the pace AWS allows.

After client-go's workqueue: a group is *waiting*, or *running*, or running and *dirty* (it was asked for again meanwhile, and runs
once more). So no two calls for one group ever run at once. A running command is *under way*, or it waits for a token of one of the
quotas, or for an answer that it shares with others. Pure: every method takes the time, in monotonic seconds.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Final

from service.domain import log_group
from service.domain.command import EnsureCommand, Priority
from service.domain.log_group import LogGroup
from service.domain.offsets import Delivery
from service.domain.pacing import Pacer, Quota
from service.domain.status import Hold, LaneStatus, Trouble
from service.domain.sweep import Command
from service.domain.tokens import TokenQueue

# Whoever has waited longest beyond the patience of their class goes first: a sweep that waits five minutes is as urgent as an event
# of this moment, so nothing starves.
# By Priority; a tuple and no dict, since an enum hashes slowly and this is asked at every call.
PATIENCE_S: Final = 0.0, 30.0, 300.0
# But a large backlog of aged commands must not block events: of each class at most one call in so many is as urgent as an event, so
# that at least half of the calls are for the urgent.
SPACING: Final = {Priority.RETRY: 3, Priority.SWEEP: 6}
# What a class was served beyond that, while nobody else wanted to call, is held against it for so long at most.
MAX_DEBT_S: Final = 60.0

# How many may be on their way to a token, or wait for it, before no other command is started, unless a more urgent one while some only
# wait: a second's worth of calls, so that one is ready for every token though tags are looked up first. One description is shared by
# fifty: of two that wait, the first is full and the second is filling up. While the first of a lane wait for what all of it needs, a
# session, no more than that start at all: a replica that takes lanes over has a thousand commands for them.
_AHEAD: Final = {Quota.ASSOCIATE: 5, Quota.TAGS: 2, Quota.DESCRIBE: 2}
# Commands of one lane that have started, whatever they wait for: several descriptions' worth. A task takes some kilobytes. The last
# places are kept for who is urgent: calls that hang may take those of sweeps for minutes.
_MAX_RUNNING: Final = (256, 192, 192)  # by Priority

# Commands that a lane may start even when the limit of the replica is reached: one that calls, and one that is ready for the next token.
_IN_A_CROWD: Final = 2
_NEVER: Final = float("inf")
_LONG_AGO: Final = float("-inf")
# Of a lane that is held too long, after each hold, which is a minute at most: AWS lets 600 log groups a minute be made.
_POSTPONED_AT_ONCE: Final = 1000
_PRIORITIES: Final = tuple(Priority)  # an enum is slow to walk, and this is done five times a command

# Getters in C: a look at a hundred thousand waiting commands takes 10 ms with them, 30 ms without, and holds everything up meanwhile.
_PRIORITY: Final = attrgetter("priority")
_SINCE: Final = attrgetter("since")
_TOLD_AGAIN_S: Final = 60.0  # where every other call fails, that is news each time


@dataclass(slots=True, eq=False)
class Work:
    """One log group's pending work: the merged command, the record that asked for it first, and those that `joined`.

    `priority` is that of the queue it lies in, or of the most urgent who waits for its end. `rank` is its place among those that wait for
    tokens, lower is sooner; it is settled at the start.
    """

    command: Command
    delivery: Delivery
    since: float
    priority: Priority
    rank: float = 0.0
    held_since: float | None = None  # when its own failure first held its lane
    joined: list[Delivery] | None = None  # few have any, and a list for each of a hundred thousand is 8 MB

    @property
    def log_group(self) -> LogGroup:
        return self.command.log_group

    @property
    def deliveries(self) -> list[Delivery]:
        """Every record that asks for it, the first one first."""
        return [self.delivery, *(self.joined or ())]

    def absorb(self, command: Command, deliveries: Iterable[Delivery]) -> None:
        """Take another command for the same group, or of the same sweep, aboard: they end together."""
        if isinstance(self.command, EnsureCommand) and isinstance(command, EnsureCommand):
            self.command = self.command.merged(command)
        self.joined = self.joined or []
        self.joined.extend(deliveries)


@dataclass(slots=True)
class Crowd:
    """The commands of all lanes that have started: above `limit` a lane starts only a few at a time. Each is a task, of some kilobytes."""

    limit: int
    started: int = 0

    @property
    def is_full(self) -> bool:
        return self.started >= self.limit


class Lane:
    """The queue of one account and Region. Not thread-safe; one owner at a time in the whole fleet."""

    __slots__ = (
        "_ahead",
        "_all_tokens",
        "_crowd",
        "_dirty",
        "_earliest",
        "_held_since",
        "_held_until",
        "_hold_s",
        "_is_cold",
        "_max_under_way",
        "_needing",
        "_owned_since",
        "_preparing",
        "_queues",
        "_running",
        "_tokens",
        "_told_at",
        "_trouble",
        "_under_way",
        "_waiting",
        "held_at",
        "hold_detail",
        "hold_reason",
        "id",
    )

    def __init__(
        self,
        lane: log_group.Lane,
        *,
        rates_per_s: Mapping[Quota, float],
        max_under_way: int,
        owned_since: float,
        crowd: Crowd | None = None,
    ) -> None:
        """`rates_per_s` has the calls a second of every quota. `crowd` is shared with other lanes.

        `owned_since` is since when nobody else calls for this lane: each quota begins without a token at that moment.
        """
        self._crowd = crowd or Crowd(_MAX_RUNNING[Priority.URGENT])
        self.id = lane
        self.hold_reason: str | None = None
        self.hold_detail = ""
        self._trouble: Trouble | None = None
        self._told_at = _LONG_AGO
        self._max_under_way = max_under_way
        self._tokens: dict[Quota, TokenQueue[Work]] = {
            quota: TokenQueue(Pacer(ceiling_per_s=rates_per_s[quota], owned_since=owned_since)) for quota in Quota
        }
        self._owned_since = owned_since
        self._under_way = 0
        self._preparing: set[Work] = set()  # under way, and not waited for anything yet
        self._needing = 0  # commands that wait for what their calls need
        self._is_cold = True  # and none of this lane has had it yet
        self._waiting: dict[str, Work] = {}
        self._all_tokens = tuple(self._tokens.values())
        self._ahead = tuple((_AHEAD[quota], tokens) for quota, tokens in self._tokens.items())
        self._queues: tuple[deque[Work], ...] = tuple(deque() for _ in Priority)
        self._earliest = [0.0 for _ in Priority]  # the rank of the next of a class, if it has waited for longer
        self._running: dict[str, Work] = {}
        self._dirty: dict[str, Work] = {}
        self._held_since = 0.0
        self.held_at = _LONG_AGO  # when the last hold began
        self._held_until = 0.0
        self._hold_s = 0.0

    # -- what comes in

    def add(self, command: Command, delivery: Delivery, now: float) -> None:
        """Queue a command: on its own, joined to the one that waits for the same group, or after the one that runs.

        Where its record says that the lane was somebody else's for a while, that owner's last calls are allowed for.
        """
        if delivery.owned_since > self._owned_since:
            self._owned_since = delivery.owned_since
            for tokens in self._all_tokens:
                tokens.pacer.taken_over(self._owned_since)
        name = command.log_group.name
        if (running := self._running.get(name)) is not None:
            self.promote(running, command.priority)
            if (again := self._dirty.get(name)) is None:
                self._dirty[name] = Work(command, delivery, now, command.priority)
            else:
                again.absorb(command, [delivery])
        elif (waiting := self._waiting.get(name)) is None:
            self._enqueue(Work(command, delivery, now, command.priority))
        else:
            waiting.absorb(command, [delivery])
            self._move_up(waiting)

    # -- what goes out

    def next(self, now: float) -> Work | None:
        """Give a token to a command that waits for one, or else start one that waits; None if neither may be now."""
        if now < self._held_until or self._under_way >= self._room:
            return None
        work = self._granted(now)
        if work is None and (work := self._startable()) is not None:
            self._dequeue(work)
            self._settle_rank(work, now)
            self._start(work)
            self._preparing.add(work)
        elif work is not None:
            self._under_way += 1
        return work

    def ready_at(self) -> float | None:
        """The earliest time at which `next` has something, as things stand; None if something else has to happen first."""
        if self._under_way >= self._room:
            return None
        if self._startable() is not None:
            return self._held_until
        times = [at for tokens in self._all_tokens if (at := tokens.ready_at()) is not None]
        return max(self._held_until, min(times)) if times else None

    def wait(self, work: Work, quota: Quota) -> None:
        """Let a command that is under way wait for a token; `next` returns it with one."""
        self.park(work)
        self._tokens[quota].add(work, rank=work.rank)

    def stop_waiting(self, work: Work) -> None:
        """Let a command that waits for a token go on without one: it is cancelled."""
        for tokens in self._tokens.values():
            tokens.remove(work)
        self.unpark()

    def promote(self, work: Work, priority: Priority) -> None:
        """Make a running command as urgent as one that waits for it."""
        if priority < work.priority:
            work.priority = priority
            work.rank = min(work.rank, work.since + PATIENCE_S[priority])
            for tokens in self._tokens.values():
                tokens.promote(work, rank=work.rank)

    def give_up_waits(self) -> list[Work]:
        """Return the commands that wait for tokens, in the order of their coming: they are under way, to be given up."""
        works = [work for tokens in self._tokens.values() for work in tokens.clear()]
        self._under_way += len(works)
        return works

    def park(self, work: Work) -> None:
        """Let a command that is under way wait for something that is no token."""
        self._preparing.discard(work)
        self._under_way -= 1

    def need(self) -> None:
        """A command begins to wait for what its call needs, until `had`; it parks too. While no command of the lane has ever had it, few start."""
        self._needing += 1

    def had(self, *, is_there: bool) -> None:
        """Such a command goes on, with it or without."""
        self._needing -= 1
        self._is_cold &= not is_there

    def unpark(self) -> None:
        """Go on with such a command, at once: it is under way even if that makes one too many for a moment."""
        self._under_way += 1

    def finish(self, work: Work, now: float) -> None:
        """End a running command; one that was asked for meanwhile waits again."""
        name = work.log_group.name
        del self._running[name]
        self._crowd.started -= 1
        self.park(work)
        if (again := self._dirty.pop(name, None)) is not None:
            again.since = now
            self._enqueue(again)

    def put_back(self, work: Work, *, is_first: bool = False) -> None:
        """Return a running command to the queue, with what was asked meanwhile: its failure was not its own.

        To the end of the queue, since one that always fails must not be the only one tried; to its beginning where it had no turn.
        """
        name = work.log_group.name
        del self._running[name]
        self._crowd.started -= 1
        self.park(work)
        if (again := self._dirty.pop(name, None)) is not None:
            work.absorb(again.command, again.deliveries)
        self._enqueue(work, is_first=is_first)

    def hold(self, now: float, reason: str, detail: str = "", *, first_s: float, longest_s: float) -> bool:
        """Start nothing for a while, for a fault that is not any one command's: `first_s` seconds, then twice that, and so on.

        The commands that were under way when the fault appeared come back one by one: they make one hold, not many. Returns
        whether this one made it.
        """
        self.hold_reason, self.hold_detail = reason, detail
        if now < self._held_until:
            return False
        if not self.is_probing:
            self._held_since = now
        self.held_at = now
        self._hold_s = min(2 * self._hold_s or first_s, longest_s)
        self._held_until = now + self._hold_s
        return True

    def release(self) -> None:
        """Go on: a call has succeeded, or the reason is gone."""
        self._held_until = 0.0
        self._hold_s = 0.0
        self.hold_reason = None
        self.hold_detail = ""

    def retries(self, now: float, reason: str, detail: str) -> bool:
        """Calls fail in a way that may pass by itself, and are made again in place; say whether that is news: once a minute at the most."""
        is_news = self._trouble is None and now - self._told_at >= _TOLD_AGAIN_S
        if is_news:
            self._told_at = now
        self._trouble = Trouble(reason, detail, now if self._trouble is None else self._trouble.since)
        return is_news

    def answered(self) -> None:
        """A call came to something."""
        self._trouble = None

    def take_overdue(self, now: float, *, after_s: float) -> list[Work]:
        """Start commands that have waited for `after_s` seconds in a lane that has been held for as long: they are to be postponed.

        The oldest, a thousand at most and no more than the crowd has room for; no pages of sweeps and no second looks, for which no
        record waits. Looks at every command.
        """
        if not self.is_probing or now - self._held_since < after_s:
            return []
        overdue = [
            work
            for work in self._waiting.values()
            if now - work.since >= after_s and isinstance(work.command, EnsureCommand)
        ]
        overdue.sort(key=_SINCE)
        del overdue[max(0, min(_POSTPONED_AT_ONCE, self._crowd.limit - self._crowd.started)) :]
        taken = set(overdue)
        for priority, queue in zip(Priority, self._queues, strict=True):
            left = [work for work in queue if work not in taken and work.priority is priority]
            queue.clear()
            queue.extend(left)
        for work in overdue:
            del self._waiting[work.log_group.name]
            self._start(work)
        return overdue

    def sent(self, quota: Quota, now: float) -> None:
        """A call that was given a token goes out."""
        self._tokens[quota].pacer.sent(now)

    def throttled(self, quota: Quota, now: float) -> None:
        """AWS refused a call for its rate."""
        self._tokens[quota].pacer.throttled(now)

    def settles_at(self, now: float) -> float:
        """When all paces will be as those of a new lane."""
        return max(tokens.pacer.settles_at(now) for tokens in self._tokens.values())

    def drop_waiting(self) -> list[Work]:
        """Forget everything that has not started; the records will be read again by whoever owns the partition next."""
        dropped = [*self._waiting.values(), *self._dirty.values()]
        self._waiting.clear()
        self._dirty.clear()
        for queue in self._queues:
            queue.clear()
        return dropped

    # -- what there is to see

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running

    def has_waiting(self, name: str) -> bool:
        """Whether a command for the group of this name waits to be started, or to be run once more."""
        return name in self._waiting or name in self._dirty

    @property
    def is_probing(self) -> bool:
        """Whether the lane is held, or tries after a hold whether the fault is still there."""
        return self._hold_s > 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def under_way(self) -> int:
        return self._under_way

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
        pacer, oldest_since = self._tokens[Quota.ASSOCIATE].pacer, self.oldest_since()
        throttles = [
            (at, quota) for quota, tokens in self._tokens.items() if (at := tokens.pacer.throttled_at) is not None
        ]
        throttled_at, throttled = max(throttles, key=itemgetter(0), default=(None, None))
        hold = None
        if self.hold_reason is not None and not self.is_idle:
            hold = Hold(self.hold_reason, max(0.0, self._held_until - now), self.hold_detail)
        return LaneStatus(
            lane=self.id,
            waiting=self.waiting(),
            in_flight=len(self._running),
            rate_per_s=pacer.rate(now),
            ceiling_per_s=pacer.ceiling_per_s,
            throttled_ago_s=None if throttled_at is None else now - throttled_at,
            throttled_operation=None if throttled is None else throttled.value,
            oldest_waiting_s=None if oldest_since is None else now - oldest_since,
            hold=hold,
            trouble=None if self.is_idle or hold is not None else self._trouble,
        )

    # -- inside

    @property
    def _room(self) -> int:
        """How many may be under way: one, until a hold is over, so that a fault that persists takes one place and not a lane's worth."""
        return 1 if self.is_probing else self._max_under_way

    def _enqueue(self, work: Work, *, is_first: bool = False) -> None:
        work.priority = work.command.priority
        self._waiting[work.log_group.name] = work
        queue = self._queues[work.priority]
        (queue.appendleft if is_first else queue.append)(work)

    def _move_up(self, work: Work) -> None:
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

    def _granted(self, now: float) -> Work | None:
        """A command that waits for a token and may have it now: it is spent."""
        for tokens in self._all_tokens:
            if (work := tokens.take(now)) is not None:
                return work
        return None

    def _startable(self) -> Work | None:
        """The command that is to be started next; None while enough of them that are as urgent wait for tokens already."""
        preparing, running = len(self._preparing), len(self._running)
        if not self._waiting or preparing >= _AHEAD[Quota.ASSOCIATE]:
            return None
        if self._is_cold and self._needing and running >= _AHEAD[Quota.ASSOCIATE]:
            return None
        if running >= _IN_A_CROWD and self._crowd.is_full:  # it is looked at again when one of its own has ended
            return None
        first, first_rank = None, _NEVER
        for priority in _PRIORITIES:
            head = self._head(priority) if running < _MAX_RUNNING[priority] else None
            if head is not None and (rank := self._rank_of(head)) < first_rank:
                first, first_rank = head, rank
        for ahead, tokens in self._ahead:
            if first_rank >= tokens.first_rank and preparing + len(tokens) >= ahead:
                return None
        return first

    def _rank_of(self, head: Work) -> float:
        return max(head.since + PATIENCE_S[head.priority], self._earliest[head.priority])

    def _settle_rank(self, head: Work, now: float) -> None:
        head.rank = self._rank_of(head)
        if (calls := SPACING.get(head.priority)) is not None:
            spacing_s = calls / self._tokens[Quota.ASSOCIATE].pacer.ceiling_per_s
            urgent = self._head(Priority.URGENT)
            present = now if urgent is None else urgent.since  # for one class as for the other
            self._earliest[head.priority] = min(max(head.rank + spacing_s, present), now + MAX_DEBT_S)

    def _start(self, work: Work) -> None:
        self._running[work.log_group.name] = work
        self._crowd.started += 1
        self._under_way += 1

    def _dequeue(self, head: Work) -> None:
        self._queues[head.priority].popleft()
        del self._waiting[head.log_group.name]
