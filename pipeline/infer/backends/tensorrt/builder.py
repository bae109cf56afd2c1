"""ONNX to a serialized engine: parse, check, one optimisation profile per bucket, build."""

from __future__ import annotations

import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import BackendBusyError, BackendError, ModelError
from pipeline.infer.backends.tensorrt.module import log_of
from pipeline.models import Model
from topics.signature import Tensor

__all__ = ["FLAGS", "Progress", "build_plan"]

Progress = Callable[[str, int, int], None]
"""What is being done, and how many of how many steps of the whole are."""

FLAGS = ("strongly-typed", "no-tf32", "user-allocation")
"""What `build_plan` asks for in every engine, for its key.

Strongly typed: each layer computes in the types that the ONNX says, so float32 is no TF32 either; float16, bfloat16,
int8 and float8 are casts and Q/DQ nodes of the file. User allocation, where there is that flag: graphs can be captured.
"""
ERRORS_TOLD = 5  # of the parser, in one line


def build_plan(
    trt: Any,
    model: Model,
    content: bytes,
    external: Mapping[str, bytes],
    *,
    timings: bytes = b"",
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> tuple[bytes, bytes]:
    """The serialized engine of ``model``, whose file holds ``content``, and the timing cache after it.

    ``trt`` is the TensorRT module. It takes minutes for a large model, gives the GIL away meanwhile, and is given up
    soon after ``cancelled`` is set. Raises `ModelError` where the signature is not the declared one, `BackendError`
    for what TensorRT cannot parse or build, with the names of the nodes.
    """
    said = log_of(trt)
    try:
        builder = trt.Builder(said.logger)
    except TypeError as error:  # its way to say that it finds no device, or not the driver it needs
        raise BackendError(f"TensorRT does not start: {said.take()}") from error
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # where it is not the only way
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, said.logger)
    with _laid_out(model.file.name, content, external) as path:
        if not parser.parse_from_file(str(path)):
            raise BackendError(f"{model.label}: TensorRT cannot take it: {_parser_errors(parser) or said.take()}")
    _check_signature(trt, model, network)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if allocation := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None):
        config.set_flag(allocation)
    for bucket in model.manifest.buckets:
        config.add_optimization_profile(_profile(builder, model.signature.inputs, bucket))
    monitor = _monitor(trt, progress, cancelled or threading.Event())
    config.progress_monitor = monitor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the RTX edition keeps no timings, and says so
        config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            told = said.take()
            kind = BackendBusyError if "OutOfMemory" in told or "out of memory" in told else BackendError
            raise kind(f"{model.label}: TensorRT cannot build it: {told}")
        kept = config.get_timing_cache()
        return bytes(plan), b"" if kept is None else bytes(kept.serialize())


@contextmanager
def _laid_out(name: str, content: bytes, external: Mapping[str, bytes]) -> Iterator[Path]:
    """A file for the parser, and those it refers to beside it: bytes whose hashes were checked, in a folder of ours."""
    with tempfile.TemporaryDirectory(prefix="sluice-engine-") as folder:
        for place, data in {**external, name: content}.items():
            path = Path(folder) / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield Path(folder) / name


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = []
    for error in errors[:ERRORS_TOLD]:
        operator = error.node_operator()
        name = error.node_name() or f"number {error.node()}"
        where = f"node {name} ({operator}): " if operator else ""
        told.append(where + " ".join(error.desc().split()))
    left = len(errors) - ERRORS_TOLD
    return "; ".join([*told, *([f"and {left} more"] if left > 0 else [])])[:1000]


def _check_signature(trt: Any, model: Model, network: Any) -> None:
    """The names and types that the slots will copy, and the shapes as far as TensorRT knows them before it builds."""
    for side, declared, found in (
        ("inputs", model.signature.inputs, [network.get_input(i) for i in range(network.num_inputs)]),
        ("outputs", model.signature.outputs, [network.get_output(i) for i in range(network.num_outputs)]),
    ):
        fine = len(declared) == len(found) and all(map(_agrees, [trt] * len(found), declared, found))
        if not fine:
            says, has = (", ".join(map(str, declared)), ", ".join(_shown(trt, tensor) for tensor in found))
            raise ModelError(f"{model.path}: the manifest declares {side} {says}, but TensorRT has {has}")


def _agrees(trt: Any, declared: Tensor, found: Any) -> bool:
    shape = tuple(found.shape)
    return (
        declared.name == found.name
        and declared.dtype == _dtype(trt, found)
        and len(shape) == 1 + len(declared.shape)
        and shape[0] == -1
        and all(size in (-1, wanted) for size, wanted in zip(shape[1:], declared.shape, strict=True))
    )


def _dtype(trt: Any, tensor: Any) -> np.dtype[Any] | None:
    try:
        kind: type[np.generic] = trt.nptype(tensor.dtype)
    except TypeError:  # bfloat16 and smaller: NumPy has no such type
        return None
    return np.dtype(kind)


def _shown(trt: Any, tensor: Any) -> str:
    return f"{tensor.name} {_dtype(trt, tensor) or tensor.dtype} {list(tensor.shape)[1:]}"


def _profile(builder: Any, inputs: tuple[Tensor, ...], bucket: int) -> Any:
    """Exactly this batch size: batches are padded to it, and the kernels are chosen for it."""
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        shape = (bucket, *tensor.shape)
        profile.set_shape(tensor.name, shape, shape, shape)
    return profile


def _monitor(trt: Any, progress: Progress | None, cancelled: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the base comes with the module
        """Phases are nested: the outermost counts, the innermost says what is being done."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outermost: str | None = None
            self._steps = self._done = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if self._outermost is None:
                self._outermost, self._steps, self._done = phase, steps, 0
            self._tell(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase == self._outermost:
                self._done = step + 1
                self._tell(phase)
            return not cancelled.is_set()

        def phase_finish(self, phase: str) -> None:
            if phase == self._outermost:
                self._done, self._outermost = self._steps, None
                self._tell(phase)

        def _tell(self, phase: str) -> None:
            if progress is not None:
                progress(phase, self._done, self._steps)

    return Monitor()
