"""The lane against a model that does the same in the most obvious way: plain lists, searched from end to end."""

from dataclasses import dataclass, field
from enum import Enum
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.domain import lane as lanes
from service.domain.command import EnsureCommand, Priority, Trigger
from service.domain.pacing import Quota
from service.domain.queue import MAX_DEBT_S, PATIENCE_S, SPACING
from service.domain.work import Work
from tests.support.fakes import Deliveries, ensure, new_lane

NAMES = st.sampled_from("abcdefgh")
COMMANDS = st.builds(
    ensure, NAMES, st.sampled_from([Trigger.CREATED, Trigger.REQUEST, Trigger.SWEEP]), deferrals=st.integers(0, 1)
)
QUOTAS = st.sampled_from(Quota)
AHEAD = {Quota.ASSOCIATE: 5, Quota.TAGS: 2, Quota.DESCRIBE: 2}
MAX_RUNNING, MAX_RUNNING_NOT_URGENT = 6, 5  # fewer than in earnest: to be reached


class Doing(Enum):
    PREPARING = "has not waited for anything yet"
    NEEDING = "waits for what its call needs"
    GOING_ON = "has waited"
    PARKED = "waits for what is no token"
    WAITING = "waits for a token"


@dataclass
class Asked:
    """All that was asked of one group at once: which deliveries, how urgently, since when, and its place in its queue."""

    offsets: list[int]
    priority: Priority
    since: float
    place: int = 0
    doing: Doing = Doing.PREPARING
    quota: Quota | None = None
    inherited: Priority = Priority.SWEEP  # from those who wait for its end

    started_rank: float = 0.0

    @property
    def rank(self) -> float:
        """Of one that runs."""
        if self.inherited < self.priority:
            return min(self.started_rank, self.since + PATIENCE_S[self.inherited])
        return self.started_rank


