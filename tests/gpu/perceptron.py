"""A model whose cost is what one asks for: dense layers of float16 in a float32 signature, a row of 256 bytes.

The layers add to what they get, as a transformer's do, and share a few matrices: however many they are, the file stays
small, rows stay apart, and no sum leaves float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pipeline.models import Model, add_model
from tests.unit.models import graphs

__all__ = ["perceptron"]

FEATURES, CLASSES, MATRICES = 64, 10, 4


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the first layer, of those between, which take turns, and of the last."""

    first: np.ndarray[Any, Any]
    dense: Sequence[np.ndarray[Any, Any]]
    layers: int
    last: np.ndarray[Any, Any]


def perceptron(folder: Path, backend: str, *, width: int, layers: int, rows_max: int) -> Model:
    """``y = softmax(...)`` of ``x`` [64], 10 classes, in the format that the backend of a GPU reads."""
    rng = np.random.default_rng(1)
    first, last = _weights(rng, FEATURES, width, 1.0), _weights(rng, width, CLASSES, 1.0)
    dense = [_weights(rng, width, width, 0.1) for _ in range(min(layers, MATRICES))]
    weights = Weights(first, dense, layers, last)
    if backend == "torch_cuda":
        return add_model(folder / "models", _program(folder / "perceptron.pt2", weights), rows_max=rows_max)
    named = backend if backend == "onnxruntime_cuda" else None  # TensorRT runs there what is ONNX Runtime's elsewhere
    return add_model(folder / "models", _graph(folder / "perceptron.onnx", weights), rows_max=rows_max, backend=named)


def _weights(rng: np.random.Generator, takes: int, gives: int, scale: float) -> np.ndarray[Any, Any]:
    drawn = rng.standard_normal((takes, gives), np.float32) * np.float32(scale * (2 / takes) ** 0.5)
    return drawn.astype(np.float16)


def _graph(path: Path, weights: Weights) -> Path:
    def dense(takes: str, weight: str, gives: str) -> None:
        nodes.append(helper.make_node("MatMul", [takes, weight], [f"{gives}m"]))
        nodes.append(helper.make_node("Relu", [f"{gives}m"], [gives]))

    nodes = [helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16)]
    dense("half", "first", "h0")
    for number in range(weights.layers):
        dense(f"h{number}", f"w{number % len(weights.dense)}", f"d{number}")
        nodes.append(helper.make_node("Add", [f"h{number}", f"d{number}"], [f"h{number + 1}"]))
    nodes += [
        helper.make_node("MatMul", [f"h{weights.layers}", "last"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    constants = {"first": weights.first, "last": weights.last}
    constants |= {f"w{number}": matrix for number, matrix in enumerate(weights.dense)}
    return graphs.save(
        path,
        nodes,
        inputs={"x": (TensorProto.FLOAT, ("batch", FEATURES))},
        outputs={"y": (TensorProto.FLOAT, ("batch", CLASSES))},
        constants=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def _program(path: Path, weights: Weights) -> Path:
    import torch

    from tests.unit.models.programs import export

    class Perceptron(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("first", torch.from_numpy(weights.first))
            self.register_buffer("last", torch.from_numpy(weights.last))
            for number, matrix in enumerate(weights.dense):
                self.register_buffer(f"w{number}", torch.from_numpy(matrix))

        def forward(self, x: Any) -> Mapping[str, Any]:
            hidden = (x.half() @ self.first).relu()
            for number in range(weights.layers):
                hidden = hidden + (hidden @ getattr(self, f"w{number % len(weights.dense)}")).relu()
            return {"y": (hidden @ self.last).float().softmax(1)}

    return export(path, Perceptron(), np.zeros((3, FEATURES), np.float32))
