"""Requests with a header whose name is not UTF-8: any client can send them, no Python client can."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer

__all__ = ["NAMES", "mock_broker", "produce_named"]

# rd_kafka_vtype_t of librdkafka's public header: how rd_kafka_producev names its arguments.
END, TOPIC, PARTITION, VALUE, FLAGS, HEADER = 0, 1, 3, 4, 7, 9
COPY = 2
NAMES = (b"fine", b"na\xffme", b"\xff", b"fine too")


def produce_named(bootstrap: str, topic: str, value: bytes, names: Sequence[bytes] = NAMES) -> None:
    """A raw request per name, each with a header of that name, by librdkafka without the binding."""
    library = _librdkafka()
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    conf, error = ctypes.c_void_p(library.rd_kafka_conf_new()), ctypes.create_string_buffer(512)
    assert library.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), error, 512) == 0
    producer = ctypes.c_void_p(library.rd_kafka_new(0, conf, error, 512))
    for name in names:
        raw_type = (HEADER, b"content-type", b"application/octet-stream", ctypes.c_ssize_t(24))
        body = (VALUE, value, ctypes.c_size_t(len(value)), FLAGS, COPY)
        arguments = (TOPIC, topic.encode(), PARTITION, 0, *body, *raw_type)
        assert library.rd_kafka_producev(producer, *arguments, HEADER, name, b"x", ctypes.c_ssize_t(1), END) == 0
    assert library.rd_kafka_flush(producer, 10_000) == 0
    library.rd_kafka_destroy(producer)


def mock_broker(topic: str) -> tuple[Producer, str]:
    """A mock cluster of librdkafka's with ``topic``: what owns it, and its address."""
    cluster = Producer({"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 0})
    address = str(next(iter(cluster.list_topics(topic, timeout=10).brokers.values())))
    return cluster, address.partition("/")[0]


def _librdkafka() -> ctypes.CDLL:
    """The library the binding has loaded."""
    paths = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    (path,) = {path for path in paths if "librdkafka" in path}
    return ctypes.CDLL(path)
