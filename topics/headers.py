"""Headers of messages as they were polled, also where the binding cannot give them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from confluent_kafka import Message

from topics.records import Headers

__all__ = ["UNREADABLE", "RawHeaders", "headers_of"]

RawHeaders = Headers | None
"""Headers as librdkafka gives them: None where there are none, names may repeat, a value may be null."""

UNREADABLE: RawHeaders = []
"""Stands, by identity, for headers of which a name is not UTF-8: librdkafka's binding cannot give them."""


def headers_of(messages: Sequence[Message[Any, Any]]) -> list[RawHeaders]:
    """The messages' headers, `UNREADABLE` where they are."""
    found: list[RawHeaders] = []
    # By map(), which looks whether a C function has set an error; a direct call may not and go on with it.
    left = cast(Iterator[RawHeaders], map(Message.headers, messages))
    while True:
        try:
            found.extend(left)  # what was read before an error stays
        except (SystemError, UnicodeDecodeError):
            # The binding fails once, then gives tuples with a null pointer for a name: looking at one crashes.
            messages[len(found)].set_headers(UNREADABLE)  # type: ignore[arg-type]
            found.append(UNREADABLE)
        else:
            return found
