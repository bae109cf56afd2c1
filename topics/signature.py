"""Tensor names, dtypes and shapes of a model, and the Arrow schema they mean."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["DATATYPES", "Columns", "Signature", "Tensor"]

Columns = Mapping[str, np.ndarray[Any, Any]]
"""Tensor name -> array of shape ``(rows, *tensor.shape)``, dtype as declared."""

DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""NumPy dtype name -> Open Inference Protocol v2 datatype: the types a tensor may have."""

_DATATYPES = {np.dtype(name): datatype for name, datatype in DATATYPES.items()}  # a dtype's hash is fast, its name slow

RANK_MAX = 8  # of one row; TensorRT allows 8 with the batch dimension, ONNX models rarely exceed 5
ROW_VALUES_MAX = 64 * 1024 * 1024  # 256 MiB of float32: a row larger than this is not one Kafka message


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor. ``shape`` is that of one row, without the batch dimension; ``()`` is a scalar."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tensor needs a name")
        if self.dtype not in _DATATYPES:  # which are all of this machine's byte order
            raise ValueError(f"tensor {self.name!r}: dtype {self.dtype} is none of {', '.join(DATATYPES)}")
        if len(self.shape) > RANK_MAX or any(d < 1 for d in self.shape) or self.row_values > ROW_VALUES_MAX:
            raise ValueError(f"tensor {self.name!r}: shape {list(self.shape)} is not that of one row")

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name}{list(self.shape)}"

    @property
    def row_values(self) -> int:
        """Values in one row."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, packed."""
        return self.row_values * self.dtype.itemsize

    @property
    def datatype(self) -> str:
        """The Open Inference Protocol v2 name of the dtype."""
        return _DATATYPES[self.dtype]

    def empty(self, rows: int) -> np.ndarray[Any, Any]:
        """An uninitialised C-contiguous array of ``(rows, *shape)``."""
        return np.empty((rows, *self.shape), self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """``{"name", "dtype", "shape"}``, as `sluice models list --json` prints it."""
        return {"name": self.name, "dtype": self.dtype.name, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Tensor:
        """Inverse of `to_dict`. Raises ``ValueError`` on anything that is not a tensor."""
        try:
            return cls(str(value["name"]), np.dtype(str(value["dtype"])), tuple(map(operator.index, value["shape"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a tensor: {value!r} ({error})") from error


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, one row at a time."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        for side in (self.inputs, self.outputs):
            names = [tensor.name for tensor in side]
            if not names or len(set(names)) != len(names):
                raise ValueError(f"a signature needs inputs and outputs of distinct names, not {names}")

    def to_dict(self) -> dict[str, Any]:
        """``{"inputs": [...], "outputs": [...]}``."""
        return {"inputs": [t.to_dict() for t in self.inputs], "outputs": [t.to_dict() for t in self.outputs]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Iterable[Mapping[str, Any]]]) -> Signature:
        """Inverse of `to_dict`. Raises ``ValueError``."""
        try:
            return cls(*(tuple(Tensor.from_dict(t) for t in value[side]) for side in ("inputs", "outputs")))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a signature: {value!r} ({error})") from error


def arrow_schema(tensors: Iterable[Tensor]) -> pa.Schema:
    """The canonical schema of rows of ``tensors``: a primitive column for a scalar, else a fixed-shape tensor."""
    return pa.schema([pa.field(t.name, _arrow_type(t), nullable=False) for t in tensors])


def _arrow_type(tensor: Tensor) -> pa.DataType:
    value = pa.from_numpy_dtype(tensor.dtype)
    return pa.fixed_shape_tensor(value, tensor.shape) if tensor.shape else value
