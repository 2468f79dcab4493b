"""The real clock."""

import asyncio
import time


class LoopClock:
    """The event loop's own monotonic time, which its timers go by, and the system's wall clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def epoch_ms(self) -> int:
        return time.time_ns() // 1_000_000
