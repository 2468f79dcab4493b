"""Real Apache Kafka on this machine, one node in KRaft mode, without Docker: Java runs it and Maven fetches it, once.

For `logwarden demo --kafka apache`, and for every test of what librdkafka's broker gets wrong (see
`service.sandbox.kafka`). The jars, 44 MB, stay in `$XDG_CACHE_HOME/logwarden/kafka-VERSION` (`~/.cache` by default), or
where LOGWARDEN_KAFKA_HOME says. A broker is up in about four seconds and takes 150 MB; its data is in a temporary
folder and goes with it.
"""

import asyncio
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Literal, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from service.sandbox.kafka.broker import LocalBrokerError, log_tail, running

KAFKA_VERSION = "4.1.1"
KAFKA_HOME_VARIABLE = "LOGWARDEN_KAFKA_HOME"
MIN_JAVA_VERSION = 17  # Kafka 4's brokers

START_TIMEOUT_S = 60.0  # 2 s on an idle machine; tests start on machines that are anything but
STOP_TIMEOUT_S = 15.0  # 0.4 s when nothing is wrong; past this it is killed
FETCH_TIMEOUT_S = 600.0  # 44 MB of jars through a slow proxy
ADMIN_TIMEOUT_MS = 10_000
POLL_INTERVAL_S = 0.02

# Below the range from which Linux (32768 up) and macOS (49152 up) take the ports of outgoing connections. A port from
# inside it can be taken while the broker is down, even by a client that tries to reach it and so connects to itself.
_PORTS = range(20_000, 32_000)

_JVM_OPTIONS = [
    "-Xms64m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # the broker lives for seconds: a quick start is worth more than optimised code
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
]

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>logwarden</groupId>
  <artifactId>sandbox-kafka</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""

# Its stdin ends when this process does, however it does: the one sign of a parent's end that works on every platform.
_WATCHDOG = 'read -r _; kill -9 "$1"; rm -rf "$2"'


def apache_missing() -> str | None:
    """Say in a sentence what Apache Kafka lacks on this machine; None when it can be started. Blocks for 0.1 s."""
    java = _java()
    if java is None:
        return f"Java {MIN_JAVA_VERSION} or newer is needed, and there is no java in JAVA_HOME or on PATH."
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    version = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)  # 1.8 was 8's name
    if version is None:
        return f"Java {MIN_JAVA_VERSION} or newer is needed, and {java} does not tell its version."
    if int(version[1]) < MIN_JAVA_VERSION:
        return f"Java {MIN_JAVA_VERSION} or newer is needed, and {java} is version {version[1]}."
    if not _libraries().is_dir() and shutil.which("mvn") is None:
        return f"Maven is needed to fetch Apache Kafka {KAFKA_VERSION}, and there is no mvn on PATH."
    return None


def start_apache(
    *, config: Mapping[str, str] | None = None, advertised: Sequence[int] = ()
) -> AbstractAsyncContextManager["ApacheKafka"]:
    """Run a broker for the length of an `async with`; see `ApacheKafka.launch`. Raises LocalBrokerError."""
    return running(lambda: ApacheKafka.launch(config=config, advertised=advertised))


def fetch_libraries() -> Path:
    """The folder with Apache Kafka's jars, downloaded by the first process that asks. Raises LocalBrokerError.

    Another process that asks meanwhile waits. The folder appears whole or, after an interrupted download, not at all.
    """
    libraries = _libraries()
    home = libraries.parent
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not libraries.is_dir():
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home) as scratch:
                _download(Path(scratch)).rename(libraries)
    return libraries


