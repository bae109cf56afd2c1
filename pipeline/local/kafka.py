"""Apache Kafka as a part of this process: one KRaft node on loopback that starts, answers and goes away with it."""

from __future__ import annotations

import base64
import logging
import random
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.core.errors import BrokerError
from pipeline.local.jars import class_path
from pipeline.local.java import Java, find_java
from pipeline.local.process import Guarded, ProcessId

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["EmbeddedKafka", "cluster_id", "quiet"]

HOST = "127.0.0.1"
START_WAIT_S_MAX = 120.0  # 3 to 5 s on an idle machine, ten times that on a loaded one
STOP_WAIT_S_MAX = 20.0  # a clean stop takes 1 to 3 s; then SIGKILL, which Kafka's log recovery is made for
FORMAT_WAIT_S_MAX = 60.0
METADATA_WAIT_S = 1.0
PORT_ATTEMPTS = 5  # another program may take a free port between our look and Kafka's bind
LOG_TAIL_LINES = 15
BIND_FAILED = "Address already in use"
PORTS = range(18_000, 32_000)  # below the ephemeral range: no client's own port can take ours while Kafka is down

_silence = logging.getLogger("pipeline.local.probe")  # refused connections are what a start looks like
_silence.setLevel(logging.CRITICAL + 1)

JVM = (
    "-Xmx512m",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}",
)

SINGLE_NODE = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # few of what Kafka keeps for itself: each partition is files and memory
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "1",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),  # the default takes 128 of our 512 MB
        # after a crash the controller lets the broker back in when its last session is over: 9 s by default
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "400",
        # nothing appears by accident, groups form at once, and a test may notice a dead member within a second
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.min.heartbeat.interval.ms": "200",
    }
)


class PortTakenError(BrokerError):
    """Another program listens on a port that Kafka was to have."""


