"""Plans of models for one GPU: from the cache where it has the very one, else built and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import BackendError
from pipeline.core.places import cache_directory, locked
from pipeline.infer.backends.tensorrt.builder import FLAGS, Progress, build_plan
from pipeline.infer.backends.tensorrt.sealed import Sealed
from pipeline.infer.cuda import Gpu
from pipeline.models import Model, read_content

__all__ = ["Built", "EngineKey", "Engines"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on: another of any of these is another engine."""

    content: str  # sha256 of the ONNX file and of each file of external data
    profiles: tuple[tuple[str, tuple[int, ...]], ...]  # input and shape, of each bucket
    flags: tuple[str, ...]
    tensorrt: str
    gpu: str
    compute_capability: str
    cuda: str
    driver: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def machine(self) -> dict[str, Any]:
        """What a timing cache depends on: the same kernels on the same device."""
        return {name: getattr(self, name) for name in ("tensorrt", "gpu", "compute_capability", "cuda", "driver")}

    @property
    def digest(self) -> str:
        return _digest(self.to_dict())


@dataclass(frozen=True, slots=True)
class Built:
    """A plan and where it came from; ``seconds`` of building, 0 where it was there."""

    plan: bytes = field(repr=False)
    path: Path
    seconds: float


class Engines:
    """The plans of this user's cache. ``trt`` is the TensorRT module; the GPU was probed before."""

    def __init__(self, trt: Any, folder: Path | None = None) -> None:
        self._trt = trt
        self._sealed = Sealed(folder or cache_directory() / "engines")

    def key(self, model: Model, gpu: Gpu, content: bytes, external: dict[str, bytes]) -> EngineKey:
        """The key of the model's engine on that GPU."""
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in external.items()}
        hashes[""] = hashlib.sha256(content).hexdigest()
        profiles = [(t.name, (b, *t.shape)) for b in model.manifest.buckets for t in model.signature.inputs]
        version = f"{self._trt.__name__} {self._trt.__version__}"
        return EngineKey(
            _digest(hashes),
            tuple(profiles),
            FLAGS,
            version,
            gpu.name,
            gpu.compute_capability,
            gpu.cuda,
            gpu.driver,
        )

    def plan(
        self,
        model: Model,
        gpu: Gpu,
        *,
        progress: Progress | None = None,
        cancelled: threading.Event | None = None,
    ) -> Built:
        """The plan of a (verified) model; of several processes that ask for one that is missing, one builds.

        Raises as `build_plan` does, and `BackendError` where the cache cannot be read or trusted. A plan that cannot be
        kept is logged, and not at its path.
        """
        content, external = read_content(model)
        key = self.key(model, gpu, content, external)
        name = f"{key.digest}.plan"
        about, sealed = key.to_dict(), self._sealed
        if (plan := sealed.read(name, about)) is not None:
            return Built(plan, sealed.path(name), 0.0)
        with locked(sealed.path(f".{key.digest}.lock")):
            if (plan := sealed.read(name, about)) is not None:
                return Built(plan, sealed.path(name), 0.0)
            timings_name = f"{_digest(key.machine())}.timings"
            timings = sealed.read(timings_name, key.machine()) or b""
            log.info("building the engine of %s for %s, which may take minutes", model.label, gpu.name)
            began_s = time.monotonic()
            plan, timings = build_plan(
                self._trt, model, content, external, timings=timings, progress=progress, cancelled=cancelled
            )
            seconds, path = time.monotonic() - began_s, sealed.path(name)
            try:
                sealed.write(timings_name, key.machine(), timings)
                sealed.write(name, about, plan)
            except BackendError as error:  # a full disk: it serves from memory, and the next start builds anew
                log.error("the engine of %s is not kept: %s", model.label, error)  # noqa: TRY400 - a line, no traceback
        log.info("the engine of %s is built: %.1f s, %.1f MiB", model.label, seconds, len(plan) / 1024**2)
        return Built(plan, path, seconds)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
