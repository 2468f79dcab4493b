"""The real service as a child process, configured as a deployment configures it: by its environment alone."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import httpx
from pydantic import SecretStr

from service.sandbox.errors import SandboxError
from service.settings import PREFIX, Settings

_READY_S: Final = 30.0
_LOG_TAIL: Final = 4000  # characters


class ServiceProcessError(SandboxError):
    """The service did not become ready, or did not end; the text has the end of its log."""


class ServiceProcess:
    """One replica. Its log goes to a file; its output, which should be empty, to ours."""

    def __init__(self, *, process: asyncio.subprocess.Process, settings: Settings, log: Path) -> None:
        self._process = process
        self._settings = settings
        self.log = log
        self.url = f"http://127.0.0.1:{settings.http_port}"

    @classmethod
    @asynccontextmanager
    async def start(cls, settings: Settings, *, environment: Mapping[str, str], log: Path) -> AsyncIterator[Self]:
        """Run a replica for the length of an `async with`; whatever is left of it at the end is killed.

        `environment` is added to this process's own, of which LOGWARDEN_ and AWS_ variables are left out.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "AWS_"))}
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "service", "run"),
                env=inherited | dict(environment) | as_environment(settings),
                stderr=stderr,
                start_new_session=True,  # Ctrl-C ends the demo, and the demo ends the service
            )
        try:
            yield cls(process=process, settings=settings, log=log)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def ready(self, timeout_s: float = _READY_S) -> None:
        """Return when /readyz says so. Raises ServiceProcessError."""
        deadline = time.monotonic() + timeout_s
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:
            while time.monotonic() < deadline and self.is_running:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get("/readyz")).is_success:
                        return
                await asyncio.sleep(0.1)
        raise ServiceProcessError(f"the service did not become ready; the end of its log:\n{self.log_tail()}")

    async def terminate(self) -> int:
        """End it as Kubernetes would, by SIGTERM, and return its exit status. Raises ServiceProcessError when it does not end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._process.wait(), self._settings.shutdown_drain_s + 30)
        except TimeoutError as e:
            raise ServiceProcessError(
                f"the service did not end after SIGTERM; the end of its log:\n{self.log_tail()}"
            ) from e

    async def kill(self) -> None:
        """End it as a lost node would, by SIGKILL."""
        self._process.kill()
        await self._process.wait()

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_TAIL:]


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings that are not at their default, as environment variables."""
    chosen = settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    for name in chosen:
        if isinstance(value := getattr(settings, name), SecretStr):
            chosen[name] = value.get_secret_value()
    return {
        f"{PREFIX}{name.upper()}": ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in chosen.items()
    }


def free_port() -> int:
    """A port on 127.0.0.1 that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
