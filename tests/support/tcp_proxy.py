"""A TCP proxy that can go away, come back on the same port, be slow, and stop passing bytes on: a network in the test's hands."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_CHUNKS = 256  # that are under way in one direction; whoever sends more waits


class TcpProxy:
    """Passes bytes between its port on 127.0.0.1 and `target_port`. Use `tcp_proxy`.

    An answer is `latency_s` late: at least and at most, in seconds. Those of one connection stay in order, and overlap. `label` is asked
    what a connection is for, of all that is sent on it until it says so.
    """

    def __init__(self, target_port: int, label: Callable[[bytes], str | None] = lambda _: None) -> None:
        self.target_port = target_port
        self.latency_s = (0.0, 0.0)
        self.connections = 0
        self.port = 0
        self._label = label
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stalled: Callable[[str | None], bool] = _never

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def vanish(self) -> None:
        """Cut every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Cut every connection; new ones are taken."""
        for connection in self._open:
            connection.cut()

    def stall(self, label: str | None = None) -> None:
        """Take connections and bytes, and pass nothing on, not even an end; with a label, only on connections that bear it."""
        self._is_stalled = _always if label is None else lambda other: other == label
        self._look()

    def flow(self) -> None:
        """Pass on again, what has been held back too."""
        self._is_stalled = _never
        self._look()

    def _look(self) -> None:
        for connection in self._open:
            if self._is_stalled(connection.label):
                connection.flowing.clear()
            else:
                connection.flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        connection = _Connection(writer)
        self._open.add(connection)
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
            connection.writers.append(back)
            self._look()
            await connection.until_cut(
                self._pump(connection, reader, back, self._sent), self._pump(connection, there, writer, self._answered)
            )
        connection.cut()
        self._open.discard(connection)
        self._tasks.discard(task)

    def _sent(self, connection: "_Connection", data: bytes) -> float:
        if connection.label is None and (label := self._label(data)) is not None:
            connection.label = label
            self._look()
        return 0.0

    def _answered(self, _connection: "_Connection", _data: bytes) -> float:
        return random.uniform(*self.latency_s)

    async def _pump(
        self,
        connection: "_Connection",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[["_Connection", bytes], float],
    ) -> None:
        """Pass bytes on in one direction, until their end; `look` says by how many seconds late."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS)
        reading = asyncio.create_task(_read(reader, chunks, lambda data: look(connection, data)))
        try:
            while True:
                due, data = await chunks.get()
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                await connection.flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            reading.cancel()


class _Connection:
    """One connection: both its ends, and whether it passes anything on."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.label: str | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._cut = asyncio.Event()

    def cut(self) -> None:
        self._cut.set()
        for writer in self.writers:
            writer.transport.abort()

    async def until_cut(self, *pumps) -> None:
        """Run until one ends, or the connection is cut."""
        tasks = [asyncio.create_task(each) for each in (*pumps, self._cut.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _read(reader: asyncio.StreamReader, chunks: asyncio.Queue, late_by_s: Callable[[bytes], float]) -> None:
    due, data = 0.0, b"..."
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        due = max(due, asyncio.get_running_loop().time() + late_by_s(data))
        await chunks.put((due, data))


def _always(_label: str | None) -> bool:
    return True


def _never(_label: str | None) -> bool:
    return False


@asynccontextmanager
async def tcp_proxy(target_port: int, label: Callable[[bytes], str | None] = lambda _: None) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(target_port, label)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.flow()
        await proxy.vanish()
