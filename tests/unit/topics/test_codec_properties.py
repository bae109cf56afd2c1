"""Properties of the codecs over any signature, any rows and any bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.oracle import LIMITS, assert_sound
from topics.codecs import CONTENT_TYPES, codec_for
from topics.records import JSON, RAW
from topics.signature import DATATYPES, Tensor

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
TENSORS = st.builds(Tensor, NAMES, st.sampled_from(list(DATATYPES)).map(np.dtype), SHAPES)
SIGNATURES = st.lists(TENSORS, min_size=1, max_size=3, unique_by=lambda tensor: tensor.name).map(tuple)
TYPES = st.sampled_from(CONTENT_TYPES)
ROWS = st.lists(st.integers(1, 5), min_size=1, max_size=6)
Array = np.ndarray[Any, Any]


def values_of(tensor: Tensor, rows: int, seed: int) -> Array:
    """Any finite values: random bits, with what is not a number or not a bool made one."""
    bits = np.random.default_rng(seed).integers(0, 256, rows * tensor.row_bytes, np.uint8)
    if tensor.dtype.kind == "b":
        bits &= 1
    values = np.ascontiguousarray(bits).view(tensor.dtype).reshape(rows, *tensor.shape)
    return np.nan_to_num(values, posinf=1, neginf=-1) if tensor.dtype.kind == "f" else values


def columns_of(tensors: tuple[Tensor, ...], rows: int, seed: int) -> dict[str, Array]:
    return {tensor.name: values_of(tensor, rows, seed + at) for at, tensor in enumerate(tensors)}


def assert_same(columns: dict[str, Array], expected: dict[str, Array]) -> None:
    assert columns.keys() == expected.keys()
    for name, column in columns.items():
        assert column.dtype == expected[name].dtype and np.array_equal(column, expected[name])


@given(TYPES, SIGNATURES, ROWS, st.integers(0, 2**32))
def test_requests_come_back_one_after_the_other(
    content_type: str, tensors: tuple[Tensor, ...], rows: list[int], seed: int
) -> None:
    codec, edges = codec_for(content_type), np.cumsum([0, *rows])
    columns = columns_of(tensors, int(edges[-1]), seed)
    pairs = pairwise(edges)
    values = [codec.encode_request({n: c[a:b] for n, c in columns.items()}, tensors) for a, b in pairs]
    decoded = codec.decode_requests(values, tensors, LIMITS)
    assert not decoded.rejected and decoded.rows.tolist() == rows
    assert_same(decoded.columns, columns)


@given(TYPES, SIGNATURES, ROWS, st.integers(0, 2**32))
def test_responses_come_back_to_their_requests(
    content_type: str, tensors: tuple[Tensor, ...], rows: list[int], seed: int
) -> None:
    codec, bounds = codec_for(content_type), [2, *(2 + np.cumsum(rows)).tolist()]
    columns = columns_of(tensors, bounds[-1] + 1, seed)
    ids = [str(index) for index in range(len(rows))]
    values = codec.encode_responses(columns, bounds, tensors, model="m", version="1", request_ids=ids)
    answered = tensors[:1] if content_type == RAW else tensors
    assert len(values) == len(rows)
    for value, (start, end) in zip(values, pairwise(bounds), strict=True):
        expected = {tensor.name: columns[tensor.name][start:end] for tensor in answered}
        assert_same(codec.decode_response(value, tensors), expected)


@given(TYPES, SIGNATURES, st.lists(st.none() | st.binary(max_size=200), max_size=5))
def test_any_bytes_are_a_request_or_a_bad_request(
    content_type: str, tensors: tuple[Tensor, ...], values: list[bytes | None]
) -> None:
    assert_sound(codec_for(content_type).decode_requests(values, tensors, LIMITS), len(values), tensors)


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "name": st.just("x") | JSON_VALUES,
                "datatype": st.sampled_from([*DATATYPES.values(), "BYTES"]) | JSON_VALUES,
                "shape": st.lists(st.integers(-1, 4) | st.booleans() | st.floats(0, 3), max_size=4) | JSON_VALUES,
                "data": JSON_VALUES | st.lists(st.integers(-3, 300) | st.floats(), max_size=8),
            },
        )
        | JSON_VALUES,
        max_size=3,
    ),
    TENSORS,
)
def test_any_json_is_a_request_or_a_bad_request(inputs: list[Any], tensor: Tensor) -> None:
    tensors = (Tensor("x", tensor.dtype, tensor.shape),)
    values = [orjson.dumps({"inputs": inputs}), orjson.dumps(inputs)]
    assert_sound(codec_for(JSON).decode_requests(values, tensors, LIMITS), 2, tensors)
