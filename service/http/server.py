"""uvicorn inside the service's own event loop, without the habits of a main program: no signal handlers, no exit, no access log."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

import uvicorn
from starlette.types import ASGIApp

# For answers under way, after waiting callers were let go; whole seconds, as uvicorn wants them.
STOP_TIMEOUT_S: Final = 5


class ListenError(Exception):
    """The address cannot be listened on; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@contextlib.asynccontextmanager
async def serve(app: ASGIApp, *, host: str, port: int, stop_timeout_s: int = STOP_TIMEOUT_S) -> AsyncIterator[Address]:
    """Answer HTTP until the block ends; connections are taken from its start on. Port 0 is a free one.

    At the end no connection is taken any more, and answers under way have `stop_timeout_s` seconds before they are cut off.
    Raises ListenError.
    """
    with _listen(host, port) as listener:
        server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",  # what the app needs is started and stopped by whoever composes it
                log_config=None,
                log_level="warning",  # it tells of its start and stop, and of keys to press
                access_log=False,
                proxy_headers=False,  # nothing here depends on who the client says it is
                server_header=False,
                timeout_graceful_shutdown=stop_timeout_s,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http-server")
        try:
            yield Address(*listener.getsockname()[:2])
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process: uvicorn's handlers would close the port on SIGTERM, before the service has drained."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=host == "::")
    except OSError as e:
        raise ListenError(f"cannot listen on {host}, port {port}: {e.strerror or e}") from e
