"""When the steps of each batch ran on the device, and what share of one kind of step lies beside another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.infer import Backend, Slot
from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.infer.cuda import CudaRuntime

__all__ = ["Batch", "Loop", "bare_loop", "beside", "joined", "length", "session_loop"]

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Batch:
    """Moments of one batch in ms: it began, was copied in, had its turn, was computed, was copied out."""

    begun: float
    copied_in: float
    started: float
    computed: float
    copied_out: float

    @property
    def run(self) -> Span:
        return self.started, self.computed

    @property
    def copies(self) -> tuple[Span, Span]:
        return (self.begun, self.copied_in), (self.computed, self.copied_out)


@dataclass(frozen=True, slots=True)
class Loop:
    """Batches of a loop over the bare engine, in the order they were started, and how long all took by the clock."""

    batches: Sequence[Batch]
    rows: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        return len(self.batches) * self.rows / self.seconds

    @property
    def busy(self) -> float:
        """The share of the time in which a run was on the device, between the first begin and the last end."""
        whole = self.batches[-1].copied_out - self.batches[0].begun
        return length(joined(batch.run for batch in self.batches)) / whole

    @property
    def overlap(self) -> float:
        """The share of all copying that went on beside the run of another batch."""
        copied = beside_run = 0.0
        runs = joined(batch.run for batch in self.batches)
        for batch in self.batches:
            for span in batch.copies:
                copied += span[1] - span[0]
                beside_run += beside(span, runs)
        return beside_run / copied if copied else 0.0


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same moments without overlaps, ascending."""
    whole: list[Span] = []
    for begin, end in sorted(spans):
        if whole and begin <= whole[-1][1]:
            whole[-1] = whole[-1][0], max(whole[-1][1], end)
        else:
            whole.append((begin, end))
    return whole


def length(spans: Iterable[Span]) -> float:
    return sum(end - begin for begin, end in spans)


def beside(span: Span, others: Iterable[Span]) -> float:
    """How much of ``span`` lies within the others, which do not overlap."""
    return sum(max(0.0, min(span[1], end) - max(span[0], begin)) for begin, end in others)


def bare_loop(
    backend: TensorRt, cuda: CudaRuntime, slots: Sequence[Slot], rows: int, seconds: float, now_s: Callable[[], float]
) -> Loop:
    """Run slot after slot for ``seconds``, as many at a time as there are; the backend is timed, and warm.

    The rows stay in the slots, so that nothing but the engine and its copies takes time.
    """
    base = cuda.event(timed=True)
    cuda.record(base, backend.gpu_slots[0].stream)
    while not cuda.event_done(base):
        pass
    running: deque[Slot] = deque()
    batches: list[Batch] = []
    began_s = now_s()
    free = deque(slots)
    while running or now_s() - began_s < seconds:
        if free and now_s() - began_s < seconds:
            slot = free.popleft()
            backend.run(slot, rows)
            running.append(slot)
            continue
        slot = running.popleft()
        backend.wait(slot)
        batches.append(Batch(*(cuda.elapsed_ms(base, mark) for mark in backend.gpu_slots[slot.index].marks())))
        free.append(slot)
    took_s = now_s() - began_s
    cuda.end_event(base)
    return Loop(batches, rows, took_s)


def session_loop(
    backend: Backend, slots: Sequence[Slot], rows: int, seconds: float, now_s: Callable[[], float]
) -> float:
    """Rows a second of a backend whose runs copy in and out themselves, slot after slot for ``seconds``."""
    began_s, ran = now_s(), 0
    while now_s() - began_s < seconds:
        slot = slots[ran % len(slots)]
        backend.run(slot, rows)
        backend.wait(slot)
        ran += 1
    return ran * rows / (now_s() - began_s)
