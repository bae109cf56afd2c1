"""Engines for `FakeCuda` that really compute: a function of arrays, or an ONNX file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from pipeline.core.errors import BackendError
from pipeline.infer.backends.tensorrt.slots import bytes_of
from pipeline.models import Model, read_content
from pipeline.models.onnx import check_signature, open_session, runtime_errors
from tests.unit.infer.tensorrt.fake_cuda import FakeCuda, Misuse, Work, array_at

__all__ = ["Columns", "FakeEngine", "doubling", "of_function", "of_onnx"]

Columns = Mapping[str, np.ndarray[Any, Any]]
SCRATCH_BYTES = 64


class FakeEngine:
    """An `Engine`: its contexts queue one kernel, which reads the inputs and writes outputs and scratch memory."""

    def __init__(self, cuda: FakeCuda, model: Model, compute: Callable[[Columns], Columns]) -> None:
        self.cuda = cuda
        self.model = model
        self.compute = compute
        self.contexts = 0

    @property
    def scratch_bytes(self) -> int:
        return SCRATCH_BYTES

    def context(self, bucket: int, addresses: Mapping[str, int], scratch: int, stream: int) -> FakeContext:
        self.cuda.entered("context")
        self.contexts += 1
        return FakeContext(self, bucket, addresses, scratch)

    def close(self) -> None:
        self.cuda.calls.append("end_engine")
        if self.contexts:
            raise Misuse("an engine is ended before its contexts")


class FakeContext:
    def __init__(self, engine: FakeEngine, bucket: int, addresses: Mapping[str, int], scratch: int) -> None:
        self._engine = engine
        self._warm = False
        signature = engine.model.signature
        tensors = {tensor.name: tensor for tensor in (*signature.inputs, *signature.outputs)}
        arrays = {n: array_at(a, (bucket, *tensors[n].shape), tensors[n].dtype) for n, a in addresses.items()}

        def run() -> None:
            answer = engine.compute({tensor.name: arrays[tensor.name] for tensor in signature.inputs})
            for name, value in answer.items():
                arrays[name][:] = value

        self._work = Work(
            f"a run of {bucket} rows",
            run,
            reads=tuple((addresses[t.name], bytes_of(t, bucket)) for t in signature.inputs),
            writes=(*((addresses[t.name], bytes_of(t, bucket)) for t in signature.outputs), (scratch, SCRATCH_BYTES)),
            uses=(self,),
        )

    def enqueue(self, stream: int) -> None:
        cuda = self._engine.cuda
        cuda.entered("enqueue")
        if cuda.is_capturing(stream) and not self._warm:
            raise Misuse("a graph is captured of what has not run once")
        self._warm = True
        cuda.queue(stream, self._work)

    def close(self) -> None:
        self._engine.contexts -= 1
        self._engine.cuda.calls.append("end_context")
        if self._engine.cuda.busy(self):
            raise Misuse("a context is ended while it runs")


def doubling(columns: Columns) -> Columns:
    """What `tests.unit.infer.makers.model_of` declares."""
    return {"y": 2 * columns["x"], "half": columns["x"][:, 0] / 2}


def of_function(cuda: FakeCuda, compute: Callable[[Columns], Columns] = doubling, plan_bytes: int = 1000) -> Any:
    """An `OpenEngine` of a function."""

    def opened(model: Model, device: int, claim: Callable[[int], None]) -> FakeEngine:
        claim(plan_bytes)
        return FakeEngine(cuda, model, compute)

    return opened


def of_onnx(cuda: FakeCuda) -> Any:
    """An `OpenEngine` of the model's own file."""

    def opened(model: Model, device: int, claim: Callable[[int], None]) -> FakeEngine:
        session = open_session(model.file, *read_content(model), ort.SessionOptions())
        check_signature(model, session)
        names = [tensor.name for tensor in model.signature.outputs]

        def compute(columns: Columns) -> Columns:
            try:
                return dict(zip(names, session.run(names, dict(columns)), strict=True))
            except runtime_errors() as error:
                raise BackendError(f"{model.label}: {error}") from error

        claim(model.file.stat().st_size)
        return FakeEngine(cuda, model, compute)

    return opened
