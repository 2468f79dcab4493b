"""Virtual time: an event loop whose clock jumps to the next timer, so that an hour of waiting passes in a millisecond.

Whatever waits on timers, futures and events runs here as it would on a real loop, in the same order, with no delay and no jitter.
Threads and sockets do not belong here: time jumps while they work. A test whose tasks all wait for something that no timer will
bring fails at once instead of hanging, and so does one that leaves a task behind or an exception that nobody looked at.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

START_S: Final = 1000.0  # not 0: a monotonic clock never is, and a comparison with a forgotten 0.0 should show
EPOCH_MS: Final = 1_750_000_000_000  # the wall clock when the monotonic one stands at 0


class NothingToWaitForError(RuntimeError):
    """Every task waits and no timer is set: nothing would ever happen again."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise NothingToWaitForError("every task waits and no timer is set")
        self.now += max(timeout, 0.0)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop over a selector that never sleeps. `unhandled` holds what its exception handler was told."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self.unhandled: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def time(self) -> float:
        return self._jumping.now


class VirtualClock:
    """The port Clock over the running loop; `skew_ms` sets the wall clock off, as an administrator might."""

    def __init__(self) -> None:
        self.skew_ms = 0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def epoch_ms(self) -> int:
        return EPOCH_MS + self.skew_ms + int(self.now() * 1000)


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own; fails on tasks left behind and on exceptions that nobody looked at."""

    async def watched() -> T:
        result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    loop = VirtualTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(watched())
    assert not loop.unhandled, f"exceptions that nobody looked at: {loop.unhandled}"
    return result


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make a test of a coroutine function, run in virtual time. Async fixtures live on pytest-asyncio's loop: not here."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_in_virtual_time(test(*args, **kwargs))

    return run
