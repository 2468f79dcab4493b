"""What goes wrong between the replicas and the broker: answers are late, or none come on connections that stay open."""

import asyncio
import random
from collections import Counter

from tests.support.kafka_proxy import COORDINATION
from tests.support.tcp_proxy import TcpProxy

_LATENCY_S = (0.05, 0.3)
_SLOW_FOR_S = (2.0, 6.0)
# How long it hangs, for whom, and what. A replica that has not heard of its group for 7 s makes no calls any more, after 10 s the group
# has given its lanes away; what it asked for comes back before its requests time out, after 30 s, as if nothing had been.
HANGS = (
    (8.5, "one", None),
    (13.0, "one", None),
    (8.5, "all", None),
    (13.0, "all", None),
    (13.0, "one", COORDINATION),
    (13.0, "all", COORDINATION),
)


class Network:
    """One proxy for each place of a replica; one thing is wrong at a time, while other mishaps go on. Each of the `hangs` comes once."""

    def __init__(self, proxies: list[TcpProxy], *, hangs: bool, dice: random.Random, actions: Counter[str]) -> None:
        self._proxies = proxies
        self._hangs = dice.sample(HANGS, len(HANGS)) if hangs else []
        self._dice = dice
        self._actions = actions
        self._healing: asyncio.Task[None] | None = None

    @property
    def is_well(self) -> bool:
        return self._healing is None or self._healing.done()

    @property
    def can_hang(self) -> bool:
        return self.is_well and bool(self._hangs)

    def slow(self, used: list[TcpProxy]) -> None:
        """Let answers be late for a while, to one of the replicas behind the `used` proxies or to all."""
        whom = self._dice.choice(["one", "all"])
        self._begin(f"slow {whom}", self._chosen(whom, used), self._dice.uniform(*_SLOW_FOR_S), _LATENCY_S)

    def hang(self, used: list[TcpProxy]) -> None:
        """Pass nothing on for longer than a lease, or a session."""
        seconds, whom, label = self._hangs.pop()
        proxies = self._chosen(whom, used)
        for proxy in proxies:
            proxy.stall(label)
        self._begin(f"hang {label or 'broker'} {whom} {seconds:g} s", proxies, seconds)

    async def until_well(self) -> None:
        if self._healing is not None:
            await self._healing

    def _chosen(self, whom: str, used: list[TcpProxy]) -> list[TcpProxy]:
        return [self._dice.choice(used)] if whom == "one" else self._proxies

    def _begin(
        self, name: str, proxies: list[TcpProxy], seconds: float, latency_s: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self._actions[name] += 1
        for proxy in proxies:
            proxy.latency_s = latency_s
        self._healing = asyncio.create_task(self._heal(proxies, seconds))

    @staticmethod
    async def _heal(proxies: list[TcpProxy], after_s: float) -> None:
        await asyncio.sleep(after_s)
        for proxy in proxies:
            proxy.latency_s = (0.0, 0.0)
            proxy.flow()
