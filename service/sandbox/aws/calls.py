"""The sandbox's call log, and the questions that tests ask of it: how fast, how many throttled, did any two overlap? Pure."""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final

OK: Final = "ok"
CONNECTION_RESET: Final = "connection reset"
_THROTTLES: Final = frozenset({"ThrottlingException", "Throttling"})


@dataclass(frozen=True, slots=True)
class Call:
    """One call to Logs, KMS, STS, IAM or DynamoDB: when, by whom, on what, and how it ended.

    Times are `time.monotonic()` seconds, which on Linux every process of the machine shares: from the whole request having
    arrived until just before the answer is written. `account` is the one acted in, and `caller` an ARN that ends with the name of the
    role's session; both are "" where the caller was not known. `result` is "ok", AWS's error code, or "connection reset".
    """

    started_s: float
    ended_s: float
    account: str
    caller: str
    region: str
    service: str
    operation: str
    log_group: str | None
    key: str | None
    role: str | None
    result: str

    @property
    def is_ok(self) -> bool:
        return self.result == OK

    @property
    def is_throttled(self) -> bool:
        return self.result in _THROTTLES


# A call as the list of its fields' values; dataclasses.astuple, which copies every value, takes ten times as long.
as_row: Final = attrgetter(*(field.name for field in fields(Call)))


def overlaps(calls: Iterable[Call]) -> list[tuple[Call, Call]]:
    """Pairs of AssociateKmsKey calls that ran at once for one log group: each call with the next one to start."""
    by_group = defaultdict[tuple[str, str, str | None], list[Call]](list)
    for call in calls:
        if call.operation == "AssociateKmsKey":
            by_group[call.account, call.region, call.log_group].append(call)
    pairs = []
    for group in by_group.values():
        group.sort(key=lambda call: call.started_s)
        longest = group[0]
        for call in group[1:]:
            if call.started_s < longest.ended_s:
                pairs.append((longest, call))
            longest = max(longest, call, key=lambda c: c.ended_s)
    return pairs


def most_in_any(window_s: float, calls: Iterable[Call]) -> int:
    """The largest number of calls that started within any half-open window of `window_s` seconds."""
    most, window = 0, deque[float]()
    for started_s in sorted(call.started_s for call in calls):
        window.append(started_s)
        while window[0] <= started_s - window_s:
            window.popleft()
        most = max(most, len(window))
    return most


def throttled_share(calls: Iterable[Call]) -> float:
    """The share of the calls, 0 to 1, that AWS refused for their rate; 0 of no calls at all."""
    throttled = [call.is_throttled for call in calls]
    return sum(throttled) / len(throttled) if throttled else 0.0
