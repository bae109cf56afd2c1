"""What is asked of TensorRT to run an engine, which needs a GPU: calls on objects that have just its methods."""

from __future__ import annotations

from typing import Any
from unittest.mock import NonCallableMock, call

import pytest
import tensorrt_rtx_bindings as trt

from pipeline.core.errors import BackendError
from pipeline.infer.backends.tensorrt.engine import TensorRtEngine
from pipeline.models import Model
from tests.unit.infer.makers import model_of

ADDRESSES = {"x": 4096, "y": 8192, "half": 16384}
SCRATCH, STREAM = 32768, 7


class Runtime:
    """TensorRT's, of one engine that makes one context; all their calls are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        self.context = NonCallableMock(spec_set=trt.IExecutionContext)
        self.context.infer_shapes.return_value = []
        self.context.get_tensor_shape.side_effect = lambda name: {"y": (8, 2), "half": (8,)}[name]
        self.engine = NonCallableMock(spec_set=trt.ICudaEngine, device_memory_size_v2=512)
        self.engine.create_execution_context.return_value = self.context
        self.runtime = NonCallableMock(spec_set=trt.Runtime)
        self.runtime.deserialize_cuda_engine.return_value = self.engine
        for name, value in answers.items():
            of = self.context if hasattr(trt.IExecutionContext, name) else self.engine
            setattr(getattr(of, name), "side_effect" if isinstance(value, Exception) else "return_value", value)
        monkeypatch.setattr(trt, "Runtime", lambda logger: self.runtime)

    def load(self, model: Model | None = None) -> TensorRtEngine:
        return TensorRtEngine(trt, model or model_of(), b"plan")


def test_a_context_is_bound_to_its_profile_shapes_addresses_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(monkeypatch)
    engine = runtime.load()
    assert engine.scratch_bytes == 512
    context = engine.context(8, ADDRESSES, SCRATCH, STREAM)
    runtime.engine.create_execution_context.assert_called_once_with(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    calls = runtime.context.mock_calls
    assert call.set_device_memory(SCRATCH, 512) in calls
    bound = [
        call.set_optimization_profile_async(0, STREAM),
        call.set_input_shape("x", (8, 2)),
        *(call.set_tensor_address(name, address) for name, address in ADDRESSES.items()),
        call.infer_shapes(),
    ]
    assert [each for each in calls if each in bound] == bound
    context.enqueue(STREAM)
    assert runtime.context.mock_calls[-1] == call.execute_async_v3(STREAM)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"create_execution_context": None}, "makes no context"),
        ({"set_optimization_profile_async": False}, "TensorRT refuses"),
        ({"set_input_shape": False}, "TensorRT refuses"),
        ({"set_tensor_address": False}, "TensorRT refuses"),
        ({"infer_shapes": ["x"]}, "TensorRT refuses: x"),
        ({"infer_shapes": RuntimeError("a shape")}, "TensorRT refuses: a shape"),
        ({"execute_async_v3": False}, "TensorRT refuses"),
    ],
)
def test_whatever_tensorrt_refuses_is_told(answers: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Runtime(monkeypatch, **answers).load()
    with pytest.raises(BackendError, match=f"m/1: batches of 8: .*{said}"):
        engine.context(8, ADDRESSES, SCRATCH, STREAM).enqueue(STREAM)


def test_an_output_of_another_shape_than_declared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(monkeypatch)
    runtime.context.get_tensor_shape.side_effect = lambda name: (8, 3)
    with pytest.raises(BackendError, match=r"its output y is \(8, 3\), not \(8, 2\)"):
        runtime.load().context(8, ADDRESSES, SCRATCH, STREAM)


def test_a_plan_that_tensorrt_does_not_take_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(monkeypatch)
    runtime.runtime.deserialize_cuda_engine.return_value = None
    with pytest.raises(BackendError, match="m/1: TensorRT does not take its engine"):
        runtime.load()
