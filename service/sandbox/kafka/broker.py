"""Local Kafka brokers for `logwarden demo` and the tests: what each of them offers, and the one that needs only Python.

librdkafka carries a broker for its own tests, and the confluent-kafka wheel carries librdkafka. It is up in 0.2 s, but
it promises little, so whatever depends on the rest runs on real Apache Kafka (`service.sandbox.kafka.apache`). What it
does otherwise than Apache Kafka, read in its source and seen with aiokafka:

- One member a group. A second member's SyncGroup is refused, and so is a commit while the group rebalances.
- After a member has left, the next one joins only when `session_timeout_ms` less one second has passed.
- A partition keeps 5 MiB or 100,000 batches and then drops its oldest, read or not. Nothing survives the process.
- A fetch brings one batch a partition. An empty fetch is not cut short by a new record, so a record waits for up to the
  consumer's `fetch_max_wait_ms`: set 50, not aiokafka's 500.
- An acknowledgement always carries the timestamp 1234; the stored record has the right one.
- Idempotent producers are accepted, but a batch that is sent again is stored again. Transactions cannot be read back.
- No admin calls: topics come from `create_topics`, or by themselves, with 4 partitions, when a client first names them.
  Topic settings, `offsets_for_times`, authentication and limits on the size of a record do not exist.
- Its assertions abort the process. So it has a process of its own, `service.sandbox.kafka.librdkafka_main`.
"""

import asyncio
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, Protocol, Self, TypeVar, cast

from service.sandbox.errors import SandboxError

ANSWER_TIMEOUT_S = 15.0  # start and commands take 0.1 s; a machine that swaps takes longer, and nothing waits for ever
STOP_TIMEOUT_S = 5.0  # the process leaves at the end of its stdin; past this it is killed
LOG_TAIL_BYTES = 4_000  # of a broker's log in an error: a Java stack trace and what led to it

_SCRIPT = Path(__file__).with_name("librdkafka_main.py")

BrokerKind = Literal["librdkafka", "apache"]


class LocalBrokerError(SandboxError):
    """A broker did not start, ended by itself, or refused a command. The text says why, with the tail of its log."""


class LocalBroker(Protocol):
    """A broker on 127.0.0.1 that belongs to this process and ends with it. Any event loop may call its methods."""

    @property
    def kind(self) -> BrokerKind: ...

    @property
    def bootstrap_servers(self) -> str: ...

    @property
    def is_running(self) -> bool:
        """False once the broker has ended, for whatever reason."""
        ...

    async def create_topics(self, partitions: Mapping[str, int], *, config: Mapping[str, str] | None = None) -> None:
        """Create topics, each with its number of partitions, ready for use on return.

        `config` is for all of them; librdkafka's broker has no topic settings and ignores it. Raises LocalBrokerError
        when one cannot be created or exists already; the others may have been created.
        """
        ...

    async def stop(self) -> None:
        """End the broker and delete its data. A second call does nothing."""
        ...


class _Closable(Protocol):
    def close(self) -> None: ...


_Broker = TypeVar("_Broker", bound=_Closable)


@asynccontextmanager
async def running(launch: Callable[[], _Broker]) -> AsyncIterator[_Broker]:
    """Launch a broker in a thread and close it at the end of the block.

    A thread cannot be interrupted: a cancelled launch is waited for, and its broker closed, before the cancellation
    goes on.
    """
    launching = asyncio.ensure_future(asyncio.to_thread(launch))
    try:
        broker = await asyncio.shield(launching)
    except asyncio.CancelledError:
        with suppress(LocalBrokerError):
            await asyncio.to_thread((await launching).close)
        raise
    try:
        yield broker
    finally:
        await asyncio.to_thread(broker.close)


def start_librdkafka() -> AbstractAsyncContextManager["LibrdkafkaBroker"]:
    """Run librdkafka's broker for the length of an `async with`. Raises LocalBrokerError when it does not start."""
    return running(LibrdkafkaBroker.launch)


