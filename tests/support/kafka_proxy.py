"""Apache Kafka behind proxies: a network between each client and the broker that can be slow, and hang."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from service.sandbox.kafka.apache import ApacheKafka, start_apache
from tests.support.tcp_proxy import TcpProxy, tcp_proxy

COORDINATION = "coordination"  # label of the connections on which a group's coordinator is spoken to
# OffsetCommit, OffsetFetch, JoinGroup, Heartbeat, LeaveGroup, SyncGroup: aiokafka sends them on a connection of their own.
_COORDINATORS_REQUESTS = {8, 9, 11, 12, 13, 14}


@asynccontextmanager
async def apache_behind_proxies(count: int) -> AsyncIterator[tuple[ApacheKafka, list[TcpProxy]]]:
    """A broker with so many addresses more, each through a proxy of its own; its `bootstrap_servers` lead to it directly."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(tcp_proxy(0, _what_for)) for _ in range(count)]
        broker = await stack.enter_async_context(start_apache(advertised=[proxy.port for proxy in proxies]))
        for proxy, port in zip(proxies, broker.behind, strict=True):
            proxy.target_port = port
        yield broker, proxies


def through(proxy: TcpProxy) -> str:
    """The bootstrap servers of a client that is behind this proxy."""
    return f"127.0.0.1:{proxy.port}"


def _what_for(sent: bytes) -> str | None:
    """A request begins with its length in four bytes, then its kind in two. aiokafka writes it at once, so that it is read at once."""
    return COORDINATION if int.from_bytes(sent[4:6], "big") in _COORDINATORS_REQUESTS else None
