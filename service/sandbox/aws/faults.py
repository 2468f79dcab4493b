"""What can be made to go wrong at the sandbox's AWS, and the seeded dice that decide when it does. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

Service = Literal["logs", "kms", "sts", "iam", "dynamodb"]


class Mishap(StrEnum):
    """One way for a call to end badly; each is a probability of that name in `Faults`."""

    THROTTLED = "throttled"
    SERVICE_UNAVAILABLE = "service_unavailable"
    OPERATION_ABORTED = "operation_aborted"
    INTERNAL_FAILURE = "internal_failure"
    NOT_AUTHORIZED = "not_authorized"
    CONNECTION_RESET = "connection_reset"
    ANSWER_LOST = "answer_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error of AWS's that nothing in a scene leads to: its code, its text and its HTTP status."""

    code: str
    message: str = ""
    status: int = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong with the calls that match; None matches anything.

    The seven probabilities exclude each other and add up to 1 at most. `connection_reset` drops a call before it is worked,
    `answer_lost` after. `latency_s` is the shortest and longest time (seconds, uniform) that a call takes before it is worked.
    `effect_delay_s` is how long DescribeLogGroups goes on showing the old key after AssociateKmsKey or DisassociateKmsKey.
    In an `outage` no call is worked: it gets a front end's 503 ("unavailable") or a reset connection ("reset"). Nor is one that meets
    a `refusal`: it gets that.
    """

    service: Service | None = None
    operation: str | None = None
    account: str | None = None
    region: str | None = None
    throttled: float = 0.0
    service_unavailable: float = 0.0
    operation_aborted: float = 0.0
    internal_failure: float = 0.0
    not_authorized: float = 0.0
    connection_reset: float = 0.0
    answer_lost: float = 0.0
    latency_s: tuple[float, float] = (0.0, 0.0)
    effect_delay_s: float = 0.0
    outage: Literal["unavailable", "reset"] | None = None
    refusal: Refusal | None = None

    def __post_init__(self) -> None:
        probabilities = [probability for _, probability in self.mishaps]
        if min(probabilities) < 0 or sum(probabilities) > 1 + 1e-9:
            raise ValueError("probabilities are at least 0 and add up to 1 at most")
        if not 0 <= self.latency_s[0] <= self.latency_s[1] or self.effect_delay_s < 0:
            raise ValueError("times are not negative, and latency_s is (shortest, longest)")

    @property
    def mishaps(self) -> list[tuple[Mishap, float]]:
        return [(mishap, getattr(self, mishap.value)) for mishap in Mishap]

    def match(self, *, service: str, operation: str, account: str, region: str) -> bool:
        """Whether a call is one that these faults are for."""
        wanted = (self.service, self.operation, self.account, self.region)
        return all(w in (None, actual) for w, actual in zip(wanted, (service, operation, account, region), strict=True))


NO_FAULTS: Final = Faults()


class FaultPlan:
    """The faults in force. The first that match a call are the ones that apply to it."""

    def __init__(self) -> None:
        self.set((), seed=0)

    def set(self, faults: Sequence[Faults], *, seed: int) -> None:
        """Replace all faults and start the dice anew: the same calls in the same order meet the same fate."""
        self._faults = tuple(faults)
        self._random = random.Random(seed)  # noqa: S311 - dice, not secrets

    def matching(self, *, service: str, operation: str, account: str, region: str) -> Faults:
        """The faults that apply to a call."""
        return next(
            (f for f in self._faults if f.match(service=service, operation=operation, account=account, region=region)),
            NO_FAULTS,
        )

    def latency_s(self, faults: Faults) -> float:
        """How long this call takes before it is worked."""
        return 0.0 if faults is NO_FAULTS else self._random.uniform(*faults.latency_s)

    def mishap(self, faults: Faults) -> Mishap | None:
        """What befalls this call, if anything does."""
        if faults is NO_FAULTS:
            return None
        left = self._random.random()
        for mishap, probability in faults.mishaps:
            left -= probability
            if left < 0:
                return mishap
        return None
