"""Reading ONNX files without a runtime: every external reference is seen, and no bytes can hurt the reader."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import pipeline.load
from pipeline.core.errors import ModelError
from pipeline.models.onnx import external_files, open_bare, signature_of
from tests.unit.models import graphs


def files_of(path: Path) -> frozenset[str]:
    return external_files(path, path.read_bytes())


def opened(path: Path) -> Any:
    return open_bare(path, path.read_bytes(), {})


def external(location: str) -> TensorProto:
    tensor = TensorProto(name=location, data_type=graphs.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_external_data_is_found_wherever_a_tensor_can_be(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=external("in-subgraph"))], "inner", [], [])
    branch = helper.make_node("If", ["q"], ["r"], then_branch=inner, else_branch=inner)
    listed = helper.make_node("Listed", [], ["l"], domain="d")
    listed.attribute.append(helper.make_attribute("ts", [external("in-list")]))
    constant = helper.make_node("Constant", [], ["c"], value=external("in-graph-list"))
    listed.attribute.append(helper.make_attribute("gs", [helper.make_graph([constant], "one", [], [])]))
    sparse = onnx.SparseTensorProto(values=external("sparse-values"), indices=external("sparse-indices"), dims=[3])
    one, many = (onnx.SparseTensorProto(values=external(name)) for name in ("in-sparse", "in-sparse-list"))
    listed.attribute.append(onnx.AttributeProto(name="s", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=one))
    listed.attribute.append(
        onnx.AttributeProto(name="m", type=onnx.AttributeProto.SPARSE_TENSORS, sparse_tensors=[many])
    )
    graph = helper.make_graph([branch, listed], "outer", [], [], [external("initializer")], sparse_initializer=[sparse])
    model = helper.make_model(graph)
    model.functions.append(
        helper.make_function(
            "d", "F", [], ["c"], [helper.make_node("Constant", [], ["c"], value=external("in-function"))], []
        )
    )
    model.training_info.add(
        initialization=helper.make_graph([], "i", [], [], [external("in-training-start")]),
        algorithm=helper.make_graph([], "t", [], [], [external("in-training")]),
    )
    model.functions[0].attribute_proto.append(helper.make_attribute("default", external("in-function-default")))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert files_of(path) == {
        "initializer",
        "in-subgraph",
        "in-list",
        "in-graph-list",
        "sparse-values",
        "sparse-indices",
        "in-sparse",
        "in-sparse-list",
        "in-function",
        "in-function-default",
        "in-training",
        "in-training-start",
    }


def test_a_model_with_its_weights_inside_refers_to_nothing(tmp_path: Path) -> None:
    assert files_of(graphs.add(tmp_path / "m.onnx")) == frozenset()


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x80\x04.", b"\x3a\xff\xff\xff\xff\x7f", b"\x08\x09", b"\x3a\x00\x3a\x7f"]
)
def test_what_is_not_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX file"):
        files_of(tmp_path / "m.onnx")


def test_a_bomb_of_nested_graphs_is_refused(tmp_path: Path) -> None:
    data = b""
    for _ in range(2_000):  # graph{node{attribute{graph{...
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + _varint(len(data)) + data
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + _varint(len(data)) + data)
    with pytest.raises(ModelError, match="nested too deep"):
        files_of(tmp_path / "m.onnx")


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    whole = bytearray(graphs.add(path, location="w.bin").read_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1)):
        whole[at] = byte
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with suppress(ModelError):
        assert all(isinstance(name, str) for name in files_of(path))


def test_the_signature_is_that_of_one_row(tmp_path: Path) -> None:
    path = graphs.pick(tmp_path / "m.onnx")
    signature = signature_of(opened(path), path)
    assert [(t.name, t.dtype, t.shape) for t in (*signature.inputs, *signature.outputs)] == [
        ("at", np.dtype("int64"), ()),
        ("image", np.dtype("float32"), (2, 2)),
        ("picked", np.dtype("int64"), ()),
        ("copied", np.dtype("float32"), (2, 2)),
    ]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((4, 3), "free batch size"), (("batch", "wide"), "only the first"), ((), "free batch size")],
)
def test_a_shape_that_rows_cannot_have_is_refused(shape: tuple[int | str, ...], reason: str, tmp_path: Path) -> None:
    node = helper.make_node("Abs", ["x"], ["y"])
    side = (graphs.FLOAT, shape)
    path = graphs.save(tmp_path / "m.onnx", [node], inputs={"x": side}, outputs={"y": side})
    with pytest.raises(ModelError, match=reason):
        signature_of(opened(path), path)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [(("batch", 3), "sequence's dimension must be free"), (("batch", "length", "wide"), "only the")],
)
def test_a_sequence_has_one_more_free_dimension(shape: tuple[int | str, ...], reason: str, tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    bad = graphs.save(
        tmp_path / "m.onnx", [node], inputs={"x": (graphs.FLOAT, shape)}, outputs={"y": (graphs.FLOAT, shape)}
    )
    with pytest.raises(ModelError, match=reason):
        signature_of(opened(bad), bad, {"x": 7})
    (encoder,) = (Path(pipeline.load.__file__).parent / "models" / "encoder").glob("1/*.onnx")
    assert signature_of(opened(encoder), encoder, {"tokens": 7}).inputs[0].shape == (7,)


def test_a_dtype_no_column_can_carry_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    side = (TensorProto.STRING, ("batch",))
    path = graphs.save(tmp_path / "m.onnx", [node], inputs={"x": side}, outputs={"y": side})
    with pytest.raises(ModelError, match="no column can carry"):
        signature_of(opened(path), path)


def test_an_operator_the_runtime_lacks_is_told_in_one_line(tmp_path: Path) -> None:
    path = graphs.unknown_operator(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="Conjure") as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_a_graph_that_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    side = (graphs.FLOAT, ("batch", 3))
    table = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    node = helper.make_node("Add", ["x", "missing"], ["y"])
    path = graphs.save(tmp_path / "m.onnx", [node], inputs={"x": side}, outputs={"y": side}, constants=[table])
    with pytest.raises(ModelError, match="refuses"):
        opened(path)
