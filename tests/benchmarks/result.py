"""One measured value and the goal that it is held against."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`details` are the numbers behind the value, for whoever wants to know why; they go into the JSON file and to stderr.

    A value without a goal is there to compare with.
    """

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return not (self.at_least is not None and self.value < self.at_least) and not (
            self.at_most is not None and self.value > self.at_most
        )

    @property
    def goal(self) -> str:
        if self.at_least is not None:
            return f">={self.at_least:g}"
        return "-" if self.at_most is None else f"<={self.at_most:g}"

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} {self.goal} {'ok' if self.is_ok else 'short'}"

    def as_dict(self) -> dict[str, Any]:
        goal = {"at_least": self.at_least} if self.at_least is not None else {"at_most": self.at_most}
        return {"name": self.name, "value": self.value, **goal, "is_ok": self.is_ok, "details": dict(self.details)}


Benchmark = Callable[[bool], Awaitable[list[Result]]]
