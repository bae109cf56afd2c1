"""Write the model of `sluice bench throughput --arrow-bytes`: the first value of each row of 25,000, so no work at all.

python ops/models/make_first.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.models import add_model

REPOSITORY = Path(__file__).resolve().parents[2] / "pipeline" / "load" / "large"
INPUTS = 25_000  # float32: a row of 100 kB, ten of them an Arrow request of 1 MB
ROWS_MAX = 64  # a slot of 6.4 MB


def main() -> None:
    """Write the graph and add it to the bench's repository of large requests."""
    nodes = [helper.make_node("Gather", ["values", "at"], ["first"], axis=1)]
    graph = helper.make_graph(
        nodes,
        "first",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("first", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.array(0, np.int64), "at")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="sluice")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.onnx"
        onnx.save(model, path)
        print(add_model(REPOSITORY, path, version="1", rows_max=ROWS_MAX).path)


if __name__ == "__main__":
    main()
