"""Who waits for a token of one quota: the most urgent goes first. Pure: times are monotonic seconds."""

import heapq
from typing import Final, Generic, TypeVar

from service.domain.pacing import Pacer

_T = TypeVar("_T")

_NOBODY: Final = float("inf")


class TokenQueue(Generic[_T]):
    """The calls that wait for one pacer, each with a rank: lower is sooner, and among equals who came first."""

    __slots__ = ("_serial", "_waiting", "pacer")

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self._waiting: list[tuple[float, int, _T]] = []  # rank, order of coming, who
        self._serial = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first_rank(self) -> float:
        """The rank of the most urgent; infinite if nobody waits."""
        return self._waiting[0][0] if self._waiting else _NOBODY

    def add(self, who: _T, *, rank: float) -> None:
        self._serial += 1
        heapq.heappush(self._waiting, (rank, self._serial, who))

    def promote(self, who: _T, *, rank: float) -> None:
        """Give somebody another rank, if they wait here. Looks at everybody."""
        for place, (_, serial, waiting) in enumerate(self._waiting):
            if waiting is who:
                self._waiting[place] = (rank, serial, who)
                heapq.heapify(self._waiting)

    def remove(self, who: _T) -> None:
        """Forget somebody, if they wait here. Looks at everybody."""
        self._waiting = [entry for entry in self._waiting if entry[2] is not who]
        heapq.heapify(self._waiting)

    def ready_at(self) -> float | None:
        """The earliest time at which `take` has somebody; None if nobody waits."""
        return self.pacer.due if self._waiting else None

    def take(self, now: float) -> _T | None:
        """Spend a token on the most urgent; None, and nothing changed, before `ready_at`."""
        if not self._waiting or now < self.pacer.due:
            return None
        self.pacer.take(now)
        return heapq.heappop(self._waiting)[2]

    def clear(self) -> list[_T]:
        """Forget everybody, and return them in the order of their coming."""
        everybody = sorted((serial, who) for _, serial, who in self._waiting)  # no two serials are the same
        self._waiting.clear()
        return [who for _, who in everybody]
