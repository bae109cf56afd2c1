"""What requests ask for: from their headers and the model's SLO to the order they are served in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.admit import Admitted
from pipeline.admit.admission import NO_DEADLINE_MS
from pipeline.window.ordered import NEVER_NS, Asked, IntArray
from topics.records import PRIORITY_DEFAULT

__all__ = ["PATIENCE_NS", "PRIORITY_NS", "are_hasty", "asked_of", "keys_of", "of_turn", "turn_ns"]

# Order of service, the smaller first: min(deadline, arrival + patience) - (priority - 5) * PRIORITY_NS, where patience
# is the model's SLO, else PATIENCE_NS. So a request is overtaken only by those that arrive at most patience + 9 *
# PRIORITY_NS after it (1.9 s without an SLO) or whose deadline lies in their past: however many come, nothing starves.
PATIENCE_NS = 1_000_000_000  # a deadline in the far future, or none, does not wait longer than this for its turn
PRIORITY_NS = 100_000_000  # a level: above what a window holds, so that it decides among those that wait together
_MS = 1_000_000


def asked_of(admitted: Admitted, slo_ms: float | None, unix_ns: int) -> Asked | None:
    """What these requests ask for; None where nothing but their arrival orders them.

    A request's deadline is its header's, else its arrival in Kafka and the model's SLO. ``unix_ns`` is the monotonic
    moment of the Unix epoch. Timestamps ahead of our clock count as the moment of the poll.
    """
    priorities = _priorities(admitted)
    if slo_ms is None and admitted.deadlines_ms is None and priorities is None:
        return None
    chunk = admitted.chunk
    deadline_ns = np.full(len(admitted), NEVER_NS)
    due_ns = np.full(len(admitted), chunk.polled_ns + PATIENCE_NS)
    if slo_ms is not None:
        stamps_ms = np.minimum(_of(chunk.timestamps_ms(), admitted.indices), int(chunk.polled_unix_ms))
        due_ns = stamps_ms * _MS + (unix_ns + round(slo_ms * _MS))
        deadline_ns = due_ns
    if admitted.deadlines_ms is not None:
        far_ms = (NEVER_NS - abs(unix_ns)) // _MS - 1  # in ns it still fits 64 bits
        said_ns = admitted.deadlines_ms.clip(max=far_ms) * _MS + unix_ns
        deadline_ns = np.where(admitted.deadlines_ms == NO_DEADLINE_MS, deadline_ns, said_ns)
        due_ns = np.minimum(deadline_ns, due_ns)
    order_ns = due_ns if priorities is None else due_ns - (priorities - PRIORITY_DEFAULT) * PRIORITY_NS
    return Asked(order_ns, due_ns, deadline_ns, keys_of(admitted))


def are_hasty(admitted: Admitted, within_ms: float) -> bool:
    """Whether a request says a deadline less than ``within_ms`` after its arrival in Kafka."""
    if admitted.deadlines_ms is None:
        return False
    return bool((admitted.deadlines_ms - _of(admitted.chunk.timestamps_ms(), admitted.indices) < within_ms).any())


def of_turn(admitted: Admitted) -> Asked:
    """Of requests that ask for nothing but their turn, among others that do."""
    due_ns = np.full(len(admitted), turn_ns(admitted))
    return Asked(due_ns, due_ns, np.full(len(admitted), NEVER_NS), keys_of(admitted))


def turn_ns(admitted: Admitted) -> int:
    """By when requests without a deadline have their turn."""
    return admitted.chunk.polled_ns + PATIENCE_NS


def _priorities(admitted: Admitted) -> IntArray | None:
    headers = admitted.headers
    if "priority" not in headers.own and headers.common.priority == PRIORITY_DEFAULT:
        return None
    return np.fromiter(headers.column("priority"), np.int64, len(admitted))


def keys_of(admitted: Admitted) -> IntArray:
    """(requests,): a hash of each one's key, 0 where there is none."""
    keys = admitted.chunk.keys()
    return np.fromiter(
        (0 if (k := keys[i]) is None else hash(k) or 1 for i in admitted.indices), np.int64, len(admitted)
    )


def _of(column: IntArray, indices: Sequence[int]) -> IntArray:
    return column[indices.start : indices.stop] if isinstance(indices, range) else column[list(indices)]
