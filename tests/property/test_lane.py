"""The lane against a model that does the same in the most obvious way: plain lists, searched from end to end."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.domain.command import EnsureCommand, Priority, Trigger
from service.domain.lane import PATIENCE_S, Lane, Work
from service.domain.pacing import Pacer
from tests.support.fakes import LANE, Deliveries, ensure

NAMES = st.sampled_from("abcdef")
COMMANDS = st.builds(
    ensure, NAMES, st.sampled_from([Trigger.CREATED, Trigger.REQUEST, Trigger.SWEEP]), deferrals=st.integers(0, 1)
)


@dataclass
class Asked:
    """All that was asked of one group at once: which deliveries, how urgently, since when, and its place in its queue."""

    offsets: list[int]
    priority: Priority
    since: float
    place: int = 0


@dataclass
class Model:
    max_running: int
    waiting: dict[str, Asked] = field(default_factory=dict)
    running: dict[str, Asked] = field(default_factory=dict)
    dirty: dict[str, Asked] = field(default_factory=dict)
    paused: list[tuple[float, int, str]] = field(default_factory=list)
    held_until: float = 0.0
    hold_s: float = 0.0
    places: int = 0

    def add(self, command: EnsureCommand, offset: int, now: float) -> None:
        name = command.log_group.name
        queue = self.dirty if name in self.running else self.waiting
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

    def expected(self, now: float, due: float) -> str | None:
        if now < due or now < self.held_until:
            return None
        if self.paused and min(self.paused)[0] <= now:
            return min(self.paused)[2]
        if not self.waiting or len(self.running) >= self.max_running:
            return None
        firsts = [
            min((name for name, a in self.waiting.items() if a.priority is p), key=lambda n: self.waiting[n].place)
            for p in {a.priority for a in self.waiting.values()}
        ]
        ages = {name: self.waiting[name].since + PATIENCE_S[self.waiting[name].priority] for name in firsts}
        return min(firsts, key=lambda name: (ages[name], self.waiting[name].priority))

    def start(self, name: str) -> None:
        if name in self.running:
            self.paused.remove(min(self.paused))
        else:
            self.running[name] = self.waiting.pop(name)

    def finish(self, name: str, now: float) -> None:
        del self.running[name]
        if name in self.dirty:
            again = self.dirty.pop(name)
            again.since, again.place = now, self.next_place()
            self.waiting[name] = again

    def put_back(self, name: str) -> None:
        asked = self.running.pop(name)
        if name in self.dirty:
            again = self.dirty.pop(name)
            asked.offsets += again.offsets
            asked.priority = min(asked.priority, again.priority)
        asked.place = self.next_place()
        self.waiting[name] = asked

    def everything(self) -> list[int]:
        return [
            o for part in (self.waiting, self.running, self.dirty) for asked in part.values() for o in asked.offsets
        ]


class LaneAgainstModel(RuleBasedStateMachine):
    @initialize(max_running=st.integers(1, 3))
    def begin(self, max_running: int) -> None:
        self.now = 1000.0
        self.lane = Lane(LANE, pacer=Pacer(ceiling_per_s=5.0, now=self.now), max_running=max_running)
        self.model = Model(max_running)
        self.deliveries = Deliveries()
        self.dropped: set[int] = set()
        self.calling: dict[str, Work] = {}
        self.waits: dict[str, Work] = {}

    @rule(command=COMMANDS)
    def add(self, command: EnsureCommand) -> None:
        delivery = self.deliveries.next()
        self.lane.add(command, delivery, self.now)
        self.model.add(command, delivery.offset, self.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 1.0, 40.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.lane.ready_at() is not None)
    @rule()
    def wait_until_ready(self) -> None:
        self.now = max(self.now, self.lane.ready_at() or 0.0)
        self.next()

    @rule()
    def next(self) -> None:
        expected = self.model.expected(self.now, self.lane.pacer.due)
        ready_at = self.lane.ready_at()
        work = self.lane.next(self.now)
        assert (work is not None) == (ready_at is not None and ready_at <= self.now)
        assert (work and work.log_group.name) == expected
        if work is None or expected is None:
            return
        assert expected not in self.calling, "two calls for one group at once"
        assert self.waits.pop(expected, work) is work
        self.calling[expected] = work
        self.model.start(expected)
        asked = self.model.running[expected]
        assert sorted(d.offset for d in work.deliveries) == sorted(asked.offsets)
        assert work.command.priority is asked.priority

    @precondition(lambda self: self.calling)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.1, 5.0]))
    def pause(self, data: st.DataObject, seconds: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.calling)))
        work = self.waits[name] = self.calling.pop(name)
        self.lane.pause(work, self.now + seconds)
        self.model.paused.append((self.now + seconds, self.model.next_place(), name))

    @precondition(lambda self: self.calling)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.calling)))
        work = self.calling.pop(name)
        for delivery in work.deliveries:
            delivery.finish()
        self.lane.finish(work, self.now)
        self.model.finish(name, self.now)

    @precondition(lambda self: self.calling)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.calling)))
        self.lane.put_back(self.calling.pop(name), self.now)
        self.model.put_back(name)

    @rule()
    def hold(self) -> None:
        is_new = self.lane.hold(self.now, "unreachable", first_s=5.0, longest_s=60.0)
        assert is_new == (self.now >= self.model.held_until)
        if is_new:
            self.model.hold_s = min(60.0, 2 * self.model.hold_s if self.model.hold_s else 5.0)
            self.model.held_until = self.now + self.model.hold_s

    @rule()
    def release(self) -> None:
        self.lane.release()
        self.model.held_until = self.model.hold_s = 0.0

    @rule()
    def throttled(self) -> None:
        self.lane.pacer.throttled(self.now)

    @precondition(lambda self: self.waits)
    @rule()
    def give_up(self) -> None:
        """What a drain does: forget what waits, and take back what waits to call again."""
        for work in self.lane.drop_waiting():
            self.dropped.update(d.offset for d in work.deliveries)
        self.model.waiting.clear()
        self.model.dirty.clear()
        given_up = self.lane.unpause()
        assert {work.log_group.name for work in given_up} == self.waits.keys()
        self.model.paused.clear()
        for work in given_up:
            self.lane.finish(work, self.now)
            self.model.finish(work.log_group.name, self.now)
            self.dropped.update(d.offset for d in work.deliveries)
        self.waits.clear()

    @invariant()
    def what_there_is_to_see_is_what_there_is(self) -> None:
        if not hasattr(self, "model"):
            return
        model, lane = self.model, self.lane
        asked = [*model.waiting.values(), *model.dirty.values()]
        assert lane.waiting() == {p: sum(a.priority is p for a in asked) for p in Priority}
        assert lane.oldest_since() == min((a.since for a in asked), default=None)
        assert lane.running == len(model.running) <= model.max_running
        assert lane.is_idle == (not model.waiting and not model.running)

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
        while True:
            for name in list(self.calling):
                work = self.calling.pop(name)
                for delivery in work.deliveries:
                    delivery.finish()
                self.lane.finish(work, self.now)
                self.model.finish(name, self.now)
            if self.lane.ready_at() is None:
                break
            self.wait_until_ready()
        assert self.lane.is_idle
        assert self.deliveries.open == self.dropped
        assert not self.deliveries.finished_twice


LaneAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestLaneAgainstModel = LaneAgainstModel.TestCase
