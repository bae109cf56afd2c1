"""What CUDA answers instead of doing what it was asked, and which of our errors that is."""

from __future__ import annotations

from pipeline.core.errors import BackendBusyError, BackendError, DeviceLostError

__all__ = ["CudaFault", "error_of", "is_lost"]

OUT_OF_MEMORY = 2

# After these every further call of the process fails too ("sticky": the context is corrupt), or the device is gone.
# The numbers are cudaError_t's, driver_types.h.
LOST = frozenset(
    {
        *(4, 46, 100, 101, 201, 709),  # unloading, unavailable, none, invalid, no context, a destroyed context
        *(214, 220, 226, 721),  # an uncorrectable ECC or NVLink error, a contained one, leaked tensor memory
        *(700, 702, 710, 714, 715, 716, 717, 718, 719),  # a kernel's illegal access, time-out, assertion, instruction
        *(802, 805, 806, 807, 810, 911, 999),  # system not ready, MPS gone, an external device's, unknown
    }
)


class CudaFault(Exception):
    """A call that did not return cudaSuccess: its number in cudaError_t, the name of that, and the call."""

    def __init__(self, code: int, name: str, call: str) -> None:
        super().__init__(f"{call}: {name} ({code})")
        self.code = code


def is_lost(fault: CudaFault) -> bool:
    """Whether this process cannot use the device any more."""
    return fault.code in LOST


def error_of(fault: CudaFault, what: str) -> BackendError:
    """The error of ``what`` (a model, a step) that the fault is: lost, out of memory for now, or of this batch."""
    if is_lost(fault):
        return DeviceLostError(f"{what}: the device is lost: {fault}")
    if fault.code == OUT_OF_MEMORY:
        return BackendBusyError(f"{what}: out of memory: {fault}")
    return BackendError(f"{what}: {fault}")
