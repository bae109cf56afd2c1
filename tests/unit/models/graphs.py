"""Small ONNX graphs for tests, made with the onnx package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: dict[str, tuple[int, Sequence[Any]]],
    constants: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = ("",),
) -> Path:
    """Write a graph; inputs and outputs are name -> (element type, shape with the batch dimension)."""
    takes, gives = ([helper.make_tensor_value_info(n, *v) for n, v in side.items()] for side in (inputs, outputs))
    graph = helper.make_graph(nodes, "test", takes, gives, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, 17) for d in domains])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def add(path: Path, *, shape: Sequence[Any] = ("batch", 3), location: str | None = None) -> Path:
    """``y = x + w`` with w = 1, 2, 3; the weights lie in the file ``location`` where given (not written here)."""
    weights = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w")
    if location is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
        weights.external_data.add(key="length", value="12")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return save(path, [node], inputs={"x": (FLOAT, shape)}, outputs={"y": (FLOAT, shape)}, constants=[weights])


def pick(path: Path) -> Path:
    """``picked[i] = 10 * at[i]`` for at in 0..9, ``copied = image``; any other ``at`` fails while it runs."""
    table = numpy_helper.from_array(np.arange(0, 100, 10, dtype=np.int64), "table")
    nodes = [
        helper.make_node("Gather", ["table", "at"], ["picked"]),
        helper.make_node("Identity", ["image"], ["copied"]),
    ]
    image = (FLOAT, ("batch", 2, 2))
    return save(
        path,
        nodes,
        inputs={"at": (TensorProto.INT64, ("batch",)), "image": image},
        outputs={"picked": (TensorProto.INT64, ("batch",)), "copied": image},
        constants=[table],
    )


def conv(path: Path, side: int = 32) -> Path:
    """Three strided convolutions of an RGB image, one of them depthwise, batch-normalised: ten scores."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 1, 3, 3), "w2": (32, 16, 1, 1), "dense": (32, 10), "scale": (16,)}
    values = {name: rng.normal(0, np.prod(shape[1:] or (4,)) ** -0.5, shape) for name, shape in shapes.items()}
    values |= {"dense": 3 * values["dense"], "bias": rng.normal(size=16), "mean": np.zeros(16), "var": np.ones(16)}
    around: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], **around),
        helper.make_node("BatchNormalization", ["c0", "scale", "bias", "mean", "var"], ["n0"]),
        helper.make_node("Relu", ["n0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], group=16, **around),
        helper.make_node("Conv", ["c1", "w2"], ["c2"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["y"]),
    ]
    return save(
        path,
        nodes,
        inputs={"x": (FLOAT, ("batch", 3, side, side))},
        outputs={"y": (FLOAT, ("batch", 10))},
        constants=[numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )


def pick_or_misfit(path: Path) -> Path:
    """As `pick`, but an ``at`` over 9 fails for shapes that do not fit, also where indices are not checked."""
    constants = {
        "nine": np.array([9]),
        "ten": np.array([10]),
        "table": np.arange(0, 100, 10),
        "ones": np.ones(10, "f4"),
    }
    nodes = [
        helper.make_node("Greater", ["at", "nine"], ["over"]),
        helper.make_node("Cast", ["over"], ["over.int"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["over.int"], ["bad"], keepdims=1),
        helper.make_node("Add", ["ten", "bad"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("MatMul", ["zeros", "ones"], ["zero"]),  # 10 by 10; 11 by 10 cannot be
        helper.make_node("Cast", ["zero"], ["zero.int"], to=TensorProto.INT64),
        helper.make_node("Add", ["table", "zero.int"], ["whole"]),
        helper.make_node("Gather", ["whole", "at"], ["picked"]),
        helper.make_node("Identity", ["image"], ["copied"]),
    ]
    image = (FLOAT, ("batch", 2, 2))
    return save(
        path,
        nodes,
        inputs={"at": (TensorProto.INT64, ("batch",)), "image": image},
        outputs={"picked": (TensorProto.INT64, ("batch",)), "copied": image},
        constants=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def unknown_operator(path: Path) -> Path:
    """A graph whose only operator no runtime has."""
    node = helper.make_node("Conjure", ["x"], ["y"], domain="example.none")
    shape = (FLOAT, ("batch", 3))
    return save(path, [node], inputs={"x": shape}, outputs={"y": shape}, domains=("", "example.none"))


def total(path: Path) -> Path:
    """``y`` = the sum of the sequence ``x``, of any length."""
    node = helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=0)
    return save(
        path,
        [node],
        inputs={"x": (FLOAT, ("batch", "length"))},
        outputs={"y": (FLOAT, ("batch",))},
        constants=[numpy_helper.from_array(np.array([1]), "axis")],
    )


def positive(path: Path) -> Path:
    """``y`` = those rows of ``x`` whose first value is not negative: fewer than there are, where one is."""
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["at"], axis=1),
        helper.make_node("Greater", ["at", "least"], ["kept"]),
        helper.make_node("Compress", ["x", "kept"], ["y"], axis=0),
    ]
    return save(
        path,
        nodes,
        inputs={"x": (FLOAT, ("batch", 2))},
        outputs={"y": (FLOAT, ("some", 2))},
        constants=[
            numpy_helper.from_array(np.array(0), "first"),
            numpy_helper.from_array(np.array(-0.5, np.float32), "least"),
        ],
    )
