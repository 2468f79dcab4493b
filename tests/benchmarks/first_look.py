"""What the first look at the raw bytes saves of a whole parse."""

import gc
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from service.domain.events import Arrival, EventParser
from tests.benchmarks.ingest_filter import stream
from tests.benchmarks.result import Result
from tests.benchmarks.stage import in_own_process

_ARRIVAL = Arrival(0, None)


async def first_look(is_quick: bool) -> list[Result]:
    """CPU time of the full parser over that of the first look, on the stream of `ingest-filter`: one record in 200 is relevant.

    Both see the same records, of 1.2 kB, in turns within one process, and what is relevant costs the first look's side its parse too.
    `json_us` is what `json.loads` alone takes: no parser of Python's standard library is quicker. The value is the median of the
    rounds' ratios.
    """
    rounds = await in_own_process(_in_turns, 15 if is_quick else 101)
    details = {name: median(costs[name] for costs in rounds) for name in rounds[0]}
    value = median(costs["parse_us"] / costs["first_look_us"] for costs in rounds)
    return [Result(name="first-look", value=value, at_least=8, details=details)]


def _in_turns(rounds: int) -> list[dict[str, float]]:
    """Microseconds of CPU a record, for each round."""
    parser, records = EventParser(), stream()
    look = parser.is_surely_irrelevant

    def parse(value: bytes) -> object:
        return parser.parse(value, arrival=_ARRIVAL)

    def look_first(value: bytes) -> object:
        return None if look(value) else parse(value)

    sides: dict[str, Callable[[bytes], Any]] = {"parse_us": parse, "first_look_us": look_first, "json_us": json.loads}
    assert sum(not look(record) for record in records) == 1
    gc.disable()
    return [{name: _cost_us(side, records) for name, side in sides.items()} for _ in range(rounds)]


def _cost_us(side: Callable[[bytes], Any], records: list[bytes]) -> float:
    began = time.process_time_ns()
    for _ in range(10):
        for record in records:
            side(record)
    return (time.process_time_ns() - began) / 10 / len(records) / 1000
