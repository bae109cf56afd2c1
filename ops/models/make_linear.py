"""Write the model of `sluice bench`: 50 inputs, one weighted sum, so that the way is measured and not the model.

python ops/models/make_linear.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.models import add_model

REPOSITORY = Path(__file__).resolve().parents[2] / "pipeline" / "load" / "models"
SEED = 20261124
INPUTS = 50  # float32: a raw request of 200 bytes


def main() -> None:
    """Write the graph and add it to the bench's repository."""
    weights = np.random.default_rng(SEED).normal(0, INPUTS**-0.5, INPUTS).astype(np.float32)
    # One row of weights times the transposed batch: ONNX Runtime takes 20 us for 4,096 rows, and 960 us the other
    # way round (a MatMul with a vector on the right).
    nodes = [
        helper.make_node("Gemm", ["weights", "features"], ["scores"], transB=1),
        helper.make_node("Squeeze", ["scores", "first"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(weights[np.newaxis], "weights"), numpy_helper.from_array(np.array([0]), "first")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="sluice")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "linear.onnx"
        onnx.save(model, path)
        print(add_model(REPOSITORY, path, version="1", rows_max=4096).path)


if __name__ == "__main__":
    main()