@dataclass
class Model:
    max_under_way: int
    waiting: dict[str, Asked] = field(default_factory=dict)
    running: dict[str, Asked] = field(default_factory=dict)
    dirty: dict[str, Asked] = field(default_factory=dict)
    held_until: float = 0.0
    hold_s: float = 0.0
    held_since: float = 0.0
    places: int = 0
    is_cold: bool = True
    earliest: dict[Priority, float] = field(default_factory=lambda: dict.fromkeys(Priority, 0.0))

    def rank(self, name: str) -> float:
        """Of one that waits to be started."""
        asked = self.waiting[name]
        return max(asked.since + PATIENCE_S[asked.priority], self.earliest[asked.priority])

    def add(self, command: EnsureCommand, offset: int, now: float) -> None:
        name = command.log_group.name
        queue = self.waiting
        if name in self.running:
            queue = self.dirty
            self.running[name].inherited = min(self.running[name].inherited, command.priority)
        asked = queue.get(name)
        if asked is None:
            queue[name] = Asked([offset], command.priority, now, self.next_place())
        else:
            asked.offsets.append(offset)
            if command.priority < asked.priority:
                asked.priority, asked.place = command.priority, self.next_place()

    def next_place(self) -> int:
        self.places += 1
        return self.places

    def doing(self, *doings: Doing) -> list[str]:
        return [name for name, asked in self.running.items() if asked.doing in doings]

    def waits(self, quota: Quota) -> list[str]:
        """Who waits for a token of this quota, the first first."""
        names = [name for name in self.doing(Doing.WAITING) if self.running[name].quota is quota]
        return sorted(names, key=lambda name: (self.running[name].rank, self.running[name].place))

    @property
    def under_way(self) -> int:
        return len(self.doing(Doing.PREPARING, Doing.GOING_ON))

    def expected(self, now: float, due: dict[Quota, float]) -> str | None:
        room = 1 if self.hold_s else self.max_under_way
        if now < self.held_until or self.under_way >= room:
            return None
        for quota in Quota:
            if due[quota] <= now and (waits := self.waits(quota)):
                return waits[0]
        return self.startable()

    def startable(self) -> str | None:
        preparing = len(self.doing(Doing.PREPARING))
        if preparing >= AHEAD[Quota.ASSOCIATE]:
            return None
        if self.is_cold and len(self.running) >= AHEAD[Quota.ASSOCIATE]:
            return None
        if self.hold_s and self.doing(Doing.NEEDING):
            return None
        firsts = [
            min((name for name, a in self.waiting.items() if a.priority is p), key=lambda n: self.waiting[n].place)
            for p in {a.priority for a in self.waiting.values()}
            if len(self.running) < (MAX_RUNNING if p is Priority.URGENT else MAX_RUNNING_NOT_URGENT)
        ]
        first = min(firsts, key=lambda name: (self.rank(name), self.waiting[name].priority), default=None)
        if first is None:
            return None
        for quota in Quota:
            more_urgent = [name for name in self.waits(quota) if self.running[name].rank <= self.rank(first)]
            if preparing + len(self.waits(quota)) >= AHEAD[quota] and more_urgent:
                return None
        return first

    def next(self, name: str, now: float) -> None:
        if name in self.running:
            self.running[name].doing = Doing.GOING_ON
        else:
            rank = self.rank(name)
            asked = self.running[name] = self.waiting.pop(name)
            urgent = [(a.place, a.since) for a in self.waiting.values() if a.priority is Priority.URGENT]
            present = min(urgent)[1] if urgent else now
            asked.started_rank = rank
            if SPACING[asked.priority]:
                self.earliest[asked.priority] = min(max(rank + SPACING[asked.priority] / 5, present), now + MAX_DEBT_S)
            asked.doing, asked.inherited = Doing.PREPARING, Priority.SWEEP

    def wait(self, name: str, quota: Quota) -> None:
        asked = self.running[name]
        asked.doing, asked.quota, asked.place = Doing.WAITING, quota, self.next_place()
        self.is_cold = False

    def finish(self, name: str, now: float) -> None:
        del self.running[name]
        self.is_cold &= self.hold_s > 0
        if name in self.dirty:
            again = self.dirty.pop(name)
            again.since, again.place = now, self.next_place()
            self.waiting[name] = again

    def put_back(self, name: str, *, is_first: bool) -> None:
        asked = self.running.pop(name)
        if is_first and asked.inherited >= asked.priority:
            self.earliest[asked.priority] = min(self.earliest[asked.priority], asked.started_rank)
        asked.inherited = Priority.SWEEP
        if name in self.dirty:
            again = self.dirty.pop(name)
            asked.offsets += again.offsets
            asked.priority = min(asked.priority, again.priority)
        asked.place = -self.next_place() if is_first else self.next_place()
        self.waiting[name] = asked

    def everything(self) -> list[int]:
        return [
            o for part in (self.waiting, self.running, self.dirty) for asked in part.values() for o in asked.offsets
        ]


