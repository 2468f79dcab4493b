"""What operators see: lanes and partitions as they stand at one moment. Snapshots, so that whoever shows them changes nothing.

Ages and times to go are in seconds, seen from that moment.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from service.domain.command import Priority
from service.domain.log_group import Lane


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a lane waits: the label of a failure class, and AWS's own words. It tries again in `for_s` seconds; at 0 it does, and has not
    succeeded yet.
    """

    reason: str
    for_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Calls of a lane fail and are made again, and none has come to anything `since` (monotonic seconds). It may yet be held for it."""

    reason: str
    detail: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatus:
    """One lane. `waiting` counts log groups; `in_flight` those that have started, which includes the ones that wait to call again.

    `rate_per_s` is what the lane allows itself now of AssociateKmsKey, `ceiling_per_s` the most it may. AWS last refused a call for its
    rate `throttled_ago_s` seconds ago, of the `throttled_operation`. `oldest_waiting_s` counts from when this replica read the command.
    """

    lane: Lane
    waiting: Mapping[Priority, int]
    in_flight: int
    rate_per_s: float
    ceiling_per_s: float
    throttled_ago_s: float | None = None
    throttled_operation: str | None = None
    oldest_waiting_s: float | None = None
    hold: Hold | None = None
    trouble: Trouble | None = None
    is_paused: bool = False

    @property
    def total_waiting(self) -> int:
        return sum(self.waiting.values())

    @property
    def has_work(self) -> bool:
        return self.in_flight > 0 or self.total_waiting > 0

    @property
    def estimated_end_s(self) -> float | None:
        """When the last of what waits will have started, at the rate of now; 0 if nothing waits, None while nobody can know: the
        service is paused or cannot write outcomes, no call comes to anything, or the lane is held until somebody mends something.

        Look-ups that go before some calls have quotas of their own, and may take longer.
        """
        if not self.total_waiting:
            return 0.0
        if self.is_paused or self.hold is not None or self.trouble is not None:
            return None
        return self.total_waiting / self.rate_per_s


@dataclass(frozen=True, slots=True)
class LanesStatus:
    """All lanes of one replica: those that are held first, as somebody has to look at them, however little waits; then the fullest."""

    lanes: Sequence[LaneStatus] = ()

    @classmethod
    def of(cls, lanes: Iterable[LaneStatus]) -> "LanesStatus":
        def place(status: LaneStatus) -> tuple[bool, int, int, Lane]:
            return status.hold is None, -status.total_waiting, -status.in_flight, status.lane

        return cls(sorted(lanes, key=place))

    @property
    def waiting(self) -> Mapping[Priority, int]:
        """Log groups that wait, by priority; every priority is there."""
        return {priority: sum(lane.waiting[priority] for lane in self.lanes) for priority in Priority}

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.lanes)

    @property
    def held(self) -> Mapping[str, int]:
        """How many lanes wait, by reason; only reasons that there are."""
        return Counter(lane.hold.reason for lane in self.lanes if lane.hold)

    @property
    def in_trouble(self) -> Mapping[str, int]:
        """In how many lanes no call comes to anything, by reason; only reasons that there are, and no lanes that are held for it."""
        return Counter(lane.trouble.reason for lane in self.lanes if lane.trouble)

    @property
    def oldest_waiting_s(self) -> float | None:
        return max((lane.oldest_waiting_s for lane in self.lanes if lane.oldest_waiting_s is not None), default=None)

    @property
    def estimated_end_s(self) -> float | None:
        """When the last lane has started everything that waits; None if that is not known of one."""
        end_s = 0.0
        for lane in self.lanes:
            if lane.estimated_end_s is None:
                return None
            end_s = max(end_s, lane.estimated_end_s)
        return end_s

    def paused(self) -> "LanesStatus":
        """The same lanes, while the service is paused."""
        return LanesStatus([replace(lane, is_paused=True) for lane in self.lanes])


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Where one assigned partition stands; `lag` counts records from the commit position to the end of the partition.

    `unmoved_s` is for how long that position has stood still with records after it. A partition that is held back is not fetched, since
    there is as much in hand as may be.
    """

    topic: str
    partition: int
    pending: int
    position: int | None
    committed: int | None
    lag: int | None
    unmoved_s: float = 0.0
    is_held_back: bool = False


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A member of a consumer group. It is joined from an assignment to the next rebalance, also when it was assigned nothing."""

    name: str
    is_joined: bool
    partitions: Sequence[PartitionStatus]


@dataclass(frozen=True, slots=True)
class FailingWrites:
    """A topic that Kafka does not take records for: `since` on the clock (monotonic seconds), and the last error."""

    topic: str
    since: float
    error: str
