"""AWS's request quotas: one token bucket for each account, Region and operation of CloudWatch Logs. Pure; time is an argument."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """`per_second` calls a second on average, of which up to `burst` may come at once."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError("a quota needs a positive rate and room for one call at least")


# AWS's own, but for CreateLogGroup (10 a second): setting a scene with thousands of log groups has to be quick, so that one is
# off until it is asked for.
AWS_QUOTAS: Final[Mapping[str, Quota]] = {
    "AssociateKmsKey": Quota(per_second=5, burst=5),
    "DisassociateKmsKey": Quota(per_second=5, burst=5),
    "DescribeLogGroups": Quota(per_second=10, burst=10),
    "ListTagsForResource": Quota(per_second=5, burst=5),
    "TagResource": Quota(per_second=5, burst=5),
}


@dataclass(slots=True)
class TokenBucket:
    """Starts full. A refused call takes nothing."""

    quota: Quota
    filled_at_s: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.quota.burst

    def take(self, now_s: float) -> bool:
        """Take one token, if there is one; `now_s` must not run backwards."""
        self.tokens = min(self.quota.burst, self.tokens + (now_s - self.filled_at_s) * self.quota.per_second)
        self.filled_at_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Quotas:
    """The quotas in force, and the buckets of every account and Region that has called."""

    def __init__(self) -> None:
        self._quotas = dict(AWS_QUOTAS)
        self._buckets: dict[tuple[str, str, str], TokenBucket] = {}

    def set(self, operation: str, quota: Quota | None) -> None:
        """Change an operation's quota in every account and Region, with full buckets; None lifts it."""
        if quota is None:
            self._quotas.pop(operation, None)
        else:
            self._quotas[operation] = quota
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key[2] != operation}

    def take(self, account: str, region: str, operation: str, now_s: float) -> bool:
        """Whether a call that arrives now is within its quota."""
        quota = self._quotas.get(operation)
        if quota is None:
            return True
        bucket = self._buckets.setdefault((account, region, operation), TokenBucket(quota, now_s))
        return bucket.take(now_s)

    def reset(self) -> None:
        """AWS's own quotas, and full buckets."""
        self._quotas = dict(AWS_QUOTAS)
        self._buckets.clear()
