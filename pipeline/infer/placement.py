"""Which device runs a model: ``auto``, ``cpu`` or ``cuda:N``, and the backend that runs it there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.core.errors import BackendError, ConfigError
from pipeline.infer.backend import Backend
from pipeline.infer.backends import backend_for
from pipeline.infer.backends.tensorrt import find_tensorrt
from pipeline.infer.cuda import Gpus, look_for_gpus
from pipeline.infer.ladder import Answer, Ladder
from pipeline.models import Model, rungs_of

__all__ = ["Place", "gpu_of", "place", "placed"]

log = logging.getLogger(__name__)

CPU, GPU = "onnxruntime", "tensorrt"
"""Backends that run the same ONNX file, the one on the CPU and the other on a GPU."""

ON_GPU = MappingProxyType({"onnxruntime_cuda": CPU, "torch_cuda": "torch"})
"""Backends of a GPU beside TensorRT, for models that ask for them, and what runs the same on the CPU."""


def gpu_of(device: str, gpus: Gpus) -> int:
    """The number of the GPU that ``cuda:N`` names. Raises `ConfigError` for no name, `BackendError` for no GPU."""
    if not re.fullmatch(r"cuda:\d{1,3}", device):
        raise ConfigError(f"--device {device}: no GPU is called so; they are cuda:0, cuda:1, ...")
    number = int(device.partition(":")[2])
    if not gpus.found:
        raise BackendError(f"--device {device}: {gpus.reason}")
    if number >= len(gpus.found):
        there = ", ".join(f"{gpu.device} ({gpu.name})" for gpu in gpus.found)
        raise BackendError(f"--device {device}: there is none; there are: {there}")
    return number


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs: in which backend, on which GPU if on one, and why not on a GPU if it would have been."""

    backend: str
    gpu: int | None = None
    why: str = ""


def place(
    backend: str,
    device: str,
    *,
    look: Callable[[], Gpus] = look_for_gpus,
    tensorrt: Callable[[], str | None] = find_tensorrt,
) -> Place:
    """Where a model of ``backend`` runs when it is told ``device``.

    ``cpu`` runs there what would run on a GPU; ``cuda:N`` has TensorRT run what ONNX Runtime would on the CPU, and
    torch its own, or says in a `BackendError` why not. With ``auto`` a model of TensorRT has the first GPU, and the CPU
    where there is none; any other model stays where it is.
    """
    if device == "cpu":
        return Place(CPU if backend == GPU else ON_GPU.get(backend, backend))
    if device == "auto" and backend != GPU:
        return Place(backend)
    gpus = look()
    if device == "auto":
        if gpus.found and tensorrt():
            return Place(GPU, 0)
        return Place(CPU, why=gpus.reason or "TensorRT is not installed")
    number = gpu_of(device, gpus)
    for name, on_cpu in ON_GPU.items():
        if backend == name or (backend == on_cpu != CPU):
            return Place(name, number)
    if backend not in (CPU, GPU):
        raise BackendError(f"--device {device}: backend {backend!r} does not run there")
    if not tensorrt():
        raise BackendError(f"--device {device}: TensorRT is not installed: pip install 'sluice[gpu]'")
    return Place(GPU, number)


def placed(model: Model, device: str) -> Backend:
    """An unloaded backend for the model on that device, with all of its ladder. Raises `BackendError`, `ModelError`."""
    full, ladder = _placed(model, device), model.manifest.ladder
    if not ladder:
        return full
    outputs = model.signature.outputs
    unset = {tensor.name: tensor.empty(1)[0] for tensor in outputs}  # each batch that was remembered brings its own
    answers = [Answer(unset if rung.answer is None else rung.row(outputs)) for rung in ladder if rung.model is None]
    return Ladder(full, [(rung, _placed(rung, device)) for rung in rungs_of(model)], answers)


def _placed(model: Model, device: str) -> Backend:
    where = place(model.manifest.backend, device)
    if where.why:
        log.warning("%s runs in ONNX Runtime on the CPU: %s", model.label, where.why)
    return backend_for(where.backend, where.gpu)
