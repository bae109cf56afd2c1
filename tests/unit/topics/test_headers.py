"""What a client does with a record whose header it cannot read: it tells, and reads on."""

from __future__ import annotations

import pytest

from pipeline.cli.deadletters import DeadLetter
from tests.hostile.unreadable import NAMES, mock_broker, produce_named
from topics import Answer
from topics.client import Reader
from topics.connect import Connection
from topics.headers import UNREADABLE, headers_of


def test_a_record_with_an_unreadable_header_name_is_told_and_read_past() -> None:
    _cluster, host = mock_broker("m.predictions")
    produce_named(host, "m.predictions", b"value")
    with Reader(Connection(host), "m.predictions", "earliest", to_end=True) as reader:
        messages = list(reader.read_to_end())
    assert len(messages) == len(NAMES)
    for message in messages:
        with pytest.raises(ValueError, match=r"status.* is missing"):
            Answer.of(message)
    letters = [DeadLetter.of(message) for message in messages]
    assert {letter.value for letter in letters} == {b"value"}
    assert [[name for name, _ in letter.headers] for letter in letters] == [
        ["content-type", "fine"], [], [], ["content-type", "fine too"]
    ]  # fmt: skip
    assert [headers is UNREADABLE for headers in headers_of(messages)] == [False, True, True, False]
