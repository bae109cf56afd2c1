"""A clock that stands still until told, and batches made of durations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from pipeline.observe import BatchTimes, Part, Traced

START_NS = 5_000_000_000
START_UNIX_MS = 1_790_000_000_000.0


class StoppedClock:
    """Both readings of one moment that only `advance` moves; their origins have nothing in common."""

    def __init__(self) -> None:
        self.ns = START_NS

    def now_ns(self) -> int:
        return self.ns

    def unix_ms(self) -> float:
        return START_UNIX_MS + (self.ns - START_NS) / 1e6

    def advance(self, ms: float) -> None:
        self.ns += round(ms * 1e6)


def run_batch(
    clock: StoppedClock,
    offsets: Sequence[int] = (0,),
    *,
    model: str = "digits/1",
    partition: int = 0,
    requests: int = 4,
    sent_ms_ago: Sequence[float] | None = None,
    stages_ms: Sequence[float] = (1, 2, 3, 4, 5, 6, 7),
    traced: tuple[Traced, ...] = (),
) -> BatchTimes:
    """Poll, and pass decode to publish in the durations given; the clock ends at the acknowledgement.

    One part of ``requests`` requests per offset, each sent 10 ms before the poll or as told one by one.
    """
    polled_ns, polled_unix_ms = clock.now_ns(), clock.unix_ms()
    moments = [polled_ns + round(ms * 1e6) for ms in accumulate(stages_ms)]
    clock.ns = moments[-1]
    ago_ms = np.array(sent_ms_ago if sent_ms_ago is not None else [10.0] * requests)
    timestamps_ms = np.round(polled_unix_ms - ago_ms).astype(np.int64)
    topic = f"{model.partition('/')[0]}.requests"
    parts = tuple(
        Part(topic, partition, offset, timestamps_ms, polled_unix_ms, polled_ns, moments[0], traced)
        for offset in offsets
    )
    planned, copied, started, computed, encoded, acked = moments[1:]
    return BatchTimes(model, ago_ms.size * len(parts), 32, planned, copied, started, computed, encoded, acked, parts)
