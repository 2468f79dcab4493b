"""What is known of sweeps: who asked for which lanes, and how far each has come.

Records arrive in any order and more than once: what the book says depends only on which records it has seen.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, Final

from service.domain.log_group import Lane
from service.domain.request import RequestState
from service.domain.sweep import LaneReport, SweepAsked, SweepRecord
from service.domain.timestamp import timestamp

_MAX_SHOWN: Final = 100  # lanes that are named in one status


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """A sweep as it stands: the last report of each of its lanes that has sent one."""

    asked: SweepAsked
    reports: Mapping[Lane, LaneReport]

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def is_done(self) -> bool:
        """Whether every lane is: each log group was looked at, and each that was not under its tenant's key was worked."""
        return not self.pending

    @property
    def pending(self) -> Sequence[Lane]:
        """The lanes whose owners have not said that they are done."""
        return [lane for lane in self.asked.lanes if not (lane in self.reports and self.reports[lane].is_done)]

    @property
    def failed(self) -> Sequence[LaneReport]:
        """The reports of lanes that were given up."""
        return [report for report in self.reports.values() if report.failure is not None]

    @property
    def counts(self) -> Mapping[str, int]:
        """Log groups of all lanes by what became of them."""
        return _sum(report.counts for report in self.reports.values())

    @property
    def old_keys(self) -> Mapping[str, int]:
        """Log groups by the other key that they were under."""
        return _sum(report.old_keys for report in self.reports.values())

    def as_dict(self) -> dict[str, Any]:
        """The status as the REST API and the command line show it; of lanes that are pending or failed, the first hundred."""
        pending, failed = self.pending, self.failed
        return {
            "id": self.id,
            "state": (RequestState.PENDING if pending else RequestState.DONE).value,
            "caller": self.asked.caller,
            "asked_at": timestamp(self.asked.asked_at_ms),
            "tenant": self.asked.tenant,
            "counts": dict(self.counts),
            "old_keys": dict(self.old_keys),
            "lanes": {"total": len(self.asked.lanes), "pending": len(pending), "failed": len(failed)},
            "pending_lanes": [str(lane) for lane in pending[:_MAX_SHOWN]],
            "failed_lanes": [
                {"lane": str(report.lane), "class": report.failure[0], "detail": report.failure[1]}
                for report in failed[:_MAX_SHOWN]
                if report.failure is not None
            ],
        }


class SweepBook:
    """What is known of recent sweeps. Holds `capacity` lanes and reports in all; past that the first known sweep is forgotten."""

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._pages: dict[str, _Page] = {}  # in the order in which they were first heard of

    def apply(self, record: SweepRecord) -> None:
        """Take a record in; a repeat changes nothing, and neither does the order in which records come."""
        page = self._pages.setdefault(record.id, _Page())
        self._held -= page.size
        page.apply(record)
        self._held += page.size
        while self._held > self._capacity and len(self._pages) > 1:
            self._held -= self._pages.pop(next(iter(self._pages))).size

    def find(self, sweep_id: str) -> SweepStatus | None:
        """The sweep as it stands; None when it has not been seen that it was asked for, or it is forgotten."""
        page = self._pages.get(sweep_id)
        return None if page is None or page.asked is None else SweepStatus(page.asked, dict(page.reports))

    def newest(self, limit: int) -> Sequence[SweepStatus]:
        """At most `limit` sweeps as they stand, the last asked for first."""
        pages = [(page.asked.asked_at_ms, id_) for id_, page in self._pages.items() if page.asked is not None]
        return [status for _, id_ in nlargest(limit, pages) if (status := self.find(id_)) is not None]

    def is_done(self, sweep_id: str) -> bool:
        """Whether `find` would give a sweep that is done; cheap enough to ask after every record."""
        page = self._pages.get(sweep_id)
        return page is not None and page.asked is not None and page.done.issuperset(page.asked.lanes)

    def latest(self, caller: str) -> SweepAsked | None:
        """The sweep that was last asked for in this name."""
        asked = [page.asked for page in self._pages.values() if page.asked is not None and page.asked.caller == caller]
        return max(asked, key=lambda each: (each.asked_at_ms, each.id), default=None)


class _Page:
    """The records of one sweep. A lane may have reported before it is known who asked."""

    __slots__ = ("asked", "done", "reports")

    def __init__(self) -> None:
        self.asked: SweepAsked | None = None
        self.reports: dict[Lane, LaneReport] = {}
        self.done: set[Lane] = set()

    @property
    def size(self) -> int:
        return len(self.reports) + (0 if self.asked is None else len(self.asked.lanes))

    def apply(self, record: SweepRecord) -> None:
        if isinstance(record, SweepAsked):
            # Two differ when two replicas asked on one occasion: whoever did so first stands.
            if self.asked is None or (record.asked_at_ms, record.lanes) < (self.asked.asked_at_ms, self.asked.lanes):
                self.asked = record
            return
        held = self.reports.get(record.lane)
        # After a crash a lane begins again, and is done all the same if it once was.
        if held is None or (record.is_done, record.at_ms) > (held.is_done, held.at_ms):
            self.reports[record.lane] = record
        if record.is_done:
            self.done.add(record.lane)


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return total