class LaneAgainstModel(RuleBasedStateMachine):
    @initialize(max_under_way=st.sampled_from([1, 2, 3, 16]))
    def begin(self, max_under_way: int) -> None:
        self.limits = mock.patch.multiple(
            lanes, _MAX_RUNNING=MAX_RUNNING, _MAX_RUNNING_NOT_URGENT=MAX_RUNNING_NOT_URGENT
        )
        self.limits.start()
        self.now = 1000.0
        self.lane = new_lane(owned_since=self.now, max_under_way=max_under_way)
        self.model = Model(max_under_way)
        self.deliveries = Deliveries()
        self.dropped: set[int] = set()
        self.works: dict[str, Work] = {}  # those that run

    def _pick(self, data: st.DataObject, *doings: Doing) -> str:
        return data.draw(st.sampled_from(sorted(self.model.doing(*doings))))

    def _has(self, *doings: Doing) -> bool:
        return bool(self.model.doing(*doings))

    @rule(command=COMMANDS)
    def add(self, command: EnsureCommand) -> None:
        delivery = self.deliveries.next()
        self.lane.add(command, delivery, self.now)
        self.model.add(command, delivery.offset, self.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 1.0, 40.0, 400.0]))
    def let_pass(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.lane.ready_at() is not None)
    @rule()
    def wait_until_ready(self) -> None:
        self.now = max(self.now, self.lane.ready_at() or 0.0)
        assert self._next() is not None

    @rule()
    def next(self) -> None:
        self._next()

    @rule()
    def start_many(self) -> None:
        while self._next() is not None:
            pass

    def _next(self) -> Work | None:
        due = {quota: tokens.pacer.due for quota, tokens in self.lane._tokens.items()}
        expected = self.model.expected(self.now, due)
        ready_at = self.lane.ready_at()
        work = self.lane.next(self.now)
        assert (work is not None) == (ready_at is not None and ready_at <= self.now)
        assert (work and work.key) == expected
        if work is not None and expected is not None:
            assert self.works.setdefault(expected, work) is work, "two calls for one group at once"
            self.model.next(expected, self.now)
            asked = self.model.running[expected]
            assert sorted(d.offset for d in work.deliveries) == sorted(asked.offsets)
            assert work.command.priority is asked.priority
        return work

    @precondition(lambda self: self._has(Doing.PREPARING, Doing.GOING_ON))
    @rule(data=st.data(), quota=QUOTAS)
    def wait(self, data: st.DataObject, quota: Quota) -> None:
        name = self._pick(data, Doing.PREPARING, Doing.GOING_ON)
        self.lane.wait(self.works[name], quota)
        self.model.wait(name, quota)

    @precondition(lambda self: self._has(Doing.WAITING))
    @rule(data=st.data())
    def stop_waiting(self, data: st.DataObject) -> None:
        name = self._pick(data, Doing.WAITING)
        self.lane.stop_waiting(self.works[name])
        self.model.running[name].doing = Doing.GOING_ON

    @precondition(lambda self: self._has(Doing.PREPARING, Doing.GOING_ON))
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        name = self._pick(data, Doing.PREPARING, Doing.GOING_ON)
        self.lane.park(self.works[name])
        self.model.running[name].doing = Doing.PARKED

    @precondition(lambda self: self._has(Doing.PARKED))
    @rule(data=st.data())
    def unpark(self, data: st.DataObject) -> None:
        self.lane.unpark()
        self.model.running[self._pick(data, Doing.PARKED)].doing = Doing.GOING_ON

    @precondition(lambda self: self._has(Doing.PREPARING, Doing.GOING_ON))
    @rule(data=st.data())
    def need(self, data: st.DataObject) -> None:
        name = self._pick(data, Doing.PREPARING, Doing.GOING_ON)
        self.lane.need()
        self.lane.park(self.works[name])
        self.model.running[name].doing = Doing.NEEDING

    @precondition(lambda self: self._has(Doing.NEEDING))
    @rule(data=st.data(), is_there=st.booleans())
    def have(self, data: st.DataObject, *, is_there: bool) -> None:
        name = self._pick(data, Doing.NEEDING)
        self.lane.had()
        if is_there:
            self.lane.has_session()
        self.lane.unpark()
        self.model.is_cold &= not is_there
        self.model.running[name].doing = Doing.GOING_ON

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), priority=st.sampled_from(Priority))
    def promote(self, data: st.DataObject, priority: Priority) -> None:
        name = self._pick(data, *Doing)
        self.lane.promote(self.works[name], priority)
        asked = self.model.running[name]
        asked.inherited = min(asked.inherited, priority)

    @precondition(lambda self: self._has(Doing.PREPARING, Doing.GOING_ON))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self._finish(self._pick(data, Doing.PREPARING, Doing.GOING_ON))

    @precondition(lambda self: self._has(Doing.PREPARING, Doing.GOING_ON))
    @rule(data=st.data(), is_first=st.booleans())
    def put_back(self, data: st.DataObject, is_first: bool) -> None:
        name = self._pick(data, Doing.PREPARING, Doing.GOING_ON)
        self.lane.put_back(self.works.pop(name), is_first=is_first)
        self.model.put_back(name, is_first=is_first)

    @rule()
    def hold(self) -> None:
        is_new = self.lane.fault.hold(self.now, "unreachable", first_s=5.0, longest_s=60.0)
        assert is_new == (self.now >= self.model.held_until)
        if is_new:
            if self.now - self.model.held_until > 120:
                self.model.hold_s = 0.0
            self.model.held_since = self.model.held_since if self.model.hold_s else self.now
            self.model.hold_s = min(60.0, 2 * self.model.hold_s if self.model.hold_s else 5.0)
            self.model.held_until = self.now + self.model.hold_s

    @rule()
    def release(self) -> None:
        self.lane.fault.release()
        self.model.held_until = self.model.hold_s = 0.0

    @rule(after_s=st.sampled_from([1.0, 40.0, 400.0]))
    def take_overdue(self, after_s: float) -> None:
        model = self.model
        is_due = model.hold_s > 0 and self.now - model.held_since >= after_s
        ages = {name: self.now - asked.since for name, asked in model.waiting.items()}
        expected = {name for name, age_s in ages.items() if is_due and age_s >= after_s}
        taken = self.lane.take_overdue(self.now, after_s=after_s)
        assert {work.key for work in taken} == expected
        for work in taken:
            name = work.key
            asked = model.running[name] = model.waiting.pop(name)
            asked.doing, asked.inherited = Doing.GOING_ON, Priority.SWEEP
            asked.started_rank = work.rank  # of no meaning: it is postponed, and waits for no token
            self.works[name] = work
            assert sorted(d.offset for d in work.deliveries) == sorted(asked.offsets)

    @rule(quota=QUOTAS)
    def throttled(self, quota: Quota) -> None:
        self.lane.throttled(quota, self.now)

    @rule()
    def drop(self) -> None:
        """What a drain does: forget what waits, and give up who waits for tokens."""
        for work in self.lane.drop_waiting():
            self.dropped.update(d.offset for d in work.deliveries)
        self.model.waiting.clear()
        self.model.dirty.clear()
        given_up = self.lane.give_up_waits()
        assert {work.key for work in given_up} == set(self.model.doing(Doing.WAITING))
        for work in given_up:
            self.model.running[work.key].doing = Doing.GOING_ON
            self.dropped.update(d.offset for d in work.deliveries)
            self._finish(work.key, is_done=False)

    def _finish(self, name: str, *, is_done: bool = True) -> None:
        work = self.works.pop(name)
        if is_done:
            for delivery in work.deliveries:
                delivery.finish()
        self.lane.finish(work, self.now)
        self.model.finish(name, self.now)

    @invariant()
    def what_there_is_to_see_is_what_there_is(self) -> None:
        if not hasattr(self, "model"):
            return
        model, lane = self.model, self.lane
        asked = [*model.waiting.values(), *model.dirty.values()]
        assert lane.waiting() == {p: sum(a.priority is p for a in asked) for p in Priority}
        assert lane.oldest_since() == min((a.since for a in asked), default=None)
        assert lane.running == len(model.running)
        assert lane.under_way == model.under_way
        assert lane.is_idle == (not model.waiting and not model.running)
        assert {quota: len(tokens) for quota, tokens in lane._tokens.items()} == {q: len(model.waits(q)) for q in Quota}
        assert len(lane._preparing) == len(model.doing(Doing.PREPARING))

    @invariant()
    def every_delivery_is_in_one_place(self) -> None:
        if not hasattr(self, "model"):
            return
        held = self.model.everything()
        assert len(held) == len(set(held))
        assert set(held) == self.deliveries.open - self.dropped
        assert not self.deliveries.finished_twice

    def teardown(self) -> None:
        """All that is left is worked: nothing is stuck, and every delivery is finished."""
        if not hasattr(self, "model"):
            return
        try:
            for name in self.model.doing(Doing.PARKED, Doing.NEEDING):
                if self.model.running[name].doing is Doing.NEEDING:
                    self.lane.had()
                self.lane.unpark()
                self.model.running[name].doing = Doing.GOING_ON
            while True:
                for name in self.model.doing(Doing.PREPARING, Doing.GOING_ON):
                    self._finish(name)
                if self.lane.ready_at() is None:
                    break
                self.wait_until_ready()
            assert self.lane.is_idle
            assert self.deliveries.open == self.dropped
            assert not self.deliveries.finished_twice
        finally:
            self.limits.stop()


LaneAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestLaneAgainstModel = LaneAgainstModel.TestCase
