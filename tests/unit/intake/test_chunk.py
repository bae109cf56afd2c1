"""A chunk's columns, and what it tells the ledger."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.intake import Chunk, RawColumns
from tests.unit.intake.messages import POLLED_MS, chunk_of, message


def test_columns_are_the_messages_in_order() -> None:
    headers = [("a", b"1"), ("a", None)]
    chunk = chunk_of([message(3, b"x", key=b"k"), message(7, None), message(8, b"yz", headers=headers)])
    assert len(chunk) == 3
    assert chunk.offsets == [3, 7, 8]
    assert chunk.values() == [b"x", None, b"yz"]
    assert chunk.keys() == [b"k", None, None]
    assert chunk.headers() == [None, None, headers]


def test_headers_that_are_alike_are_what_they_were() -> None:
    assert [*chunk_of([message(0), message(1)]).headers()] == [None, None]
    headers: list[list[tuple[str, bytes | None]]] = [[("a", b"1"), ("a", None)], [("a", b"1"), ("a", b"2")]]
    columns = chunk_of([message(at, headers=each) for at, each in enumerate(headers)]).headers()
    assert isinstance(columns, RawColumns) and len(columns) == 2
    assert [columns[0], columns[-1], *columns[1:]] == [headers[0], headers[1], headers[1]]
    assert [(column.values, column.common) for column in columns.columns] == [((b"1",), True), ((None, b"2"), False)]


def test_a_message_without_a_timestamp_has_that_of_the_poll() -> None:
    chunk = chunk_of([message(0, timestamp_ms=1), message(1, timestamp_ms=None), message(2, timestamp_ms=POLLED_MS)])
    assert chunk.timestamps_ms().tolist() == [1, POLLED_MS, POLLED_MS]


def test_its_size_is_that_of_all_it_keeps() -> None:
    alike = [message(0, b"abc", key=b"key", headers=[("a", b"12")]), message(1, None, headers=[("a", b"3")])]
    assert chunk_of(alike).size_bytes == 9
    assert chunk_of([*alike, message(2, b"d"), message(3, headers=[("a", None), ("b", b"4")])]).size_bytes == 11


def test_finishing_tells_which_requests_and_of_which_chunk() -> None:
    told: list[tuple[Chunk, Sequence[int] | slice | None]] = []

    def finish(chunk: Chunk, indices: Sequence[int] | slice | None) -> int:
        told.append((chunk, indices))
        return len(told)

    chunk = chunk_of([message(0), message(1)], finish=finish)
    assert (chunk.finish([1]), chunk.finish()) == (1, 2)
    assert told == [(chunk, [1]), (chunk, None)]


def test_an_empty_chunk_does_not_exist() -> None:
    with pytest.raises(AssertionError, match="empty"):
        Chunk("t", 0, 1, [], polled_ns=0, polled_unix_ms=0.0, finish=lambda chunk, indices: 0)


def test_it_shows_where_it_lies() -> None:
    assert repr(chunk_of([message(5, topic="t", partition=2), message(9)], epoch=4)) == "<Chunk t/2 5..9 epoch 4>"
