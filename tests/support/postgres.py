"""A real PostgreSQL of our own: `postgres` is a server for the session, `new_database` a database in it for one test.

PostgreSQL refuses to run as root, so root starts it as `postgres` or `nobody`. Where it is not installed, tests that ask for it are
skipped, with the reason; with TEST_EVERYTHING=1, as in CI, they fail.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from tests.support.kafka import TEST_EVERYTHING_VARIABLE

USER: Final = "logwarden"
PASSWORD: Final = "correct horse battery staple"
_START_S: Final = 30.0


class Postgres:
    """One server on 127.0.0.1, with its data in a folder of its own."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="logwarden-postgres-"))
        self._owner = _unprivileged() if os.geteuid() == 0 else None
        if self._owner is not None:
            os.chown(self._folder, self._owner.pw_uid, self._owner.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        password_file = self._folder / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        command = [
            "initdb",
            "-D",
            f"{self._folder}/data",
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            f"--pwfile={password_file}",
        ]
        with self._run([*command, "-N", "-E", "UTF8", "--no-locale"]) as initdb:
            output = initdb.communicate()[0]
        assert initdb.returncode == 0, output.decode()
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def dsn(self, database: str = "postgres", *, port: int | None = None) -> str:
        return f"postgresql://{USER}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start the server and return when it can be connected to."""
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._server = self._run(["postgres", "-D", f"{self._folder}/data", *settings])
        deadline = time.monotonic() + _START_S
        while subprocess.run(
            [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self._server.poll() is None, f"postgres has ended: {self._log()}"
            assert time.monotonic() < deadline, f"postgres did not start: {self._log()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it as an administrator would who does not wait for clients."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.communicate(timeout=_START_S)
            self._server = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        log = (self._folder / "log").open("ab")
        with log:
            return subprocess.Popen(
                [self._binaries / command[0], *command[1:]],
                env={"LC_ALL": "C", "PATH": os.defpath},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if command[0] == "initdb" else log,
                stderr=subprocess.STDOUT,
                user=None if self._owner is None else self._owner.pw_uid,
                group=None if self._owner is None else self._owner.pw_gid,
                extra_groups=None if self._owner is None else [],
                start_new_session=True,
            )

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


def postgres_missing() -> Path | str:
    """The folder with PostgreSQL's programs, or why there is none."""
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep)), *Path("/usr/lib/postgresql").glob("*/bin")]
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            return folder
    return "PostgreSQL is not installed (Debian: apt-get install --no-install-recommends postgresql)"


def _unprivileged() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    found = postgres_missing()
    if isinstance(found, str):
        if os.environ.get(TEST_EVERYTHING_VARIABLE) == "1":
            pytest.fail(f"{TEST_EVERYTHING_VARIABLE}=1 asks for it. {found}", pytrace=False)
        pytest.skip(found)
    with contextlib.closing(Postgres(found)) as server:
        yield server


@asynccontextmanager
async def new_database(postgres: Postgres) -> AsyncIterator[str]:
    """The name of a database with nothing in it, which is dropped in the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(postgres.dsn(), password=PASSWORD)
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        yield name
    finally:
        if connection.is_closed():  # the test restarted the server
            connection = await asyncpg.connect(postgres.dsn(), password=PASSWORD)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()
