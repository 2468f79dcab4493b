"""The schedule against the lanes themselves: whenever any lane may call, the schedule knows, and wakes up no later."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.domain import log_group
from service.domain.command import Trigger
from service.domain.lane import Lane, Work
from service.domain.pacing import Pacer
from service.domain.schedule import Schedule
from tests.support.fakes import Deliveries, busiest_second, ensure, lane_number

LANES = st.integers(0, 3).map(lane_number)
RATE = 5.0


class ScheduleAgainstItsLanes(RuleBasedStateMachine):
    @initialize(max_calling=st.integers(1, 4), max_running=st.integers(1, 3))
    def begin(self, max_calling: int, max_running: int) -> None:
        self.now = 1000.0
        self.max_calling = max_calling
        self.schedule = Schedule(
            new_lane=lambda lane, now: Lane(lane, pacer=Pacer(ceiling_per_s=RATE, now=now), max_running=max_running),
            max_calling=max_calling,
        )
        self.deliveries = Deliveries()
        self.dropped: set[int] = set()
        self.calling: list[Work] = []
        self.paused: list[Work] = []
        self.calls: dict[log_group.Lane, list[float]] = {}

    # -- what the dispatcher does

    @rule(lane=LANES, name=st.sampled_from("abcd"), trigger=st.sampled_from([Trigger.CREATED, Trigger.SWEEP]))
    def add(self, lane: log_group.Lane, name: str, trigger: Trigger) -> None:
        self.schedule.add(ensure(name, trigger, lane=lane), self.deliveries.next(), self.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 1.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wake_up_when_told(self) -> None:
        wake_at = self.schedule.wake_at()
        if wake_at is not None:
            self.now = max(self.now, wake_at)
        self.pump()

    @rule()
    def pump(self) -> None:
        while (work := self.schedule.next(self.now)) is not None:
            assert work not in self.calling
            assert len(self.calling) < self.max_calling
            if work in self.paused:
                self.paused.remove(work)
            self.calling.append(work)
            self.calls.setdefault(work.log_group.lane, []).append(self.now)
        wake_at = self.schedule.wake_at()
        assert wake_at is None or wake_at > self.now, "the timer would fire again and again"
        if self.schedule.calling < self.max_calling:
            ready = [lane.id for lane in self.schedule if (at := lane.ready_at()) is not None and at <= self.now]
            assert not ready, "a lane that may call was passed over"

    @precondition(lambda self: self.calling)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        work = self._pick(data)
        for delivery in work.deliveries:
            delivery.finish()
        self.schedule.lane_of(work).release()
        self.schedule.finish(work, self.now)

    @precondition(lambda self: self.calling)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.3, 5.0]))
    def pause(self, data: st.DataObject, seconds: float) -> None:
        work = self._pick(data)
        self.schedule.pause(work, self.now + seconds, self.now)
        self.paused.append(work)

    @precondition(lambda self: self.calling)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        work = self._pick(data)
        self.schedule.lane_of(work).hold(self.now, "unreachable", first_s=5.0, longest_s=60.0)
        self.schedule.put_back(work, self.now)

    @precondition(lambda self: self.calling)
    @rule(data=st.data())
    def throttle(self, data: st.DataObject) -> None:
        self.schedule.lane_of(data.draw(st.sampled_from(self.calling))).pacer.throttled(self.now)

    @rule()
    def drop(self) -> None:
        waiting = {w for lane in self.schedule for w in lane._waiting.values()}
        dirty = {w for lane in self.schedule for w in lane._dirty.values()}
        given_up = self.schedule.drop(self.now)
        assert set(given_up) == set(self.paused)
        self.dropped.update(d.offset for work in (*waiting, *dirty, *given_up) for d in work.deliveries)
        for work in given_up:
            self.schedule.finish(work, self.now)
        self.paused.clear()

    def _pick(self, data: st.DataObject) -> Work:
        work = data.draw(st.sampled_from(self.calling))
        self.calling.remove(work)
        return work

    # -- what holds whatever it does

    @invariant()
    def nobody_sleeps_while_a_lane_may_call(self) -> None:
        if not hasattr(self, "schedule"):
            return
        assert self.schedule.calling == len(self.calling)
        if self.schedule.calling < self.max_calling:
            ready = [at for lane in self.schedule if (at := lane.ready_at()) is not None]
            wake_at = self.schedule.wake_at()
            assert min(ready, default=math.inf) >= (math.inf if wake_at is None else wake_at)

    @invariant()
    def no_lane_exceeds_its_quota(self) -> None:
        if hasattr(self, "calls"):
            assert all(busiest_second(times) <= RATE + 1 for times in self.calls.values())

    def teardown(self) -> None:
        """With nothing but its own wake-up times it works off what is left, and forgets its lanes."""
        if not hasattr(self, "schedule"):
            return
        while True:
            self.pump()
            for work in self.calling:
                for delivery in work.deliveries:
                    delivery.finish()
                self.schedule.finish(work, self.now)
            self.calling.clear()
            wake_at = self.schedule.wake_at()
            if wake_at is None:
                break
            self.now = max(self.now, wake_at)
        assert len(self.schedule) == 0
        assert self.deliveries.open == self.dropped
        assert not self.deliveries.finished_twice


ScheduleAgainstItsLanes.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestScheduleAgainstItsLanes = ScheduleAgainstItsLanes.TestCase
