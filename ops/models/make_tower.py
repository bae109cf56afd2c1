"""Write the models of `sluice bench slo` and `throughput --heavy`: towers of layers whose rows fill a processor.

python ops/models/make_tower.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.models import add_model

REPOSITORY = Path(__file__).resolve().parents[2] / "pipeline" / "load" / "models"
INPUTS, WIDTH = 64, 2048  # of a layer a row takes 4 million multiplications, and each batch reads 16 MiB
# Layers, largest batch, and what a layer multiplies the spread of its values by: over 1 it makes them alive, but in a
# high tower it makes two ways of rounding two different answers.
TOWERS = {"tower": (6, 64, 1.5), "high-tower": (72, 16, 1.0)}


def main() -> None:
    """Write the graphs and add those to the bench's repository that are not there."""
    for name, (layers, rows_max, gain) in TOWERS.items():
        if (REPOSITORY / name).exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.onnx"
            onnx.save(tower(name, layers, gain), path)
            print(add_model(REPOSITORY, path, version="1", rows_max=rows_max).path)


def tower(name: str, layers: int, gain: float) -> onnx.ModelProto:
    """A tower of so many layers.

    Its weights are computed in the graph, when the runtime folds its constants: the file is 2 kB instead of 16 MB.
    """
    constants = {
        "start": np.array(0, np.float32),
        "end": np.array(WIDTH * WIDTH, np.float32),
        "step": np.array(1, np.float32),
        "large": np.array(43758.547, np.float32),
        "middle": np.array(0.5, np.float32),
        "size": np.array(gain * (12 / WIDTH) ** 0.5, np.float32),
        "square": np.array([WIDTH, WIDTH]),
        "to_width": np.array([[0, 0], [0, WIDTH - INPUTS]], np.int64).T.reshape(-1),
    }
    nodes = [
        helper.make_node("Range", ["start", "end", "step"], ["numbers"]),
        # The digits behind the point of a large sine: as good as random, and the same everywhere but for rounding.
        helper.make_node("Sin", ["numbers"], ["waves"]),
        helper.make_node("Mul", ["waves", "large"], ["high"]),
        helper.make_node("Floor", ["high"], ["floor"]),
        helper.make_node("Sub", ["high", "floor"], ["uniform"]),
        helper.make_node("Sub", ["uniform", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "size"], ["flat"]),
        helper.make_node("Reshape", ["flat", "square"], ["weights"]),
        helper.make_node("Pad", ["features", "to_width"], ["layer0"]),
    ]
    for layer in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"layer{layer}", "weights"], [f"sum{layer}"]),
            helper.make_node("Tanh", [f"sum{layer}"], [f"layer{layer + 1}"]),
        ]
    nodes.append(helper.make_node("ReduceMean", [f"layer{layers}"], ["score"], axes=[1], keepdims=0))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="sluice")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
