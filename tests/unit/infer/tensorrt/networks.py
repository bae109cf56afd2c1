"""Small models for engines: float32, float16 by casts, int8 by quantize and dequantize nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pipeline.models import Model, add_model
from tests.unit.models import graphs

__all__ = ["FLOAT16", "FLOAT32", "INT8", "network"]

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"


def network(folder: Path, kind: str = FLOAT32, *, rows_max: int = 4) -> Model:
    """``y = softmax(relu(x w))`` of 8 features and 4 classes, float32 outside, computed in ``kind``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    constants = [numpy_helper.from_array(weights.astype(np.float16 if kind == FLOAT16 else np.float32), "w")]
    nodes = []
    x, w, product = "x", "w", "product"
    if kind == FLOAT16:
        nodes.append(helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16))
        x, product = "x16", "product16"
    if kind == INT8:
        zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
        constants += [
            zero,
            *(numpy_helper.from_array(np.array(scale, np.float32), f"{t}s") for t, scale in (("x", 0.02), ("w", 0.03))),
        ]
        for name in ("x", "w"):
            nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}s", "zero"], [f"{name}q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}q", f"{name}s", "zero"], [f"{name}d"]))
        x, w = "xd", "wd"
    nodes.append(helper.make_node("MatMul", [x, w], [product], name="dense"))
    if kind == FLOAT16:
        nodes.append(helper.make_node("Cast", [product], ["product"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Relu", ["product"], ["positive"]))
    nodes.append(helper.make_node("Softmax", ["positive"], ["y"], axis=-1))
    path = graphs.save(
        folder / f"{kind}.onnx",
        nodes,
        inputs={"x": (TensorProto.FLOAT, ("batch", 8))},
        outputs={"y": (TensorProto.FLOAT, ("batch", 4))},
        constants=constants,
    )
    return add_model(folder / "models", path, rows_max=rows_max)
