"""Which GPUs this machine has, asked for in a way that never crashes where it has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

__all__ = ["Gpu", "Gpus", "look_for_gpus"]

NOT_INSTALLED = "cuda-bindings is not installed: pip install 'sluice[gpu]'"
INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, and what an engine that is built on it depends on."""

    ordinal: int
    name: str
    compute_capability: str
    memory_bytes: int
    driver: str  # the CUDA version it brings
    cuda: str  # of the runtime that is called

    @property
    def device(self) -> str:
        """As ``--device`` names it."""
        return f"cuda:{self.ordinal}"

    def to_dict(self) -> dict[str, Any]:
        """As `sluice devices --json` prints it."""
        return {"device": self.device} | asdict(self)


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs, or in ``reason`` why there is none to use."""

    found: tuple[Gpu, ...]
    reason: str = ""


def look_for_gpus(load: Callable[[str], Any] = import_module) -> Gpus:
    """Ask the CUDA runtime; only error codes come back from where there is no driver or GPU."""
    try:
        api = load("cuda.bindings.runtime")
    except ImportError:
        return Gpus((), NOT_INSTALLED)
    status, count = api.cudaGetDeviceCount()
    if int(status) or not count:
        return Gpus((), _reason(api, int(status)))
    driver, cuda = (_version(ask()) for ask in (api.cudaDriverGetVersion, api.cudaRuntimeGetVersion))
    found = []
    for ordinal in range(count):
        status, about = api.cudaGetDeviceProperties(ordinal)
        if int(status):
            return Gpus((), f"cuda:{ordinal} says nothing of itself: {_text(api, int(status))}")
        name = about.name.decode(errors="replace").rstrip("\0")
        capability = f"{about.major}.{about.minor}"
        found.append(Gpu(ordinal, name, capability, int(about.totalGlobalMem), driver, cuda))
    return Gpus(tuple(found))


def _reason(api: Any, status: int) -> str:
    driver = _version(api.cudaDriverGetVersion())
    if status == INSUFFICIENT_DRIVER and driver == "0.0":
        return "no CUDA driver"
    if status == INSUFFICIENT_DRIVER:
        wanted = _version(api.cudaRuntimeGetVersion())
        return f"the CUDA driver is of CUDA {driver}, too old for CUDA {wanted}"
    if status in (0, NO_DEVICE):
        return "the CUDA driver sees no GPU"
    return f"the CUDA driver fails: {_text(api, status)}"


def _version(answer: tuple[Any, int]) -> str:
    """CUDA says 13.5 as 13050."""
    return f"{answer[1] // 1000}.{answer[1] % 1000 // 10}"


def _text(api: Any, status: int) -> str:
    _, text = api.cudaGetErrorString(api.cudaError_t(status))
    return f"{text.decode(errors='replace')} ({status})"
