"""The three codecs: what they accept, what they refuse and how, and that the bytes are the contract's."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.hostile.cases import IMAGE, SMALL_LIMITS, HostileCase, good_request, hostile_cases
from topics.codecs import CONTENT_TYPES, Decoded, codec_for
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, RAW
from topics.signature import Tensor, arrow_schema

LIMITS = RequestLimits()
CASES = [case for case in hostile_cases() if case.content_type in CONTENT_TYPES]
SCORES = Tensor("scores", np.dtype("float32"), (3,))
LABEL = Tensor("label", np.dtype("int64"), ())
OUTPUTS = (SCORES, LABEL)


def tensor(name: str, dtype: str, *shape: int) -> Tensor:
    return Tensor(name, np.dtype(dtype), shape)


def decode(content_type: str, value: bytes | None, *inputs: Tensor, **options: Any) -> Decoded:
    return codec_for(content_type).decode_requests([value], inputs, LIMITS, **options)


def code_of(content_type: str, value: bytes, *inputs: Tensor, **options: Any) -> Code:
    ((index, why),) = decode(content_type, value, *inputs, **options).rejected
    assert index == 0
    return why.code


def stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def infer_request(*tensors: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({**members, "inputs": tensors}).encode()


# Content types


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_content_type_is_found_whatever_its_case_and_parameters(content_type: str) -> None:
    assert codec_for(content_type.upper() + " ; charset=utf-8") is codec_for(content_type)
    assert codec_for(content_type).content_type == content_type


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json2", ";application/json"])
def test_an_unknown_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest) as refused:
        codec_for(content_type)
    assert refused.value.code is Code.UNKNOWN_CONTENT_TYPE


# Bad requests


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_request_gets_its_code_and_its_neighbours_are_decoded(case: HostileCase) -> None:
    codec = codec_for(case.content_type)
    values = [good_request(case.content_type, 2, 3.0), case.value, good_request(case.content_type, 1, 5.0)]
    limits = SMALL_LIMITS if case.small_limits else LIMITS
    decoded = codec.decode_requests(values, (IMAGE,), limits, model=("digits", "1"))
    assert [(index, why.code) for index, why in decoded.rejected] == [(1, case.code)]
    assert decoded.rows.tolist() == [2, 1]
    assert decoded.columns["image"].mean(axis=(1, 2, 3)).tolist() == [3.0, 3.0, 5.0]
    reason = decoded.rejected[0][1].reason
    assert reason.isprintable() and reason.isascii() and len(reason) <= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_request_takes_memory_in_proportion_to_its_size(case: HostileCase) -> None:
    codec = codec_for(case.content_type)
    codec.decode_requests([case.value], (IMAGE,), SMALL_LIMITS)
    tracemalloc.start()
    try:
        codec.decode_requests([case.value], (IMAGE,), SMALL_LIMITS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64_000 + 40 * len(case.value or b"")


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_only_bad_requests_leave_empty_columns_of_the_right_shape(content_type: str) -> None:
    decoded = codec_for(content_type).decode_requests([None, b"\x80\x04."], (IMAGE, LABEL), LIMITS)
    assert decoded.columns["image"].shape == (0, 1, 8, 8) and decoded.columns["label"].shape == (0,)
    assert decoded.columns["image"].dtype == np.float32 and decoded.rows.size == 0
    assert [index for index, _ in decoded.rejected] == [0, 1]
    nothing = codec_for(content_type).decode_requests([], (IMAGE, LABEL), LIMITS)
    assert nothing.columns["image"].shape == (0, 1, 8, 8) and nothing.rows.size == 0 and not nothing.rejected


@pytest.mark.parametrize("content_type", [ARROW, RAW])
def test_a_model_may_allow_nan_and_infinity(content_type: str) -> None:
    scores = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    value = codec_for(content_type).encode_request({"scores": scores}, (SCORES,))
    assert code_of(content_type, value, SCORES) is Code.NOT_FINITE
    decoded = decode(content_type, value, SCORES, allow_not_finite=True)
    assert np.array_equal(decoded.columns["scores"], scores, equal_nan=True)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_not_finite_rows_reject_their_requests_and_no_other(content_type: str) -> None:
    codec, good, bad = codec_for(content_type), np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    poison = {JSON: b"1e39", RAW: np.float32("nan").tobytes(), ARROW: np.float32("inf").tobytes()}[content_type]
    clean = b"2.0" if content_type == JSON else np.float32(2).tobytes()
    values: list[bytes | None] = []
    for index in range(6):
        value = codec.encode_request({"scores": bad if index in (1, 4) else good}, (SCORES,))
        values.append(value[::-1].replace(clean[::-1], poison[::-1], 1)[::-1] if index in (1, 4) else value)
    values.insert(3, None)
    decoded = codec.decode_requests(values, (SCORES,), LIMITS)
    assert [(i, why.code) for i, why in decoded.rejected] == [
        (1, Code.NOT_FINITE),
        (3, Code.NULL_VALUE),
        (5, Code.NOT_FINITE),
    ]
    assert decoded.rows.tolist() == [2, 2, 2, 2] and np.array_equal(decoded.columns["scores"], np.ones((8, 3)))


# Raw


def test_a_raw_value_over_the_size_limit_is_refused_whatever_its_rows() -> None:
    decoded = codec_for(RAW).decode_requests([b"\0" * 120], (SCORES,), RequestLimits(value_bytes_max=119))
    assert [why.code for _, why in decoded.rejected] == [Code.TOO_LARGE]


def test_raw_is_all_rows_of_one_input_then_of_the_next() -> None:
    flag, weight = tensor("flag", "bool"), tensor("weight", "float64", 2)
    value = b"\x01\x00" + np.array([1, 2, 3, 4], "<f8").tobytes()
    one, other = b"\x01" + np.array([5, 6], "<f8").tobytes(), value
    decoded = codec_for(RAW).decode_requests([value, one, other], (flag, weight), LIMITS)
    assert decoded.rows.tolist() == [2, 1, 2]
    assert decoded.columns["flag"].tolist() == [True, False, True, True, False]
    assert decoded.columns["weight"].tolist() == [[1, 2], [3, 4], [5, 6], [1, 2], [3, 4]]
    assert decoded.columns["weight"].flags.aligned


def test_raw_of_one_input_is_not_copied_for_one_request() -> None:
    value = np.arange(6, dtype="<f4").tobytes()
    column = decode(RAW, value, SCORES).columns["scores"]
    assert not column.flags.writeable and np.shares_memory(column, np.frombuffer(value, np.uint8))


def test_raw_refuses_a_bool_that_is_neither_zero_nor_one() -> None:
    assert code_of(RAW, b"\x01\x02", tensor("flag", "bool", 2)) is Code.WRONG_DTYPE


def test_a_raw_response_is_the_first_outputs_bytes() -> None:
    scores, label = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4)
    names = {"model": "m", "version": "1"}
    for bounds in ([0, 1, 4], [0, 1, 2, 3, 4], [1, 2, 3], [4], [1, 4]):
        ids = ["a"] * (len(bounds) - 1)
        values = codec_for(RAW).encode_responses(
            {"scores": scores, "label": label}, bounds, OUTPUTS, request_ids=ids, **names
        )
        assert values == [scores[a:b].astype("<f4").tobytes() for a, b in pairwise(bounds)]


# Arrow


def fixed_size_lists(values: np.ndarray[Any, Any], *dims: int) -> pa.Array:
    array = pa.array(values.reshape(-1))
    for dim in reversed(dims):
        array = pa.FixedSizeListArray.from_arrays(array, dim)
    return array


@pytest.mark.parametrize("form", ["fixed-shape tensor", "flat lists", "nested lists"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "bool", "uint64"])
def test_arrow_takes_each_form_of_a_tensor(form: str, dtype: str) -> None:
    values = (np.arange(4 * 6) % 5).astype(dtype)
    array = fixed_size_lists(values, 2, 3) if form == "nested lists" else fixed_size_lists(values, 6)
    if form == "fixed-shape tensor":
        array = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(array.type.value_type, (2, 3)), array)
    decoded = decode(ARROW, stream(pa.record_batch([array], ["x"])), tensor("x", dtype, 2, 3))
    assert not decoded.rejected and decoded.rows.tolist() == [4]
    assert np.array_equal(decoded.columns["x"], values.reshape(4, 2, 3)) and decoded.columns["x"].dtype == dtype


def test_arrow_columns_come_in_any_order_and_with_notes() -> None:
    batch = pa.record_batch([pa.array([7, 8]), fixed_size_lists(np.ones(6, np.float32), 3)], ["label", "scores"])
    decoded = decode(ARROW, stream(batch.replace_schema_metadata({"pandas": "{}"})), SCORES, LABEL)
    assert decoded.columns["label"].tolist() == [7, 8] and decoded.columns["scores"].tolist() == [[1, 1, 1]] * 2


def test_arrow_takes_slices_and_validity_bitmaps_without_nulls() -> None:
    whole = fixed_size_lists(np.arange(30, dtype=np.float32), 3)
    assert decode(ARROW, stream(pa.record_batch([whole[4:6]], ["scores"])), SCORES).columns["scores"].tolist() == [
        [12, 13, 14],
        [15, 16, 17],
    ]
    bitmap, data = pa.py_buffer(b"\x03"), pa.py_buffer(np.array([5, 6]).tobytes())
    label = pa.Array.from_buffers(pa.int64(), 2, [bitmap, data], null_count=0)
    assert decode(ARROW, stream(pa.record_batch([label], ["label"])), LABEL).columns["label"].tolist() == [5, 6]


def test_arrow_of_one_request_is_not_copied() -> None:
    value = stream(pa.record_batch([fixed_size_lists(np.arange(6, dtype=np.float32), 3)], ["scores"]))
    for _ in range(2):  # the layout is read, then remembered
        column = decode(ARROW, value, SCORES).columns["scores"]
        assert np.shares_memory(column, np.frombuffer(value, np.uint8)) and column.flags.aligned


def test_a_remembered_arrow_layout_excuses_no_other_message() -> None:
    def value(first: float) -> bytes:
        return stream(pa.record_batch([fixed_size_lists(np.array([first, 1, 2], np.float32), 3)], ["scores"]))

    good = value(0)
    assert not decode(ARROW, good, SCORES).rejected
    assert code_of(ARROW, good[:-8], SCORES) is Code.MALFORMED
    assert code_of(ARROW, good + b"\0" * 8, SCORES) is Code.MALFORMED
    assert code_of(ARROW, good[:-8] + b"\0" * 8, SCORES) is Code.MALFORMED
    chunk = [good, value(9), good[:-1] + b"\1", b"x" * len(good), value(8)]
    decoded = codec_for(ARROW).decode_requests(chunk, (SCORES,), LIMITS)
    assert [index for index, _ in decoded.rejected] == [2, 3]
    assert decoded.columns["scores"][:, 0].tolist() == [0, 9, 8]
    decoded = codec_for(ARROW).decode_requests([good, good[:-1] + b"\1"], (SCORES,), LIMITS)
    assert [index for index, _ in decoded.rejected] == [1]
    strict = codec_for(ARROW).decode_requests([good], (SCORES,), RequestLimits(rows_max=0))
    assert strict.rejected[0][1].code is Code.TOO_MANY_ROWS
    assert code_of(ARROW, good, tensor("scores", "float64", 3)) is Code.WRONG_DTYPE


def test_arrow_columns_cannot_claim_the_same_bytes() -> None:
    one, two = tensor("one", "int64"), tensor("two", "int64")
    message = stream(pa.record_batch([pa.array([1]), pa.array([2])], ["one", "two"]))
    before, second, after = message.rpartition(
        np.array([8, 8], "<i8").tobytes()
    )  # where the second column's values lie
    assert second
    assert not decode(ARROW, message, one, two).rejected
    assert code_of(ARROW, before + np.array([0, 8], "<i8").tobytes() + after, one, two) is Code.MALFORMED
    # A validity buffer of -8 bytes before it would make room for the same bytes again.
    assert code_of(ARROW, before[:-8] + np.array([-8, 0, 8], "<i8").tobytes() + after, one, two) is Code.MALFORMED


def test_any_byte_of_arrow_metadata_may_be_wrong() -> None:
    good = good_request(ARROW)
    for at in range(len(good) - 256 - 8):
        for wrong in (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\xff\xff\xff\x7f"):
            value = good[:at] + wrong + good[at + len(wrong) :]
            decoded = codec_for(ARROW).decode_requests([value], (IMAGE,), LIMITS)
            assert len(decoded.rejected) + len(decoded.rows) == 1
            assert decoded.columns["image"].tobytes() == good[-264:-8] * len(decoded.rows)


def test_arrow_extension_metadata_cannot_bring_us_down() -> None:
    for metadata in ("", "[" * 50_000, '{"shape":[' * 500, '{"shape":"3"}', '{"shape":[true]}', "[]", '{"shape":[]}'):
        about = {"ARROW:extension:name": "arrow.fixed_shape_tensor", "ARROW:extension:metadata": metadata}
        field = pa.field("scores", pa.list_(pa.float32(), 3), metadata=about)
        # pyarrow reads such a schema with the same extension type, so it is written under another name of equal length.
        about["ARROW:extension:name"] = "x" * 24
        array = fixed_size_lists(np.ones(3, np.float32), 3)
        batch = pa.record_batch([array], schema=pa.schema([field.with_metadata(about)]))
        value = stream(batch).replace(b"x" * 24, b"arrow.fixed_shape_tensor")
        assert code_of(ARROW, value, SCORES) is Code.MALFORMED


def test_an_arrow_response_is_what_pyarrow_writes() -> None:
    scores, label = np.arange(15, dtype=np.float32).reshape(5, 3), np.arange(5)
    flags = tensor("flags", "bool", 3)
    outputs = {"scores": scores, "label": label, "flags": scores % 2 == 0}
    tensors = (*OUTPUTS, flags)
    values = codec_for(ARROW).encode_responses(
        outputs, [0, 1, 2, 5], tensors, model="m", version="1", request_ids=["a", "b", "c"]
    )
    for value, start, end in zip(values, (0, 1, 2), (1, 2, 5), strict=True):
        (batch,) = pa.ipc.open_stream(value)
        batch.validate(full=True)
        assert batch.schema.equals(arrow_schema(tensors)) and batch.num_rows == end - start
        assert np.array_equal(batch.column(0).to_numpy_ndarray(), scores[start:end])
        assert batch.column(1).to_pylist() == label[start:end].tolist()
        assert batch.column(2).storage.flatten().to_pylist() == (scores[start:end] % 2 == 0).reshape(-1).tolist()
        assert value == stream(batch)


# JSON


def json_input(dtype: str, data: object, *shape: int) -> dict[str, Any]:
    return {"name": "x", "datatype": tensor("x", dtype).datatype, "shape": shape, "data": data}


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [1.0, 2, 3.0, 4]])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint64", "float64"])
def test_json_data_is_flat_or_nested_and_whole_numbers_are_numbers(data: list[Any], dtype: str) -> None:
    value = infer_request(json_input(dtype, data, 2, 2), id="7", parameters={"a": [1]}, outputs=[{"name": "y"}])
    column = decode(JSON, value, tensor("x", dtype, 2)).columns["x"]
    assert column.tolist() == [[1, 2], [3, 4]] and column.dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "data", "code"),
    [
        ("int8", [128], Code.WRONG_DTYPE),
        ("int8", [-129], Code.WRONG_DTYPE),
        ("uint8", [-1], Code.WRONG_DTYPE),
        ("int64", [2**63], Code.WRONG_DTYPE),
        ("uint64", [2**64], Code.WRONG_DTYPE),
        ("int64", [10**25], Code.WRONG_DTYPE),
        ("int64", [1.5], Code.WRONG_DTYPE),
        ("int64", [1e17], Code.WRONG_DTYPE),
        ("int32", [True], Code.WRONG_DTYPE),
        ("int32", ["1"], Code.WRONG_DTYPE),
        ("bool", [1], Code.WRONG_DTYPE),
        ("bool", [None], Code.NULLS),
        ("float32", [{}], Code.WRONG_DTYPE),
        ("float16", [1e6], Code.NOT_FINITE),
        ("float32", [[[1]]], Code.WRONG_SHAPE),
    ],
)
def test_json_refuses_values_a_dtype_does_not_hold(dtype: str, data: list[Any], code: Code) -> None:
    assert code_of(JSON, infer_request(json_input(dtype, data, 1)), tensor("x", dtype)) is code


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int8", "bool"])
def test_json_carries_the_extremes_of_a_dtype(dtype: str) -> None:
    data: list[Any] = [True, False] if dtype == "bool" else [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
    column = decode(JSON, infer_request(json_input(dtype, data, 2)), tensor("x", dtype)).columns["x"]
    assert column.tolist() == data


def test_json_inputs_must_agree_on_rows() -> None:
    one, two = json_input("int8", [1], 1), {**json_input("int8", [1, 2], 2), "name": "y"}
    assert code_of(JSON, infer_request(one, two), tensor("x", "int8"), tensor("y", "int8")) is Code.WRONG_SHAPE


def test_json_lists_cannot_multiply_in_memory() -> None:
    value = b'{"inputs":[' + b"[[]]," * 1_000_000 + b"0]}"
    tracemalloc.start()
    try:
        assert code_of(JSON, value, SCORES) is Code.TOO_LARGE
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000


def test_a_json_response_is_an_open_inference_response() -> None:
    outputs = {"scores": np.array([[1, 2, 0.1], [4, np.nan, np.inf]], np.float32), "label": np.array([7, 2**60])}
    first, second = codec_for(JSON).encode_responses(
        outputs, np.array([0, 1, 2]), OUTPUTS, model="digits", version="3", request_ids=["a", "b/0/1"]
    )
    assert json.loads(first) == {
        "model_name": "digits",
        "model_version": "3",
        "id": "a",
        "outputs": [
            {"name": "scores", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 0.1]},
            {"name": "label", "shape": [1], "datatype": "INT64", "data": [7]},
        ],
    }
    assert json.loads(second)["outputs"][0]["data"] == [4.0, None, None]
    read = codec_for(JSON).decode_response(second, OUTPUTS)
    assert read["label"].tolist() == [2**60]
    assert np.array_equal(read["scores"], np.array([[4, np.nan, np.nan]], np.float32), equal_nan=True)


# What a client is told


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"scores": np.ones((1, 3)), "other": np.ones(1)},
        {"scores": np.ones(3)},
        {"scores": np.ones((0, 3))},
        {"scores": np.ones((1, 4))},
        {"scores": np.array([["a", "b", "c"]])},
    ],
    ids=["missing", "unknown", "no row dimension", "no rows", "other shape", "text"],
)
def test_a_client_cannot_encode_what_is_not_rows_of_the_inputs(content_type: str, columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tensor"):
        codec_for(content_type).encode_request(columns, (SCORES,))


def test_a_client_cannot_encode_values_that_would_change() -> None:
    codec = codec_for(JSON)
    for dtype, values in (("int8", [300]), ("int8", [1.5]), ("bool", [1]), ("uint8", [-1])):
        with pytest.raises(ValueError, match="tensor 'x'"):
            codec.encode_request({"x": np.array(values)}, (tensor("x", dtype),))
    with pytest.raises(ValueError, match="differ in rows"):
        codec.encode_request({"x": np.array([1]), "y": np.array([1, 2])}, (tensor("x", "int8"), tensor("y", "float32")))
    with pytest.raises(ValueError, match="NaN or infinity"):
        codec.encode_request({"scores": np.full((1, 3), np.nan)}, (SCORES,))


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("value", [b"", b"x", b"{}", b"\xff" * 8])
def test_a_client_is_told_of_what_is_no_response(content_type: str, value: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        codec_for(content_type).decode_response(value, (SCORES,))