def _download(scratch: Path) -> Path:
    (scratch / "pom.xml").write_text(_POM.format(version=KAFKA_VERSION))
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs"]
    with (scratch / "maven.log").open("a+b") as log:
        try:
            subprocess.run(  # noqa: S603 - the machine's own Maven
                command, cwd=scratch, stdout=log, stderr=log, check=True, timeout=FETCH_TIMEOUT_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise LocalBrokerError(
                f"Maven did not fetch Apache Kafka {KAFKA_VERSION}: {error} {log_tail(log)}"
            ) from error
    return scratch / "libs"


def _libraries() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get(KAFKA_HOME_VARIABLE) or Path(caches, "logwarden", f"kafka-{KAFKA_VERSION}")
    return Path(home).absolute() / "libs"


def _java() -> str | None:
    """The java that Kafka's own scripts and Maven would take."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=str(Path(home, "bin")) if home else None)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. Nothing keeps them free, but nobody is handed one of these by the kernel."""
    ports = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as candidate, suppress(OSError):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise LocalBrokerError(f"no free port from {_PORTS.start} to {_PORTS.stop} on 127.0.0.1")


class ApacheKafka:
    """The handle of a broker. `launch` and `close` block; the other methods run in a thread or talk to the broker."""

    def __init__(
        self,
        *,
        command: list[str],
        directory: Path,
        ports: list[int],
        advertised: Sequence[int],
        config: Mapping[str, str],
    ) -> None:
        self._command = command
        self._directory = directory
        self._port, controller_port, *self.behind = ports  # `behind` the advertised ones, in their order
        self._log = (directory / "broker.log").open("a+b")
        self._one_at_a_time = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        proxied = dict(zip(self.behind, advertised, strict=True))
        properties = _properties(directory / "data", self._port, controller_port, proxied) | dict(config)
        self._properties_file = directory / "server.properties"
        self._properties_file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    @classmethod
    def launch(cls, *, config: Mapping[str, str] | None = None, advertised: Sequence[int] = ()) -> Self:
        """Start a broker and wait until it serves. Blocks for about 4 s, longer when the jars have to be fetched.

        `config` is added to the broker's settings, or replaces some. For each of the `advertised` ports, where somebody passes bytes on,
        there is one `behind` it: whoever comes by that is told the advertised one. Raises LocalBrokerError.
        """
        missing = apache_missing()
        if missing is not None:
            raise LocalBrokerError(missing)
        command = [str(_java()), *_JVM_OPTIONS, "-cp", f"{fetch_libraries()}/*"]
        directory = Path(tempfile.mkdtemp(prefix="logwarden-kafka-"))
        ports = _free_ports(2 + len(advertised))
        broker = cls(command=command, directory=directory, ports=ports, advertised=advertised, config=config or {})
        try:
            broker._format()
            broker._start()
        except BaseException:  # a cancellation or Ctrl-C too: the process has to end with us
            broker.close()
            raise
        return broker

    @property
    def kind(self) -> Literal["apache"]:
        return "apache"

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def is_running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    async def create_topics(self, partitions: Mapping[str, int], *, config: Mapping[str, str] | None = None) -> None:
        """See LocalBroker."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers, request_timeout_ms=ADMIN_TIMEOUT_MS)
        try:
            await admin.start()
            topics = [NewTopic(name, count, 1, topic_configs=dict(config or {})) for name, count in partitions.items()]
            for name, code, reason in (await admin.create_topics(topics)).topic_errors:
                if code != 0:
                    raise LocalBrokerError(f"Apache Kafka refused topic {name}: {for_code(code).__name__}: {reason}")
            await _until_led(admin, list(partitions))
        except (KafkaError, TimeoutError) as error:
            raise LocalBrokerError(f"Apache Kafka did not create topics {', '.join(partitions)}: {error!r}") from error
        finally:
            await admin.close()

    async def stop(self) -> None:
        await asyncio.to_thread(self.close)

    async def kill(self) -> None:
        """End the broker with SIGKILL, as a lost machine would; `restart` brings it back with the data it wrote."""
        await asyncio.to_thread(self._locked_end, signal.SIGKILL)

    async def restart(self) -> None:
        """Start the broker again, on the same port and data; one that still runs shuts down in order first.

        Raises LocalBrokerError when it does not come up; it is then down, and another restart may be tried.
        """
        await asyncio.to_thread(self._restart)

    def close(self) -> None:
        """Kill the broker and delete its data: nobody needs it to be tidy about what is thrown away."""
        with self._one_at_a_time:
            self._end(signal.SIGKILL)
            self._log.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    def _restart(self) -> None:
        with self._one_at_a_time:
            if self._log.closed:
                raise LocalBrokerError("Apache Kafka has been stopped, and its data deleted")
            self._end(signal.SIGTERM)
            self._start()

    def _locked_end(self, how: signal.Signals) -> None:
        with self._one_at_a_time:
            self._end(how)

    def _format(self) -> None:
        """Prepare the data folder, as `kafka-storage.sh format` does."""
        cluster_id = "bG9nd2FyZGVuLXNhbmRib3"  # 16 bytes in base64url; any will do for a cluster of one
        arguments = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._properties_file)]
        try:
            subprocess.run(  # noqa: S603 - the machine's own java
                [*self._command, *arguments], stdout=self._log, stderr=self._log, check=True, timeout=START_TIMEOUT_S
            )
        except subprocess.SubprocessError as error:
            raise LocalBrokerError(f"Apache Kafka did not prepare its data folder. {log_tail(self._log)}") from error

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the machine's own java
            [*self._command, "kafka.Kafka", str(self._properties_file)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the service, which still has offsets to commit to this broker
        )
        self._watchdog = subprocess.Popen(  # noqa: S603 - a constant script
            ["/bin/sh", "-c", _WATCHDOG, "logwarden-kafka-watchdog", str(self._process.pid), str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._accepts():
            status = self._process.poll()
            if status is not None:
                self._end(signal.SIGKILL)
                raise LocalBrokerError(f"Apache Kafka ended at its start, with status {status}. {log_tail(self._log)}")
            if time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise LocalBrokerError(f"Apache Kafka did not start in {START_TIMEOUT_S:g} s. {log_tail(self._log)}")
            time.sleep(POLL_INTERVAL_S)

    def _accepts(self) -> bool:
        """Whether the broker listens: in KRaft mode it opens its port last, once the controller has let it in."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def _end(self, how: signal.Signals) -> None:
        """End the process, if there is one, and then its watchdog, which must outlive it but not see its pid reused."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._watchdog is not None:
            self._watchdog.kill()
            with self._watchdog:  # closes its pipe and reaps it
                self._watchdog = None


def _properties(data: Path, port: int, controller_port: int, proxied: Mapping[int, int]) -> dict[str, str]:
    """server.properties for one node, broker and controller, with all that is spread or replicated set to one.

    `proxied` has the advertised port of each listener behind one.
    """
    own, controller = f"BROKER://127.0.0.1:{port}", f"CONTROLLER://127.0.0.1:{controller_port}"
    names = {listener: f"PROXIED{number}" for number, listener in enumerate(proxied)}
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": ",".join([own, controller, *(f"{name}://127.0.0.1:{at}" for at, name in names.items())]),
        "advertised.listeners": ",".join([own, *(f"{name}://127.0.0.1:{proxied[at]}" for at, name in names.items())]),
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in ("BROKER", "CONTROLLER", *names.values())
        ),
        "inter.broker.listener.name": "BROKER",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "auto.create.topics.enable": "false",  # as on most production clusters: a forgotten topic should show
        # A killed broker is let in again only when its old session has ended: after 9 s by default.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",  # a first member does not wait for others
        "group.min.session.timeout.ms": "500",  # tests of lost members do not wait for six seconds
        "log.cleaner.dedupe.buffer.size": "1048577",  # the least it takes; the default is 128 MB of heap
    }


async def _until_led(admin: AIOKafkaAdminClient, topics: list[str]) -> None:
    """Wait until every partition has a leader: a client that asks at once would be told that there is no such topic."""
    async with asyncio.timeout(ADMIN_TIMEOUT_MS / 1000):
        while any(  # noqa: ASYNC110 - the broker is another process: there is nothing to wait on but its answers
            topic["error_code"] != 0 or any(partition["leader"] == -1 for partition in topic["partitions"])
            for topic in await admin.describe_topics(topics)
        ):
            await asyncio.sleep(POLL_INTERVAL_S)
