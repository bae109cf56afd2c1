"""Tensors, signatures and the Arrow schema they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from topics.signature import DATATYPES, RANK_MAX, Signature, Tensor, arrow_schema

IMAGE = Tensor("image", np.dtype("float32"), (1, 8, 8))
LABEL = Tensor("label", np.dtype("int64"), ())


def test_a_tensor_knows_the_size_of_a_row() -> None:
    assert (IMAGE.row_values, IMAGE.row_bytes, IMAGE.datatype) == (64, 256, "FP32")
    assert (LABEL.row_values, LABEL.row_bytes, LABEL.datatype) == (1, 8, "INT64")
    empty = IMAGE.empty(3)
    assert empty.shape == (3, 1, 8, 8)
    assert empty.flags.c_contiguous


def test_each_dtype_has_its_protocol_name() -> None:
    assert {name: Tensor("x", np.dtype(name), ()).datatype for name in DATATYPES} == DATATYPES


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("", "float32", ()),
        ("x", "complex64", ()),
        ("x", "S3", ()),
        ("x", "O", ()),
        ("x", ">f4", ()),
        ("x", "float32", (0,)),
        ("x", "float32", (-1, 3)),
        ("x", "float32", (1,) * (RANK_MAX + 1)),
        ("x", "float32", (2**20, 2**20)),
    ],
)
def test_what_is_no_tensor_is_refused(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tensor"):
        Tensor(name, np.dtype(dtype), shape)


def test_a_signature_survives_its_dictionary() -> None:
    signature = Signature((IMAGE,), (Tensor("probabilities", np.dtype("float32"), (10,)), LABEL))
    assert signature.to_dict()["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 8, 8]}]
    assert Signature.from_dict(signature.to_dict()) == signature


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"inputs": [], "outputs": [LABEL.to_dict()]},
        {"inputs": [LABEL.to_dict()] * 2, "outputs": [LABEL.to_dict()]},
        {"inputs": [{"name": "x"}], "outputs": [LABEL.to_dict()]},
        {"inputs": [{"name": "x", "dtype": "float99", "shape": []}], "outputs": [LABEL.to_dict()]},
        {"inputs": [{"name": "x", "dtype": "float32", "shape": ["wide"]}], "outputs": [LABEL.to_dict()]},
        {"inputs": 3, "outputs": [LABEL.to_dict()]},
    ],
)
def test_what_is_no_signature_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"signature|tensor"):
        Signature.from_dict(value)


def test_the_arrow_schema_is_fixed_shape_tensors_and_primitive_scalars() -> None:
    assert arrow_schema([IMAGE, LABEL]) == pa.schema(
        [
            pa.field("image", pa.fixed_shape_tensor(pa.float32(), (1, 8, 8)), nullable=False),
            pa.field("label", pa.int64(), nullable=False),
        ]
    )
