"""The real clock."""

import asyncio
import time


class LoopClock:
    """The event loop's own monotonic time, which its timers go by, and the system's wall clock."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        at = asyncio.get_running_loop().time()
        if at != self._now:  # commands that come together keep one number: 3 MB less for a hundred thousand that wait
            self._now = at
        return self._now

    def epoch_ms(self) -> int:
        return time.time_ns() // 1_000_000
