"""The W3C ``traceparent`` header: is it sampled, and how it goes on in a prediction."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Continued", "continue_trace", "id_bytes", "is_sampled", "nonzero_bits", "split_traceparent"]

# version-trace-span-flags; only version 00 must end there, "ff" and ids of zeros are invalid.
_FORM = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<rest>-[!-~]{0,256})?"
)
_FLAGS_LOW = 54  # the digit that holds the sampled bit
_ODD = frozenset(b"13579bdf")
_KNOWN_FLAGS = 0b11  # sampled, random trace id


@dataclass(frozen=True, slots=True)
class Continued:
    """What the next hop is told, and the id of the span that it names as parent."""

    traceparent: str
    span_id: int


def is_sampled(raw: bytes | None) -> bool:
    """Whether a header is a well-formed traceparent with the sampled flag; anything malformed is not.

    One look at one byte decides for all that are not sampled; only the others are parsed.
    """
    if raw is None or len(raw) <= _FLAGS_LOW or raw[_FLAGS_LOW] not in _ODD or not raw.isascii():
        return False
    return _parse(raw.decode("ascii")) is not None


def nonzero_bits(bits: int) -> int:
    """A random id of a span (64 bits) or a trace (128), never 0."""
    return random.getrandbits(bits) or 1


def continue_trace(traceparent: str, new_id: Callable[[int], int] = nonzero_bits) -> Continued:
    """Decide the span of a request whose traceparent `is_sampled`; raises ``ValueError`` where it is malformed.

    The span is decided before it exists, so that the prediction can name it; it is built when the request ends.
    """
    trace_id, _, flags = split_traceparent(traceparent)
    span_id = new_id(64)
    return Continued(f"00-{trace_id:032x}-{span_id:016x}-{flags & _KNOWN_FLAGS:02x}", span_id)


def id_bytes(traceparent: str) -> tuple[bytes, bytes]:
    """Trace and span id as they go over the wire, of one that `is_sampled`: cut out, not parsed again."""
    return bytes.fromhex(traceparent[3:35]), bytes.fromhex(traceparent[36:52])


def split_traceparent(traceparent: str) -> tuple[int, int, int]:
    """``(trace id, span id, flags)``; raises ``ValueError`` where it is malformed."""
    match = _parse(traceparent)
    if match is None:
        raise ValueError("malformed traceparent")
    return int(match["trace"], 16), int(match["span"], 16), int(match["flags"], 16)


def _parse(traceparent: str) -> re.Match[str] | None:
    match = _FORM.fullmatch(traceparent)
    return None if match and match["version"] == "00" and match["rest"] else match
