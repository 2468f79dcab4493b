"""The schedule against the lanes themselves: whenever any lane may go on, the schedule knows, and wakes up no later."""

import math
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.domain import lane, log_group
from service.domain.command import Trigger
from service.domain.log_group import AccountId, Lane, Region
from service.domain.pacing import Quota
from service.domain.schedule import Schedule
from service.domain.work import Work
from tests.support.fakes import Deliveries, busiest_second, ensure, new_lane

LANES = st.builds(
    Lane,
    st.sampled_from(["000000000001", "000000000002"]).map(AccountId),
    st.sampled_from(["eu-west-1", "us-east-1"]).map(Region),
)
RATES = {Quota.ASSOCIATE: 5.0, Quota.TAGS: 5.0, Quota.DESCRIBE: 10.0}


class ScheduleAgainstItsLanes(RuleBasedStateMachine):
    @initialize(max_under_way=st.integers(1, 6), max_lane=st.integers(1, 3))
    def begin(self, max_under_way: int, max_lane: int) -> None:
        self.now = 1000.0
        self.max_under_way = max_under_way
        self.schedule = Schedule(
            new_lane=lambda lane, now: new_lane(lane, now, max_under_way=max_lane), max_under_way=max_under_way
        )
        self.deliveries = Deliveries()
        self.dropped: set[int] = set()
        self.under_way: list[Work] = []
        self.waiting: dict[Work, Quota] = {}
        self.parked: list[Work] = []
        self.calls: dict[tuple[log_group.Lane, Quota], list[float]] = {}

    # -- what the dispatcher does

    @rule(lane=LANES, name=st.sampled_from("abcd"), trigger=st.sampled_from([Trigger.CREATED, Trigger.SWEEP]))
    def add(self, lane: log_group.Lane, name: str, trigger: Trigger) -> None:
        self.schedule.add(ensure(name, trigger, lane=lane), self.deliveries.next(), self.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 1.0, 70.0]))
    def let_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wake_up_when_told(self) -> None:
        wake_at = self.schedule.wake_at()
        if wake_at is not None:
            self.now = max(self.now, wake_at)
        self._pump()

    @rule()
    def pump(self) -> None:
        self._pump()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        work = self._pick(data)
        for delivery in work.deliveries:
            delivery.finish()
        self.schedule.lane_of(work).fault.release()
        self.schedule.finish(work, self.now)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), quota=st.sampled_from(Quota))
    def wait(self, data: st.DataObject, quota: Quota) -> None:
        work = self._pick(data)
        self.schedule.wait(work, quota, self.now)
        self.waiting[work] = quota

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def stop_waiting(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(list(self.waiting)))
        del self.waiting[work]
        self.schedule.stop_waiting(work)
        self.under_way.append(work)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        work = self._pick(data)
        self.schedule.park(work, self.now)
        self.parked.append(work)

    @precondition(lambda self: self.parked)
    @rule()
    def unpark(self) -> None:
        work = self.parked.pop()
        self.schedule.unpark(work)
        self.under_way.append(work)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        work = self._pick(data)
        self.schedule.lane_of(work).fault.hold(self.now, "unreachable", first_s=5.0, longest_s=60.0)
        self.schedule.put_back(work, self.now)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), quota=st.sampled_from(Quota))
    def throttle(self, data: st.DataObject, quota: Quota) -> None:
        self.schedule.throttled(data.draw(st.sampled_from(self.under_way)), quota, self.now)

    @rule()
    def drop(self) -> None:
        waiting = {w for each in self.schedule for w in each._queue}
        dirty = {w for each in self.schedule for w in each._dirty.values()}
        given_up = self.schedule.drop(self.now)
        assert set(given_up) == self.waiting.keys()
        self.dropped.update(d.offset for work in (*waiting, *dirty, *given_up) for d in work.deliveries)
        for work in given_up:
            self.schedule.finish(work, self.now)
        self.waiting.clear()

    def _pump(self) -> None:
        while True:
            before = len(self.under_way)
            places = Counter(work.lane.region for work in self.under_way)
            work = self.schedule.next(self.now)
            if work is None:
                break
            assert work not in self.under_way
            assert before < self.max_under_way
            region = work.lane.region
            if (regions := len({each.id.region for each in self.schedule})) > 1:
                share = max(3 * (self.max_under_way - before), self.max_under_way // regions)
                assert places[region] < share, "more than its share"
            if work in self.waiting:
                self.calls.setdefault((work.lane, self.waiting.pop(work)), []).append(self.now)
            self.under_way.append(work)
        wake_at = self.schedule.wake_at()
        assert wake_at is None or wake_at > self.now, "the timer would fire again and again"
        ready = [each.id for each in self._with_room() if (at := each.ready_at()) is not None and at <= self.now]
        assert not ready, "a lane that may go on was passed over"

    def _with_room(self) -> list[lane.Lane]:
        """The lanes that may have another place."""
        if len(self.under_way) >= self.max_under_way:
            return []
        places = Counter(work.lane.region for work in self.under_way)
        regions = {each.id.region for each in self.schedule}
        free = self.max_under_way - len(self.under_way)
        share = math.inf if len(regions) <= 1 else max(3 * free, self.max_under_way // len(regions))
        return [each for each in self.schedule if places[each.id.region] < share]

    def _pick(self, data: st.DataObject) -> Work:
        work = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(work)
        return work

    # -- what holds whatever it does

    @invariant()
    def nobody_sleeps_while_a_lane_may_go_on(self) -> None:
        if not hasattr(self, "schedule"):
            return
        assert self.schedule.under_way == len(self.under_way) == sum(each.under_way for each in self.schedule)
        ready = [at for each in self._with_room() if (at := each.ready_at()) is not None]
        wake_at = self.schedule.wake_at()
        assert min(ready, default=math.inf) >= (math.inf if wake_at is None else wake_at)

    @invariant()
    def no_lane_exceeds_its_quotas(self) -> None:
        if hasattr(self, "calls"):
            assert all(busiest_second(times) <= RATES[quota] + 1 for (_, quota), times in self.calls.items())

    def teardown(self) -> None:
        """With nothing but its own wake-up times it works off what is left, and forgets its lanes."""
        if not hasattr(self, "schedule"):
            return
        while self.parked:
            self.unpark()
        while True:
            self._pump()
            for work in self.under_way:
                for delivery in work.deliveries:
                    delivery.finish()
                self.schedule.finish(work, self.now)
            self.under_way.clear()
            wake_at = self.schedule.wake_at()
            if wake_at is None:
                break
            self.now = max(self.now, wake_at)
        assert len(self.schedule) == self.schedule.under_way == 0
        assert not self.schedule._placed
        assert not self.schedule._under_way_in, "Regions that are forgotten leave nothing behind"
        assert self.deliveries.open == self.dropped
        assert not self.deliveries.finished_twice


ScheduleAgainstItsLanes.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestScheduleAgainstItsLanes = ScheduleAgainstItsLanes.TestCase
