"""A model that fails on one value: the runtime refuses to gather an element that is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from pipeline.models import add_model

__all__ = ["poison_model"]

TABLE = 10
POISON = -1 - TABLE


def poison_model(repository: Path, name: str) -> tuple[Path, str]:
    """``answer = table[index]``; an index out of the table makes ONNX Runtime fail the whole batch."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [TABLE], np.arange(TABLE, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["answer"], axis=0)],
        name,
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch"])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    repository.mkdir(parents=True, exist_ok=True)
    source = repository.parent / f"{name}.onnx"
    onnx.save(model, source)
    add_model(repository, source, name=name, rows_max=256)
    return repository, name