def log_tail(log: IO[bytes]) -> str:
    """The end of a log that a child process writes, read without moving the offset that it shares with the child."""
    size = os.fstat(log.fileno()).st_size
    text = os.pread(log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES)).decode(errors="replace").strip()
    return f"The end of its log:\n{text}" if text else "Its log is empty."


class LibrdkafkaBroker:
    """The handle of a broker process. `launch` and `close` block; the rest of its methods run in a thread."""

    def __init__(self, *, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process = process
        self._commands = cast("IO[bytes]", process.stdin)
        self._answers = cast("IO[bytes]", process.stdout)
        self._log = log
        self._one_at_a_time = threading.Lock()
        self._bootstrap_servers = ""

    @classmethod
    def launch(cls) -> Self:
        """Start the process and wait until it listens. Blocks for 0.2 s. Raises LocalBrokerError."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the broker
        process = subprocess.Popen(  # noqa: S603 - our own script, run by this interpreter
            # By path and with -P: a `service` package in the user's working directory must not be taken for ours.
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,  # a write to a broker that has died fails at once, and select sees every answer
            start_new_session=True,  # Ctrl-C is for the service, which still has offsets to commit to this broker
        )
        broker = cls(process=process, log=log)
        try:
            broker._bootstrap_servers = broker._answer()["bootstrap_servers"]
        except BaseException:  # a cancellation or Ctrl-C too: the process has to end with us
            broker.close()
            raise
        return broker

    @property
    def kind(self) -> Literal["librdkafka"]:
        return "librdkafka"

    @property
    def bootstrap_servers(self) -> str:
        return self._bootstrap_servers

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def create_topics(
        self,
        partitions: Mapping[str, int],
        *,
        config: Mapping[str, str] | None = None,  # noqa: ARG002 - LocalBroker's; this broker has no topic settings
    ) -> None:
        """See LocalBroker. `config` is ignored."""
        await self._command({"create_topics": dict(partitions)})

    async def push_errors(self, api_key: int, codes: Sequence[int]) -> None:
        """Fail the next `len(codes)` requests of one kind, whoever sends them, each with its own code; 0 lets one pass.

        `api_key` and `codes` are the Kafka protocol's: 0 is Produce, 1 Fetch, 8 OffsetCommit. Code -195 cuts the
        connection.
        """
        await self._command({"push_errors": {"api_key": api_key, "codes": list(codes)}})

    async def set_reachable(self, reachable: bool) -> None:  # noqa: FBT001 - the one thing that the name says
        """Cut all connections and refuse new ones, or listen again on the same port. Records and offsets stay."""
        await self._command({"set_reachable": reachable})

    async def stop(self) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End the process and wait for that: at most STOP_TIMEOUT_S, then it is killed. A second call does nothing."""
        with self._one_at_a_time:
            self._commands.close()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._answers.close()
            self._log.close()

    async def _command(self, command: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._run, command)

    def _run(self, command: Mapping[str, Any]) -> None:
        with self._one_at_a_time:
            if self._commands.closed:
                raise LocalBrokerError("librdkafka's broker has been stopped")
            try:
                self._commands.write(json.dumps(command).encode() + b"\n")
            except BrokenPipeError as error:
                raise self._ended() from error
            refusal = self._answer().get("error")
        if refusal is not None:
            raise LocalBrokerError(f"librdkafka's broker refused {command}: {refusal}")

    def _answer(self) -> dict[str, Any]:
        readable, _, _ = select.select([self._answers], [], [], ANSWER_TIMEOUT_S)
        if not readable:
            self._process.kill()  # a late answer would be taken for the next command's
            raise LocalBrokerError(
                f"librdkafka's broker did not answer in {ANSWER_TIMEOUT_S:g} s. {log_tail(self._log)}"
            )
        line = self._answers.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> LocalBrokerError:
        return LocalBrokerError(
            f"librdkafka's broker has ended, with status {self._process.wait()}. {log_tail(self._log)}"
        )
