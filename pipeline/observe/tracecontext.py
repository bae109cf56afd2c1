"""The W3C ``traceparent`` header: is it sampled, and how it goes on in a prediction."""

from __future__ import annotations

import random
import re
from binascii import unhexlify
from collections.abc import Callable

__all__ = ["continue_trace", "id_bytes", "is_sampled", "nonzero_bits"]

# version-trace-span-flags; "ff" and ids of zeros are invalid, and only a later version than 00 may say more.
_FORM = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,256})?"
)
_FLAGS_LOW = 54  # the digit that holds the sampled bit
_ODD = frozenset(b"13579bdf")
_RANDOM_ID = frozenset(b"37bf")  # with the flag beside the sampled bit, which is passed on


def is_sampled(raw: bytes | None) -> bool:
    """Whether a header is a well-formed traceparent with the sampled flag; anything malformed is not.

    One look at one byte decides for all that are not sampled; only the others are parsed.
    """
    if raw is None or len(raw) <= _FLAGS_LOW or raw[_FLAGS_LOW] not in _ODD:
        return False
    return _FORM.fullmatch(raw) is not None


def nonzero_bits(bits: int) -> int:
    """A random id of a span (64 bits) or a trace (128), never 0."""
    return random.getrandbits(bits) or 1


def continue_trace(traceparent: bytes, new_id: Callable[[int], int] = nonzero_bits) -> bytes:
    """What the next hop is told of a request whose traceparent `is_sampled`; raises ``ValueError`` for any other.

    It names the request's span, which is decided before it exists and built when the request ends.
    """
    if not is_sampled(traceparent):
        raise ValueError("malformed traceparent, or not sampled")
    flags = b"03" if traceparent[_FLAGS_LOW] in _RANDOM_ID else b"01"
    return b"00-%b-%016x-%b" % (traceparent[3:35], new_id(64), flags)


def id_bytes(traceparent: bytes) -> tuple[bytes, bytes]:
    """Trace and span id as they go over the wire, of one that `is_sampled`."""
    return unhexlify(traceparent[3:35]), unhexlify(traceparent[36:52])
