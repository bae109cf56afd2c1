"""The stages of a request and the record a finished batch leaves of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BatchTimes", "Part", "Stage", "Traced"]


class Stage(StrEnum):
    """Where a request's time goes; together they are its end-to-end latency (invariant I5)."""

    KAFKA_DWELL = "kafka_dwell"  # Kafka timestamp -> returned by a poll
    DECODE = "decode"  # polled -> admitted as typed rows
    WINDOW_WAIT = "window_wait"  # admitted -> chosen for a batch
    COPY = "copy"  # chosen -> rows written into the slot
    DEVICE_WAIT = "device_wait"  # slot filled -> the device begins
    COMPUTE = "compute"  # the device begins -> outputs are ready
    ENCODE = "encode"  # outputs ready -> handed to the producer
    PUBLISH = "publish"  # handed over -> acknowledged by the broker
    COMMIT = "commit"  # acknowledged -> the request's offset is committed


class Traced(NamedTuple):
    """A request of a part whose ``traceparent`` is sampled."""

    position: int  # in the part
    request_id: str
    traceparent: bytes  # the client's, well formed (`pipeline.observe.is_sampled`)
    tracestate: bytes | None
    continued: bytes  # what the prediction says, with the request's own span (`pipeline.observe.continue_trace`)
    offset: int


@dataclass(frozen=True, slots=True)
class Part:
    """The requests of one chunk that one batch answered (a split request counts in its last batch)."""

    topic: str
    partition: int
    last_offset: int
    timestamps_ms: np.ndarray[Any, np.dtype[np.int64]]  # Kafka timestamp of each request, Unix
    polled_unix_ms: float
    polled_ns: int
    decoded_ns: int
    traced: tuple[Traced, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Monotonic moments of one batch, in ns, and the parts it answered."""

    model: str  # name/version
    rows: int
    padded_rows: int  # the bucket it ran in
    planned_ns: int
    copied_ns: int
    started_ns: int
    computed_ns: int
    encoded_ns: int
    acked_ns: int
    parts: tuple[Part, ...]
    untraced: int = 0  # sampled requests that `Observer.begin_trace` had no room for
