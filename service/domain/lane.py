"""One lane: the commands of one account and Region, de-duplicated by log group, in order of urgency, at the pace AWS allows.

After client-go's workqueue: a group is *waiting*, or *running*, or running and *dirty* (it was asked for again meanwhile, and runs
once more). So no two calls for one group ever run at once. A running command is *under way*, or it waits for a token of one of the
quotas, or is *parked*: it waits for something else. Pure: every method takes the time, in monotonic seconds.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import Final

from service.domain import log_group
from service.domain.command import EnsureCommand, Priority
from service.domain.fault import LaneFault
from service.domain.offsets import Delivery
from service.domain.pacing import Pacer, Quota
from service.domain.queue import PATIENCE_S, CommandQueue
from service.domain.status import LaneStatus
from service.domain.sweep import Command
from service.domain.tokens import TokenQueue
from service.domain.work import Work

# How many may be on their way to a token, or wait for it, before no other command is started, unless a more urgent one while some only
# wait: a second's worth of calls, so that one is ready for every token though tags are looked up first. One description is shared by
# fifty: of two that wait, the first is full and the second is filling up. Of a lane that has had no session yet no more than that start
# at all: a replica that takes lanes over has a thousand commands for them, and all of them would wait for one.
_AHEAD: Final = {Quota.ASSOCIATE: 5, Quota.TAGS: 2, Quota.DESCRIBE: 2}
# Commands of one lane that have started, whatever they wait for: several descriptions' worth. A task takes some kilobytes. The last
# places are kept for who is urgent: calls that hang may take those of sweeps for minutes.
_MAX_RUNNING: Final = 256
_MAX_RUNNING_NOT_URGENT: Final = 192

# Commands that a lane may start even when the limit of the replica is reached: one that calls, and one that is ready for the next token.
_IN_A_CROWD: Final = 2
# Of a lane that is held too long, after each hold, which is a minute at most: AWS lets 600 log groups a minute be made.
_POSTPONED_AT_ONCE: Final = 1000
# Getters in C: a look at a hundred thousand waiting commands takes 10 ms with them, 30 ms without, and holds everything up meanwhile.
_PRIORITY: Final = attrgetter("priority")
_SINCE: Final = attrgetter("since")


@dataclass(slots=True)
class Crowd:
    """The commands of all lanes that have started: above `limit` a lane starts only a few at a time. Each is a task, of some kilobytes."""

    limit: int
    started: int = 0
    _refused: dict["Lane", None] = field(default_factory=dict)  # in the order of their asking

    @property
    def is_full(self) -> bool:
        return self.started >= self.limit

    def refuse(self, lane: "Lane") -> None:
        """Remember a lane that may start nothing more for now."""
        self._refused[lane] = None

    def let_in(self) -> "list[Lane]":
        """The lanes that are to be looked at again, since there is room: as many as there are places, who asked first comes first."""
        free = max(0, self.limit - self.started)
        lanes = list(islice(self._refused, free))
        for lane in lanes:
            del self._refused[lane]
        return lanes


class Lane:
    """The queue of one account and Region. Not thread-safe; one owner at a time in the whole fleet."""

    __slots__ = (
        "_ahead",
        "_all_tokens",
        "_dirty",
        "_is_cold",
        "_max_under_way",
        "_needing",
        "_owned_since",
        "_preparing",
        "_queue",
        "_running",
        "_tokens",
        "_under_way",
        "crowd",
        "fault",
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
        self.id = lane
        self.fault = LaneFault()
        self.crowd = crowd or Crowd(_MAX_RUNNING)
        self._max_under_way = max_under_way
        self._tokens: dict[Quota, TokenQueue[Work]] = {
            quota: TokenQueue(Pacer(ceiling_per_s=rates_per_s[quota], owned_since=owned_since)) for quota in Quota
        }
        self._all_tokens = tuple(self._tokens.values())
        self._ahead = tuple((_AHEAD[quota], tokens) for quota, tokens in self._tokens.items())
        self._owned_since = owned_since
        self._queue = CommandQueue(rate_per_s=rates_per_s[Quota.ASSOCIATE])
        self._running: dict[str, Work] = {}
        self._dirty: dict[str, Work] = {}
        self._under_way = 0
        self._preparing: set[Work] = set()  # under way, and not waited for anything yet
        self._needing = 0  # commands that wait for what their calls need
        self._is_cold = True  # no command has had a session, or has come as far as a call or an end

    # -- what comes in

    def add(self, command: Command, delivery: Delivery, now: float) -> None:
        """Queue a command: on its own, joined to the one that waits for the same group, or after the one that runs.

        Where its record says that the lane was somebody else's for a while, that owner's last calls are allowed for.
        """
        if delivery.owned_since > self._owned_since:
            self._owned_since = delivery.owned_since
            for tokens in self._all_tokens:
                tokens.pacer.taken_over(self._owned_since)
        key = command.queue_key
        if (running := self._running.get(key)) is not None:
            self.promote(running, command.priority)
            if (again := self._dirty.get(key)) is None:
                self._dirty[key] = Work(command, delivery, now, command.priority)
            else:
                again.absorb(command, [delivery])
        elif (waiting := self._queue.get(key)) is None:
            self._queue.put(Work(command, delivery, now, command.priority))
        else:
            waiting.absorb(command, [delivery])
            self._queue.promote(waiting)

    # -- what goes out

    def next(self, now: float) -> Work | None:
        """Give a token to a command that waits for one, or else start one that waits; None if neither may be now."""
        if now < self.fault.held_until or self._under_way >= self._room:
            return None
        work = self._granted(now)
        if work is None and (work := self._startable()) is not None:
            self._queue.take(work, now)
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
            return self.fault.held_until
        times = [at for tokens in self._all_tokens if (at := tokens.ready_at()) is not None]
        return max(self.fault.held_until, min(times)) if times else None

    def wait(self, work: Work, quota: Quota) -> None:
        """Let a command that is under way wait for a token; `next` returns it with one."""
        self._is_cold = False
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
        """A command begins to wait for what its call needs, until `had`; it parks too."""
        self._needing += 1

    def had(self) -> None:
        """Such a command goes on, with it or without."""
        self._needing -= 1

    def has_session(self) -> None:
        """A command has a session in the account."""
        self._is_cold = False

    def unpark(self) -> None:
        """Go on with such a command, at once: it is under way even if that makes one too many for a moment."""
        self._under_way += 1

    def finish(self, work: Work, now: float) -> None:
        """End a running command; one that was asked for meanwhile waits again."""
        self._is_cold &= self.fault.is_probing  # then what ends is put off for the very lack of a session
        if (again := self._stop(work)) is not None:
            again.since = now
            self._queue.put(again)

    def put_back(self, work: Work, *, is_first: bool = False) -> None:
        """Return a running command to the queue, with what was asked meanwhile: its failure was not its own.

        To the end of the queue, since one that always fails must not be the only one tried; to its beginning where it had no turn.
        """
        if is_first:
            self._queue.made_no_call(work)
        if (again := self._stop(work)) is not None:
            work.absorb(again.command, again.deliveries)
        self._queue.put(work, is_first=is_first)

    def take_overdue(self, now: float, *, after_s: float) -> list[Work]:
        """Start commands that have waited for `after_s` seconds in a lane that has been held for as long: they are to be postponed.

        The oldest, a thousand at most and no more than the crowd has room for; no pages of sweeps and no second looks, for which no
        record waits. Looks at every command.
        """
        if self.fault.lasts_s(now) < after_s:
            return []
        overdue = [w for w in self._queue if now - w.since >= after_s and isinstance(w.command, EnsureCommand)]
        overdue.sort(key=_SINCE)
        del overdue[max(0, min(_POSTPONED_AT_ONCE, self.crowd.limit - self.crowd.started)) :]
        self._queue.remove(overdue)
        for work in overdue:
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
        dropped = [*self._queue, *self._dirty.values()]
        self._queue.clear()
        self._dirty.clear()
        return dropped

    # -- what there is to see

    @property
    def is_idle(self) -> bool:
        return not self._queue and not self._running

    def has_waiting(self, key: str) -> bool:
        """Whether a command of this key waits to be started, or to be run once more."""
        return key in self._queue or key in self._dirty

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def under_way(self) -> int:
        return self._under_way

    def waiting(self) -> dict[Priority, int]:
        """How many groups wait, by priority. Looks at every one."""
        counts = Counter(map(_PRIORITY, self._queue))
        counts.update(work.command.priority for work in self._dirty.values())
        return {priority: counts[priority] for priority in Priority}

    def oldest_since(self) -> float | None:
        """When the command that waits longest came in. Looks at every one: the order of a queue is not that of their ages."""
        return min(map(_SINCE, chain(self._queue, self._dirty.values())), default=None)

    def status(self, now: float) -> LaneStatus:
        """The lane as it stands; one without work is not held, since there is nothing that waits for it. Looks at every command."""
        pacer, oldest_since = self._tokens[Quota.ASSOCIATE].pacer, self.oldest_since()
        throttles = [
            (at, quota) for quota, tokens in self._tokens.items() if (at := tokens.pacer.throttled_at) is not None
        ]
        throttled_at, throttled = max(throttles, key=itemgetter(0), default=(None, None))
        hold = None if self.is_idle else self.fault.status(now)
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
            trouble=None if self.is_idle or hold is not None else self.fault.trouble,
        )

    # -- inside

    @property
    def _room(self) -> int:
        """How many may be under way: one, until a hold is over, so that a fault that persists takes one place and not a lane's worth."""
        return 1 if self.fault.is_probing else self._max_under_way

    def _granted(self, now: float) -> Work | None:
        """A command that waits for a token and may have it now: it is spent."""
        for tokens in self._all_tokens:
            if (work := tokens.take(now)) is not None:
                return work
        return None

    def _startable(self) -> Work | None:
        """The command that is to be started next; None while enough of them that are as urgent wait for tokens already.

        Where it is only the crowd that is in the way, that is asked to have the lane looked at again.
        """
        preparing, running = len(self._preparing), len(self._running)
        if not self._queue or preparing >= _AHEAD[Quota.ASSOCIATE] or running >= _MAX_RUNNING:
            return None
        if self._is_cold and running >= _AHEAD[Quota.ASSOCIATE]:
            return None
        if self._needing and self.fault.is_probing:  # whether the fault is over shows when that is there
            return None
        if running >= _IN_A_CROWD and self.crowd.is_full:
            self.crowd.refuse(self)
            return None
        first = self._queue.first(is_urgent_only=running >= _MAX_RUNNING_NOT_URGENT)
        if first is None:
            return None
        work, rank = first
        for ahead, tokens in self._ahead:
            if rank >= tokens.first_rank and preparing + len(tokens) >= ahead:
                return None
        return work

    def _start(self, work: Work) -> None:
        self._running[work.key] = work
        self.crowd.started += 1
        self._under_way += 1

    def _stop(self, work: Work) -> Work | None:
        """End the run of a command; return what was asked for meanwhile."""
        del self._running[work.key]
        self.crowd.started -= 1
        self.park(work)
        return self._dirty.pop(work.key, None)