class EmbeddedKafka:
    """One Apache Kafka node (KRaft) on loopback, started on demand; also a context manager.

    ``directory`` holds its data, settings and logs and is kept; without one a temporary folder is used, which
    `stop` removes. ``port`` 0 takes a free one, the same at each `restart`. ``listeners`` adds further ones on free
    ports, name to security protocol (``{"SECURE": "SASL_SSL"}``; `listener` tells their addresses), and ``properties``
    overrides any setting of the broker. The broker dies with this process, however this process ends, unless
    `release` lets it go. ``progress`` shows the first download; without one a bar of our own does, where standard
    error is a terminal.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        progress: Progress | None = None,
        properties: Mapping[str, str] = MappingProxyType({}),
        listeners: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._given = directory
        self._directory = directory
        self._fixed_port = port
        self._progress = progress
        self._properties = dict(properties)
        self._listeners = dict(listeners)
        self._ports: dict[str, int] = {}
        self._process: Guarded | None = None

    @property
    def bootstrap(self) -> str:
        """``127.0.0.1:PORT`` of the plain listener, once started."""
        return self.listener("PLAINTEXT")

    @property
    def pid(self) -> int:
        """Process id of the Java process, once started."""
        assert self._process, "not started"
        return self._process.pid

    @property
    def directory(self) -> Path:
        """Folder of data, settings and logs, once started."""
        assert self._directory, "not started"
        return self._directory

    def listener(self, name: str) -> str:
        """``127.0.0.1:PORT`` of a listener by name, once started."""
        assert self._ports, "not started"
        return f"{HOST}:{self._ports[name]}"

    def start(self) -> None:
        """Start and return when the broker answers a metadata request.

        Raises `BrokerError`, with the tail of the broker's log, if it ends or does not answer within
        `START_WAIT_S_MAX`; nothing is left running then.
        """
        assert self._process is None, "already started"
        first = self._directory is None
        try:
            self._start(find_java(), class_path(progress=self._progress))
        except BaseException:
            self._kill()
            if first:
                self.stop()
            raise

    def stop(self) -> None:
        """Stop cleanly (SIGKILL only after `STOP_WAIT_S_MAX`) and remove a temporary folder; safe to call twice."""
        self._end()
        if self._given is None and self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """SIGKILL, as a crash would; data and port are kept for `restart`."""
        assert self._process, "not started"
        self._kill()

    def restart(self) -> None:
        """Stop if running, and start on the same data and port."""
        self._end()
        self.start()

    def release(self) -> ProcessId:
        """Let the broker go on after this process has ended; the returned id is then the only way to end it."""
        assert self._process, "not started"
        assert self._given, "a broker to be found again needs a folder of its own"
        process, self._process = self._process, None
        return process.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self) -> None:
        if self._process:
            self._process.end(STOP_WAIT_S_MAX)
            self._process = None

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process = None

    def _start(self, java: Java, jars: str) -> None:
        self._directory = self._given or self._directory or Path(tempfile.mkdtemp(prefix="sluice-kafka-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            chosen_now = not self._ports
            self._ports = self._ports or self._choose_ports()
            self._write_properties()
            identity = self._format(java, jars)
            self._process = self._spawn(java, jars)
            try:
                self._wait_until_healthy(identity)
            except PortTakenError:
                if not (chosen_now and attempts_left):
                    raise
                self._kill()
                self._ports = {}
            else:
                return

    def _choose_ports(self) -> dict[str, int]:
        names = ["PLAINTEXT", "CONTROLLER", *self._listeners]
        if self._fixed_port:
            with socket.socket() as candidate:
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Kafka has it
                try:
                    candidate.bind((HOST, self._fixed_port))
                except OSError as error:
                    raise PortTakenError(
                        f"port {self._fixed_port} on {HOST} cannot be used: {error.strerror}"
                    ) from error
            return {"PLAINTEXT": self._fixed_port, **dict(zip(names[1:], free_ports(len(names) - 1), strict=True))}
        return dict(zip(names, free_ports(len(names)), strict=True))

    def _write_properties(self) -> None:
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **self._listeners}
        addresses = {name: f"{name}://{HOST}:{port}" for name, port in self._ports.items()}
        settings = {
            **SINGLE_NODE,
            "log.dirs": str(self.directory / "data"),
            "controller.quorum.voters": f"1@{HOST}:{self._ports['CONTROLLER']}",
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": ",".join(a for name, a in addresses.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in protocols.items()),
            **self._properties,
        }
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.directory / "server.properties").write_text(text.replace("\\", "\\\\"))

    def _format(self, java: Java, jars: str) -> str:
        """Lay out the data folder with Kafka's own tool unless it is laid out already; its cluster id."""
        data = self.directory / "data"
        marker = self.directory / "formatted"  # written last: a format that was killed is done again
        if marker.exists():
            return marker.read_text()
        shutil.rmtree(data, ignore_errors=True)
        identity = new_cluster_id()
        tool = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jars, "kafka.tools.StorageTool"]
        settings = ["format", "--cluster-id", identity, "--config", str(self.directory / "server.properties")]
        argv = [str(java.path), *self._log_option(), *tool, *settings]
        try:
            subprocess.run(argv, capture_output=True, text=True, timeout=FORMAT_WAIT_S_MAX, check=True)
        except subprocess.CalledProcessError as error:
            raise BrokerError(f"Kafka's data folder {data} could not be formatted: {error.stderr.strip()}") from error
        except subprocess.TimeoutExpired as error:
            raise BrokerError(f"formatting Kafka's data folder {data} took over {FORMAT_WAIT_S_MAX:.0f} s") from error
        marker.write_text(identity)
        return identity

    def _log_option(self) -> tuple[str, str]:
        return f"-Dsluice.log={self.directory / 'kafka.log'}", JVM[-1]

    def _spawn(self, java: Java, jars: str) -> Guarded:
        main = ["-cp", jars, "kafka.Kafka", str(self.directory / "server.properties")]
        argv = [str(java.path), *JVM, self._log_option()[0], *main]
        output = self.directory / "kafka.out"
        for old in (output, self.directory / "kafka.log"):
            old.unlink(missing_ok=True)  # an error must show this start's lines
        return Guarded(argv, output=output, errors=output, scratch=None if self._given else self.directory)

    def _wait_until_healthy(self, identity: str) -> None:
        assert self._process
        deadline = time.monotonic() + START_WAIT_S_MAX
        while (status := self._process.poll()) is None and time.monotonic() < deadline:
            if cluster_id(self.bootstrap, METADATA_WAIT_S) == identity:
                return
            if BIND_FAILED in self._log():
                break  # Kafka itself takes most of a minute to give up
        log = self._log()
        if BIND_FAILED in log:
            raise PortTakenError(f"another program took a port of {self._ports} while Kafka started")
        why = f"did not answer within {START_WAIT_S_MAX:.0f} s" if status is None else f"ended with status {status}"
        tail = "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
        raise BrokerError(f"Kafka {why}; the end of its log:\n{tail}")

    def _log(self) -> str:
        logs = [self.directory / "kafka.log", self.directory / "kafka.out"]
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())


def new_cluster_id() -> str:
    """A random id as Kafka has them: 16 bytes, URL-safe base64, never with a leading ``-`` that reads as an option."""
    return "S" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


def free_ports(count: int) -> list[int]:
    """``count`` different loopback ports that nobody listens on now."""
    taken: list[socket.socket] = []
    try:
        while len(taken) < count:
            candidate = socket.socket()
            taken.append(candidate)
            for port in random.sample(PORTS, len(PORTS)):
                try:
                    candidate.bind((HOST, port))
                except OSError:
                    continue
                break
            else:
                raise BrokerError(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop}")
        return [each.getsockname()[1] for each in taken]
    finally:
        for each in taken:
            each.close()


def quiet(bootstrap: str) -> dict[str, Any]:
    """A client's settings that say nothing while a broker is not there yet, and try again soon."""
    return {"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 200, "logger": _silence}


def cluster_id(bootstrap: str, wait_s_max: float) -> str | None:
    """The id of the cluster that answers there with at least one live broker, or None after ``wait_s_max`` seconds."""
    try:
        found = AdminClient(quiet(bootstrap)).list_topics(timeout=wait_s_max)
    except KafkaException:
        return None
    return str(found.cluster_id) if found.brokers else None
