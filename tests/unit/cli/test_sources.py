"""Files and lines become requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from pipeline.cli.sources import Form, read_requests
from topics.client.stream import Outgoing
from topics.codecs import codec_for
from topics.errors import InputError
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, RAW
from topics.signature import Tensor

X = Tensor("x", np.dtype("float32"), (2,))
ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)
FULL = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}


def _rows(message: Outgoing, content_type: str) -> Any:
    decoded = codec_for(content_type).decode_requests([message.value], (X,), RequestLimits())
    assert not decoded.rejected
    return decoded.columns["x"].tolist()


def _read(path: Path, form: Form) -> list[Outgoing]:
    return list(read_requests(str(path), form))


def _lines(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines) + b"\n")
    return path


def test_a_full_request_goes_byte_for_byte(tmp_path: Path) -> None:
    text = b'{ "inputs" : [{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}], "id": "q" }'
    for tensors in ((X,), None):
        [message] = _read(_lines(tmp_path, text), Form(tensors))
        assert message == Outgoing(text, None, [])


def test_a_row_by_name_becomes_a_request_of_the_models_types(tmp_path: Path) -> None:
    messages = _read(_lines(tmp_path, {"x": [1, 2]}, b"", {"inputs": {"x": [[3, 4], [5, 6]]}}), Form((X,)))
    assert [_rows(message, JSON) for message in messages] == [[[1, 2]], [[3, 4], [5, 6]]]


def test_key_and_headers_of_a_line_win_over_the_commands(tmp_path: Path) -> None:
    line = {**FULL, "key": "mine", "headers": {"priority": 9, "a": "line"}}
    form = Form((X,), key=b"common", headers={"a": "command", "b": "command"}, deadline_ms=lambda: 77)
    first, second = _read(_lines(tmp_path, line, FULL), form)
    assert (first.key, second.key) == (b"mine", b"common")
    assert dict(first.headers) == {"deadline-ms": b"77", "priority": b"9", "a": b"line", "b": b"command"}
    assert orjson.loads(first.value or b"") == FULL


def test_json_lines_can_be_sent_in_another_content_type(tmp_path: Path) -> None:
    for message in _read(_lines(tmp_path, FULL, {"x": [1, 2]}), Form((X,), RAW)):
        assert dict(message.headers) == {"content-type": RAW.encode()}
        assert _rows(message, RAW) == [[1, 2]]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        {"x": [1, 2, 3]},
        {"y": [1, 2]},
        {**FULL, "headers": 5},
        b"\xff",
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, line: object) -> None:
    with pytest.raises(InputError, match="line 2"):
        _read(_lines(tmp_path, FULL, line), Form((X,)))


def test_rows_of_an_unknown_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--models"):
        _read(_lines(tmp_path, {"x": [1, 2]}), Form(None))


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz", "rows.arrow", "rows.arrows"])
@pytest.mark.parametrize("content_type", [None, JSON, RAW])
def test_every_row_of_a_file_is_sent_once_in_order(tmp_path: Path, name: str, content_type: str | None) -> None:
    path = tmp_path / name
    _write(path)
    messages = _read(path, Form((X,), content_type, rows_per_request=4))
    assert [row for message in messages for row in _rows(message, content_type or ARROW)] == ROWS.tolist()
    assert len(messages) == 3


def _write(path: Path) -> None:
    if path.suffix == ".npy":
        np.save(path, ROWS)
    elif path.suffix == ".npz":
        np.savez(path, x=ROWS)
    else:
        table = pa.table({"x": pa.array(ROWS.tolist(), pa.list_(pa.float32(), 2))})
        new = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("name", ["none.npy", "none.npz", "none.arrows", "none.jsonl"])
def test_a_missing_file_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="No such file"):
        _read(tmp_path / name, Form((X,)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("bad" + suffix, "noise") for suffix in (".npy", ".npz", ".arrows")),
        *(("empty" + suffix, "") for suffix in (".npy", ".npz", ".arrows")),
        ("cut.npz", "rows.npz"),
        ("array.npz", "rows.npy"),
        ("archive.npy", "rows.npz"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, content: str) -> None:
    _write(tmp_path / "rows.npy")
    _write(tmp_path / "rows.npz")
    contents = {"noise": b"not this at all", "": b""}
    whole = contents[content] if content in contents else (tmp_path / content).read_bytes()
    (tmp_path / name).write_bytes(whole[:100] if name == "cut.npz" else whole)
    with pytest.raises(InputError, match=name):
        _read(tmp_path / name, Form((X,)))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "objects.npy"
    np.save(path, np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects"):
        _read(path, Form((X,)))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 300), ("UINT64", -1)])
def test_a_number_that_its_type_cannot_hold_is_told_with_its_line(tmp_path: Path, datatype: str, value: int) -> None:
    line = {"inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": [value]}]}
    with pytest.raises(InputError, match=r"line 2: .*out of bounds"):
        _read(_lines(tmp_path, FULL, line), Form(None, ARROW))
