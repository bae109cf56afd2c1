"""A header whose name is not UTF-8: any client can send it, no Python client can, and the binding chokes on it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from pipeline.admit import Admission
from pipeline.core.limits import Limits
from pipeline.intake import UNREADABLE
from pipeline.publish.terminal import dead_letter_headers, notice_headers
from tests.unit.infer.makers import model_of
from tests.unit.intake.messages import chunk_of
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import Status

# rd_kafka_vtype_t of librdkafka's public header: how rd_kafka_producev names its arguments.
END, TOPIC, PARTITION, VALUE, FLAGS, HEADER = 0, 1, 3, 4, 7, 9
COPY = 2
VALUES = (b"\0" * 8, b"\0" * 8, b"\0" * 8, b"\0" * 8)
NAMES = (b"fine", b"na\xffme", b"\xff", b"fine too")


def librdkafka() -> ctypes.CDLL:
    """The library the binding has loaded."""
    paths = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    (path,) = {path for path in paths if "librdkafka" in path}
    return ctypes.CDLL(path)


def produce(bootstrap: str) -> None:
    """One message per name, each with a header of that name, by librdkafka without the binding."""
    library = librdkafka()
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    conf, error = ctypes.c_void_p(library.rd_kafka_conf_new()), ctypes.create_string_buffer(512)
    assert library.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), error, 512) == 0
    producer = ctypes.c_void_p(library.rd_kafka_new(0, conf, error, 512))
    for name, value in zip(NAMES, VALUES, strict=True):
        raw_type = (HEADER, b"content-type", b"application/octet-stream", ctypes.c_ssize_t(24))
        arguments = (TOPIC, b"m.requests", PARTITION, 0, VALUE, value, ctypes.c_size_t(8), FLAGS, COPY, *raw_type)
        assert library.rd_kafka_producev(producer, *arguments, HEADER, name, b"x", ctypes.c_ssize_t(1), END) == 0
    assert library.rd_kafka_flush(producer, 10_000) == 0
    library.rd_kafka_destroy(producer)


@pytest.fixture
def messages() -> Iterator[list[Message]]:
    """The messages, as the intake polls them from librdkafka's mock cluster."""
    cluster = Producer({"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 0})
    bootstrap = str(next(iter(cluster.list_topics("m.requests", timeout=10).brokers.values())))
    host = bootstrap.partition("/")[0]
    produce(host)
    consumer = Consumer({"bootstrap.servers": host, "group.id": "g", "auto.offset.reset": "earliest", "log_level": 0})
    consumer.assign([TopicPartition("m.requests", 0, 0)])
    yield consumer.consume(len(NAMES), 10)
    consumer.close()


def test_it_is_rejected_and_harms_no_neighbour(messages: list[Message]) -> None:
    rejected: list[tuple[int, BadRequest]] = []
    chunk = chunk_of(messages)
    admit = Admission(model_of(), Limits(), RequestLimits(), reject=lambda chunk, bad: rejected.extend(bad))
    (admitted,) = admit(chunk)
    assert [index for index, _ in rejected] == [1, 2]
    assert {why.code for _, why in rejected} == {Code.BAD_HEADER}
    assert list(admitted.indices) == [0, 3]
    for index, why in rejected:
        letter = dead_letter_headers(chunk, index, "m/1", why.code, why.reason, "admit")
        assert [name for name, _ in letter[-3:]] == ["x-error-code", "x-error-reason", "x-error-stage"]
        assert dict(notice_headers(chunk, index, "m/1", Status.REJECTED))["request-id"] == f"m.requests/0/{index}"


def test_one_request_alone_can_be_asked_for_its_headers_again_and_again(messages: list[Message]) -> None:
    chunk = chunk_of(messages)
    for _ in range(3):
        assert [chunk.headers_of(index) is UNREADABLE for index in range(4)] == [False, True, True, False]
        assert [headers is UNREADABLE for headers in chunk.headers()] == [False, True, True, False]
