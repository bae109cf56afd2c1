"""A way to the broker on which the first produce request to each partition of a topic is refused."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from pipeline.local import EmbeddedKafka
from pipeline.local.kafka import free_ports

__all__ = ["HOLD_S", "Refusing", "broker_behind_a_proxy"]

PRODUCE, NOT_LEADER_OR_FOLLOWER = 0, 6
HOLD_S = 1.0  # before a refusal: by then the next request to the partition is on its way
WAIT_S = 30.0
BEFORE_COUNT = 57  # bytes of a record batch before the number of its records


@contextmanager
def broker_behind_a_proxy() -> Iterator[tuple[EmbeddedKafka, str]]:
    """A broker with a second listener, ``PROXIED``, that is advertised as a proxy's address; that address."""
    plain, way = free_ports(2)
    properties = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},PROXIED://127.0.0.1:{way}"}
    with EmbeddedKafka(port=plain, listeners={"PROXIED": "PLAINTEXT"}, properties=properties) as kafka:
        yield kafka, f"127.0.0.1:{way}"


class Refusing:
    """A proxy that refuses a producer's first request to each partition, and lets pass what is behind it.

    So does a broker that does not lead the partition yet, and a moment later does. ``refused`` has how many records
    were in each partition's first request.
    """

    def __init__(self, address: str, broker: str, topic: str) -> None:
        self._broker = _parsed(broker)
        self._topic = topic.encode()
        self.refused: dict[int, int] = {}
        self._sockets = [socket.create_server(_parsed(address))]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="refusing", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._sockets:
            each.close()

    def wait(self, partition: int) -> None:
        """Wait for the first request to a partition; it is refused `HOLD_S` later."""
        end_s = time.monotonic() + WAIT_S
        while partition not in self.refused:
            assert time.monotonic() < end_s, f"nothing was produced to partition {partition}"
            time.sleep(0.01)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sockets[0].accept()
                broker = socket.create_connection(self._broker)
            except OSError:  # closed, or the broker is
                return
            self._sockets += [client, broker]
            for each in (client, broker):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lock = threading.Lock()
            for run in (partial(self._requests, client, broker, lock), partial(self._answers, client, broker, lock)):
                threading.Thread(target=run, name="refusing", daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, lock: threading.Lock) -> None:
        try:
            while frame := _frame(client):
                if (answer := self._refusal(frame)) is None:
                    broker.sendall(frame)
                    continue
                time.sleep(HOLD_S)
                with lock:
                    client.sendall(answer)
        except OSError:
            pass
        finally:
            broker.close()

    def _answers(self, client: socket.socket, broker: socket.socket, lock: threading.Lock) -> None:
        try:
            while frame := _frame(broker):
                with lock:
                    client.sendall(frame)
        except OSError:
            pass
        finally:
            client.close()

    def _refusal(self, frame: bytes) -> bytes | None:
        """The answer to a partition's first produce request (versions 9 and 10), which has one partition."""
        api, version, correlation, name_size = struct.unpack_from(">hhih", frame, 4)
        if api != PRODUCE:
            return None
        assert version in (9, 10), version
        at = 14 + max(name_size, 0) + 1
        _, at = _compact(frame, at)  # transactional id
        _, at = _varint(frame, at + 6)  # topics, after acks and time-out
        topic, at = _compact(frame, at)
        _, at = _varint(frame, at)
        (partition,) = struct.unpack_from(">i", frame, at)
        _, at = _varint(frame, at + 4)
        (records,) = struct.unpack_from(">i", frame, at + BEFORE_COUNT)
        if topic != self._topic or partition in self.refused:
            return None
        self.refused[partition] = records
        refusal = struct.pack(">ihqqq", partition, NOT_LEADER_OR_FOLLOWER, -1, -1, -1) + b"\1\0\0"
        body = struct.pack(">i", correlation) + b"\0\2" + bytes([len(topic) + 1]) + topic + b"\2" + refusal + bytes(6)
        return struct.pack(">i", len(body)) + body


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.partition(":")
    return host, int(port)


def _frame(connection: socket.socket) -> bytes:
    """A request or an answer with its length; nothing where the connection has ended."""
    head = _exactly(connection, 4)
    return head and head + _exactly(connection, struct.unpack(">i", head)[0])


def _exactly(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = connection.recv(count - len(got))
        if not piece:
            return b""
        got += piece
    return got


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    """An unsigned variable-length number, and where it ends."""
    value = shift = 0
    while True:
        byte = frame[at]
        at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return value, at


def _compact(frame: bytes, at: int) -> tuple[bytes, int]:
    """A string of the compact form, and where it ends; null is empty."""
    size, at = _varint(frame, at)
    end = at + max(size - 1, 0)
    return frame[at:end], end
