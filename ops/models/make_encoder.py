"""Write the model of `sluice bench sequences`: texts of 1 to 128 tokens, so much work for each token, one mean of them.

python ops/models/make_encoder.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.models import add_model

REPOSITORY = Path(__file__).resolve().parents[2] / "pipeline" / "load" / "models"
SEED = 20261125
TOKENS, WIDTH, HIDDEN, CLASSES = 256, 64, 256, 8  # a token costs 2 * 2 * 64 * 256 operations
LENGTHS = (8, 16, 32, 64, 128)


def main() -> None:
    """Write the graph and add it to the bench's repository."""
    random = np.random.default_rng(SEED)
    shapes = {"table": (TOKENS, WIDTH), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH), "head": (WIDTH, CLASSES)}
    weights = {name: random.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    constants = weights | {"zero": np.array(0, np.int64), "last": np.array([2]), "along": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "up"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["bent"]),
        helper.make_node("MatMul", ["bent", "down"], ["narrow"]),
        # What lies behind the end counts for nothing, so that it makes no difference how much of it there is.
        helper.make_node("Greater", ["tokens", "zero"], ["is_token"]),
        helper.make_node("Cast", ["is_token"], ["one_each"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["one_each", "last"], ["mask"]),
        helper.make_node("Mul", ["narrow", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "along"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "along"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="sluice")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        onnx.save(model, path)
        added = add_model(REPOSITORY, path, version="1", rows_max=64, sequences=["tokens"], lengths=LENGTHS)
        print(added.path)


if __name__ == "__main__":
    main()
