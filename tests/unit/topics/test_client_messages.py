"""What a caller holds becomes columns and bytes; terminal records become arrays or errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from topics.client.messages import columns_of, content_type_of, encode, notice_of, outputs_of, tensors_of
from topics.client.requests import Maker
from topics.codecs import codec_for
from topics.errors import Expired, InputError, Rejected, TopicsError
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, RAW, Header, Status, Terminal
from topics.signature import Signature, Tensor

IMAGE = Tensor("image", np.dtype("float32"), (2, 3))
AGE = Tensor("age", np.dtype("int64"), ())
ROW = np.arange(6, dtype=np.float32).reshape(2, 3)
SIGNATURE = Signature((IMAGE,), (Tensor("p", np.dtype("float32"), (2,)), Tensor("label", np.dtype("int64"), ())))
OUTPUTS = {"p": np.array([[0.25, 0.75]], np.float32), "label": np.array([1])}


def _record(content_type: str, value: bytes, status: Status = Status.OK, **more: Any) -> Terminal:
    return Terminal(status, value, None, "id", "t/0/0", "m/1", content_type, **more)


def _prediction(content_type: str) -> Terminal:
    [value] = codec_for(content_type).encode_responses(
        OUTPUTS, [0, 1], SIGNATURE.outputs, model="m", version="1", request_ids=["id"]
    )
    return _record(content_type, value)


@pytest.mark.parametrize("given", [ROW, ROW[np.newaxis], ROW.tolist(), ROW.astype("float64"), {"image": [ROW]}])
def test_one_row_is_taken_with_or_without_its_row_dimension(given: Any) -> None:
    columns = columns_of(given, (IMAGE,))
    assert columns["image"].dtype == np.float32
    np.testing.assert_array_equal(columns["image"], ROW[np.newaxis])


def test_scalars_and_tensors_of_several_rows_go_together() -> None:
    columns = columns_of({"age": [7, 8], "image": np.stack([ROW, ROW])}, (IMAGE, AGE))
    assert list(columns) == ["image", "age"]
    assert [column.shape for column in columns.values()] == [(2, 2, 3), (2,)]


@pytest.mark.parametrize(
    ("given", "tensors", "said"),
    [
        (ROW, (IMAGE, AGE), "one array given"),
        (ROW, None, "unknown"),
        ({"picture": ROW}, (IMAGE,), "the model takes"),
        ({"image": ROW, "age": [1, 2]}, (IMAGE, AGE), "same number of rows"),
        ({"image": np.empty((0, 2, 3))}, (IMAGE,), "at least 1"),
        ({"image": ROW[:, :2]}, (IMAGE,), "shape"),
        ({"image": [["a"]]}, (IMAGE,), "image"),
        ({"image": [[1, 2], [3]]}, (IMAGE,), "image"),
        ({"age": [1.5]}, (AGE,), "do not fit"),
        ({"age": np.float64(2.5)}, (AGE,), "do not fit"),
        ({"age": 5}, None, "has no rows"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_their_name(given: Any, tensors: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        columns_of(given, tensors)


def test_whole_floats_fit_an_integer_tensor() -> None:
    assert columns_of({"age": [3.0, 4.0]}, (AGE,))["age"].tolist() == [3, 4]


def test_an_unknown_content_type_is_refused_and_short_names_are_known() -> None:
    assert [content_type_of(name) for name in ("json", "ARROW", "raw", JSON)] == [JSON, ARROW, RAW, JSON]
    with pytest.raises(InputError, match="json, arrow or raw"):
        content_type_of("yaml")


@pytest.mark.parametrize("content_type", [JSON, ARROW, RAW])
def test_what_is_encoded_is_what_a_worker_decodes(content_type: str) -> None:
    value = encode(columns_of(ROW, (IMAGE,)), content_type, (IMAGE,), "id")
    decoded = codec_for(content_type).decode_requests([value], (IMAGE,), RequestLimits())
    np.testing.assert_array_equal(decoded.columns["image"], ROW[np.newaxis])


def test_columns_describe_themselves_without_a_signature() -> None:
    assert tensors_of({"image": ROW[np.newaxis]}) == (IMAGE,)
    with pytest.raises(InputError, match="dtype"):
        tensors_of({"image": np.array([["a"]])})


@pytest.mark.parametrize(
    ("content_type", "signature"), [(JSON, None), (ARROW, None), (JSON, SIGNATURE), (ARROW, SIGNATURE)]
)
def test_a_prediction_is_read_with_and_without_a_signature(content_type: str, signature: Signature | None) -> None:
    outputs = outputs_of(_prediction(content_type), signature)
    assert outputs.keys() == OUTPUTS.keys()
    for name, expected in OUTPUTS.items():
        assert outputs[name].dtype == expected.dtype
        np.testing.assert_array_equal(outputs[name], expected)


def test_raw_predictions_need_the_signature() -> None:
    np.testing.assert_array_equal(outputs_of(_prediction(RAW), SIGNATURE)["p"], OUTPUTS["p"])
    with pytest.raises(TopicsError, match="signature"):
        outputs_of(_prediction(RAW), None)


@pytest.mark.parametrize("content_type", [JSON, ARROW, "text/plain"])
@pytest.mark.parametrize("signature", [None, SIGNATURE])
@pytest.mark.parametrize("value", [b"", b"\x00broken", b'{"outputs": [{}]}', b"[]"])
def test_a_broken_prediction_is_one_clear_error(content_type: str, signature: Signature | None, value: bytes) -> None:
    with pytest.raises(TopicsError, match="cannot read prediction id"):
        outputs_of(_record(content_type, value), signature)


@pytest.mark.parametrize(("status", "error"), [(Status.EXPIRED, Expired), (Status.REJECTED, Rejected)])
def test_a_notice_is_raised_with_its_code_and_reason(status: Status, error: type[Expired | Rejected]) -> None:
    notice = _record(JSON, orjson.dumps({"code": "c", "reason": "why"}), status)
    with pytest.raises(error, match="c: why") as told:
        outputs_of(notice, SIGNATURE)
    assert (told.value.code, told.value.reason, told.value.request_id) == ("c", "why", "id")


def test_a_notice_without_words_still_has_a_code() -> None:
    assert notice_of(_record(JSON, b"", Status.REJECTED))[0] == "unknown"
    assert notice_of(_record(JSON, b"[]", Status.REJECTED))[0] == "unknown"
    assert notice_of(_record(JSON, b"", Status.REJECTED, error_code="c", error_reason="r")) == ("c", "r")


def test_a_request_says_what_the_call_said() -> None:
    maker = Maker(SIGNATURE, clock=lambda: 1000.0, new_id=lambda: "fresh")
    request = maker.request(
        ROW, key="k", deadline_in_ms=250, content_type="raw", priority=9, traceparent="00-a-b-01", stages=True
    )
    assert request.key == b"k"
    assert dict(request.headers()) == {
        Header.REQUEST_ID: b"fresh",
        Header.CONTENT_TYPE: RAW.encode(),
        Header.DEADLINE_MS: b"1000250",
        Header.PRIORITY: b"9",
        Header.TRACEPARENT: b"00-a-b-01",
        Header.STAGES: b"1",
    }


def test_requests_are_arrow_with_a_signature_and_json_without() -> None:
    assert Maker(SIGNATURE).request(ROW).content_type == ARROW
    assert Maker(None).request({"image": ROW[np.newaxis]}).content_type == JSON


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_priority_outside_0_to_9_is_refused(priority: int) -> None:
    with pytest.raises(InputError, match="priority"):
        Maker(SIGNATURE).request(ROW, priority=priority)


@pytest.mark.parametrize(
    "column", [pa.array([{"a": 1}]), pa.array(["a"]).dictionary_encode()], ids=["struct", "dictionary"]
)
def test_a_prediction_of_types_that_numpy_has_not_is_one_clear_error(column: Any) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"p": column})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TopicsError, match="cannot read prediction"):
        outputs_of(_record(ARROW, sink.getvalue().to_pybytes()), None)


def test_a_prediction_that_is_no_arrow_is_one_clear_error() -> None:
    value = bytearray(_prediction(ARROW).value or b"")
    value[3] = 0x80  # of the mark that a message begins
    with pytest.raises(TopicsError, match="cannot read prediction"):
        outputs_of(_record(ARROW, bytes(value)), None)
    value[7] = 0xE7  # its length, negative
    value[3] = 0xFF
    with pytest.raises(TopicsError, match="cannot read prediction"):
        outputs_of(_record(ARROW, bytes(value)), None)


def test_a_request_id_that_no_notice_could_name_is_refused() -> None:
    maker = Maker(SIGNATURE)
    assert maker.request(ROW, request_id="é" * 2048).request_id
    with pytest.raises(InputError, match="request id of 4098 bytes"):
        maker.request(ROW, request_id="é" * 2049)


@pytest.mark.parametrize("within_ms", [float("inf"), float("nan")])
def test_a_deadline_that_is_no_number_is_refused(within_ms: float) -> None:
    with pytest.raises(InputError, match="a deadline in"):
        Maker(SIGNATURE).request(ROW, deadline_in_ms=within_ms)
