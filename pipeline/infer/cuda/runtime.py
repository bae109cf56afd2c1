"""The calls of the CUDA runtime that the slots make, as a protocol: `CudaBindings` makes them, tests have a fake."""

from __future__ import annotations

from typing import Protocol

__all__ = ["CudaRuntime"]


class CudaRuntime(Protocol):
    """Handles and addresses are plain numbers. Every call may raise `CudaFault`, also for what an earlier one started.

    A thread says with `use` which device its calls are for. Copies, launches and records only queue their work on a
    stream and return; memory they name belongs to the device until what was queued has run.
    """

    def use(self, device: int) -> None:
        """Make ``device`` the calling thread's."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device's memory."""
        ...

    def pin(self, size: int) -> int:
        """Page-locked host memory, which the device copies without the CPU; its content is undefined."""
        ...

    def unpin(self, address: int) -> None: ...

    def allocate(self, size: int) -> int:
        """Device memory, 256-byte aligned; its content is undefined."""
        ...

    def free(self, address: int) -> None: ...

    def stream(self) -> int:
        """A stream that does not wait for the legacy default stream, nor that for it."""
        ...

    def stream_done(self, stream: int) -> bool:
        """Whether all that was queued on it has run."""
        ...

    def end_stream(self, stream: int) -> None: ...

    def event(self, *, timed: bool = False) -> int: ...

    def record(self, event: int, stream: int) -> None:
        """Queue: the event happens when all queued before it has run."""
        ...

    def wait_event(self, stream: int, event: int) -> None:
        """Queue: nothing that follows on the stream runs before the event, as last recorded by now, has happened."""
        ...

    def event_done(self, event: int) -> bool:
        """Whether it has happened since it was last recorded."""
        ...

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Between two timed events that have happened; half a microsecond is its resolution."""
        ...

    def end_event(self, event: int) -> None: ...

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Queue a copy from pinned memory to the device."""
        ...

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Queue a copy from the device to pinned memory."""
        ...

    def begin_capture(self, stream: int) -> None:
        """What this thread queues on the stream from here on becomes a graph instead of running."""
        ...

    def end_capture(self, stream: int) -> int:
        """The graph, ready to launch. Also after an error the stream captures no longer."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue what was captured, with the addresses it was captured with."""
        ...

    def end_graph(self, graph: int) -> None: ...
