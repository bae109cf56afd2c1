"""Which requests have been asked before: the same id and the same body, within a window."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from pipeline.admit.headers import HeaderColumns, RequestHeaders
from pipeline.commit import Ledger, TopicPartitionKey
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.intake import Chunk

__all__ = ["Duplicates"]

log = logging.getLogger(__name__)

DIGEST_BYTES = 16  # two bodies of one id that collide: 2**64 tries, and only its own client is harmed


class _Seen(NamedTuple):
    """A request that is or was answered, the first of its kind in the window."""

    key: TopicPartitionKey
    epoch: int
    offset: int
    deadline_ms: float | None
    at_ns: int  # monotonic


class Duplicates:
    """Remembers requests with a ``request-id`` of their own for ``window_s`` from when they were read. Any thread.

    A duplicate has the model, id, content type and value of one that is remembered: it is finished without an outcome
    of its own. None is lost by that:

    - An original counts only under the assignment it came with, where it is answered or in flight, and so uncommitted:
      if it is lost then, another worker reads it. Nor can two requests be dropped each for the other, by two workers:
      the one was in flight when the other was dropped, so neither could be the first. One that is read again comes with
      a new assignment and is no duplicate of itself.
    - While it is in flight it counts only for duplicates with no later deadline than its own: it may expire. A deadline
      is the header's, else the arrival in Kafka and the model's SLO, where it has one.
    - One that gets anything but a prediction is forgotten (`forget`): who asks again is answered, a replayed dead
      letter too. A duplicate read until then shares its outcome.

    At most ``requests_max`` are remembered: over that the oldest are forgotten early, which is logged once.
    """

    def __init__(self, window_s: float, requests_max: int, *, ledger: Ledger, clock: Clock = SYSTEM_CLOCK) -> None:
        self._window_ns = int(window_s * 1e9)
        self._requests_max = requests_max
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()  # by digest, the oldest first
        self._told = False

    def __len__(self) -> int:
        return len(self._seen)

    def find(
        self,
        chunk: Chunk,
        indices: Sequence[int],
        headers: HeaderColumns,
        *,
        slo_ms: float | None = None,
    ) -> list[int]:
        """Positions in ``indices`` of duplicates; the others are remembered. ``headers`` are of the same requests."""
        content_type = headers.common.codec.content_type
        asked = [
            (position, digest)
            for position, (index, request_id) in enumerate(zip(indices, headers.column("request_id"), strict=True))
            if (digest := _digest(chunk, index, content_type, request_id)) is not None
        ]
        if not asked:
            return []
        key, now_ns = (chunk.topic, chunk.partition), self._clock.now_ns()
        stamps = chunk.timestamps_ms() if slo_ms is not None else None
        deadlines_ms = [*headers.column("deadline_ms")]
        again: list[int] = []
        with self._lock:
            self._drop_old(now_ns)
            for position, digest in asked:
                deadline_ms: float | None = deadlines_ms[position]
                if deadline_ms is None and stamps is not None and slo_ms is not None:
                    # One ahead of our clock counts as the moment of the poll, as it does in the window.
                    deadline_ms = min(int(stamps[indices[position]]), int(chunk.polled_unix_ms)) + slo_ms
                seen = self._seen.get(digest)
                if seen is not None and self._counts(seen, deadline_ms):
                    again.append(position)
                    continue
                self._seen[digest] = _Seen(key, chunk.epoch, chunk.offsets[indices[position]], deadline_ms, now_ns)
                self._seen.move_to_end(digest)
                if len(self._seen) > self._requests_max:
                    self._seen.popitem(last=False)
                    self._tell_full()
        return again

    def forget(self, chunk: Chunk, index: int, headers: RequestHeaders) -> None:
        """This request gets no prediction. Call it before the ledger has it finished."""
        digest = _digest(chunk, index, headers.codec.content_type, headers.request_id)
        if digest is None:
            return
        source = (chunk.topic, chunk.partition), chunk.epoch, chunk.offsets[index]
        with self._lock:
            if (seen := self._seen.get(digest)) is not None and seen[:3] == source:
                del self._seen[digest]

    def _counts(self, seen: _Seen, deadline_ms: float | None) -> bool:
        if self._ledger.epoch(seen.key) != seen.epoch:
            return False
        if seen.deadline_ms is None or (deadline_ms is not None and deadline_ms <= seen.deadline_ms):
            return True
        return self._ledger.is_open(seen.key, seen.epoch, seen.offset) is False

    def _drop_old(self, now_ns: int) -> None:
        while self._seen and now_ns - next(iter(self._seen.values())).at_ns >= self._window_ns:
            self._seen.popitem(last=False)

    def _tell_full(self) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "more than %d requests with an id within %g s: the oldest are forgotten early, and their duplicates "
                "answered",
                self._requests_max,
                self._window_ns / 1e9,
            )


def _digest(chunk: Chunk, index: int, content_type: str, request_id: str | None) -> bytes | None:
    """Of what makes a request the same as another; None for one without an id, or without a value."""
    value = chunk.values()[index]
    if request_id is None or value is None:
        return None
    name = f"{chunk.topic}\n{content_type}\n{len(request_id)}\n{request_id}"
    digest = blake2b(name.encode(), digest_size=DIGEST_BYTES)
    digest.update(value)
    return digest.digest()
