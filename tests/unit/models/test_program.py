"""Programs of torch.export become data, and what torch would run or unpickle is refused; torch is not needed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ModelError
from pipeline.models import add_model, verify
from pipeline.models.program import clean, read_signature
from tests.unit.models.archives import CONSTANTS, EXAMPLES, GRAPH, PICK, WEIGHTS, changed, contents, rewritten
from tests.unit.models.bad_models import listed_as_they_are
from topics.signature import Signature, Tensor

WRITTEN = PICK.read_bytes()
SYMBOL = "Symbol('s40', positive=True, integer=True)"
FREE = f'{{"as_expr": {{"expr_str": "{SYMBOL}", "hint": {{"as_int": 3}}}}}}'


def test_a_program_is_written_anew_without_its_pickled_examples_and_always_alike() -> None:
    cleaned = clean(PICK, WRITTEN)
    assert contents(WRITTEN)[EXAMPLES][:2] == b"PK"  # torch.save's, a pickle inside
    assert contents(cleaned)[EXAMPLES] == b""
    assert contents(cleaned)["data/weights/weight_0"] == np.arange(0, 100, 10).tobytes()
    assert clean(PICK, cleaned) == cleaned


def test_what_says_where_a_program_came_from_is_left_behind() -> None:
    assert all(part in contents(WRITTEN)[GRAPH] for part in (b"nn_module_stack", b"L['"))
    graph = contents(clean(PICK, WRITTEN))[GRAPH]
    assert b"nn_module_stack" not in graph
    assert b"L['" not in graph  # guards, which torch runs as Python


def test_the_signature_is_read_without_torch() -> None:
    image = ("float32", (2, 2))
    tensors = {
        name: Tensor(name, np.dtype(dtype), shape)
        for name, (dtype, shape) in {
            "at": ("int64", ()),
            "image": image,
            "picked": ("int64", ()),
            "copied": image,
        }.items()
    }
    assert read_signature(PICK, clean(PICK, WRITTEN), {}) == Signature(
        (tensors["at"], tensors["image"]), (tensors["picked"], tensors["copied"])
    )


def test_what_is_added_holds_no_pickle_and_one_that_does_is_not_loaded(tmp_path: Path) -> None:
    model = add_model(tmp_path / "models", PICK, rows_max=4)
    assert (model.label, model.manifest.backend) == ("pick/1", "torch")
    assert contents(model.file.read_bytes())[EXAMPLES] == b""
    verify(model)
    model.file.write_bytes(WRITTEN)
    with pytest.raises(ModelError, match=r"pick\.pt2: .*holds a pickle"):
        verify(listed_as_they_are(model))


def test_another_runtime_than_torch_is_refused_for_a_program(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"backend 'openvino' does not read \.pt2"):
        add_model(tmp_path / "models", PICK, backend="openvino")


BAD = {
    "an operator that is a function of the machine's": (
        GRAPH,
        {"torch.ops.aten.index.Tensor": "torch.serialization.os.system"},
        "target",
    ),
    "an operator that opens a file": (GRAPH, {"torch.ops.aten.index.Tensor": "torch.ops.aten.from_file.out"}, "target"),
    "an operator of another library": (GRAPH, {"torch.ops.aten.index.Tensor": "torch.ops.mine.index.Tensor"}, "target"),
    "a function of Python's": (GRAPH, {"torch.ops.aten.index.Tensor": "_operator.methodcaller"}, "target"),
    "a size that is code": (GRAPH, {SYMBOL: "__import__('os').system('true')"}, "expr_str"),
    "a size that is a call of something else": (GRAPH, {SYMBOL: "Lambda(s40, s40)"}, "expr_str"),
    "a size without end": (GRAPH, {SYMBOL: "9**9**9**9"}, "expr_str"),
    "a size that could be tried in many ways": (GRAPH, {SYMBOL: "1" * 900 + "!"}, "expr_str"),
    "a size too long to read": (GRAPH, {SYMBOL: "1+" * 600 + "1"}, "expr_str"),
    "a name that is code": (GRAPH, {'"name": "clone"': '"name": "clone = __import__()"'}, "name"),
    "an argument whose name is code": (GRAPH, {'["at", "image"]': '["at", "image=print()"]'}, "arguments"),
    "answers whose names are code": (GRAPH, {"copied": "copied'+"}, "more than tensors"),
    "answers made by a class": (
        GRAPH,
        {r'"out_spec": "[1, {\"type\": \"builtins.dict\"': r'"out_spec": "[1, {\"type\": \"collections.defaultdict\"'},
        "more than tensors",
    ),
    "answers with a module": (GRAPH, {r"\"[\\\"picked\\\", ": r"\"[{\\\"__enum__\\\": true}, "}, "more than tensors"),
    "inputs that are no tensors": (GRAPH, {'"in_spec": "[1, {': '"in_spec": "[2, {'}, "tensors in order"),
    "another device": (GRAPH, {'"type": "cpu"': '"type": "cuda"'}, "type 'cuda'"),
    "a part of it on another device": (WEIGHTS, {'"type": "cpu"': '"type": "cuda"'}, "type 'cuda'"),
    "a schema of the future": (GRAPH, {'"major": 8': '"major": 9'}, "schema is version 9"),
    "a fixed batch size": (GRAPH, {FREE: '{"as_int": 3}'}, "free batch size"),
    "a type without a column": (GRAPH, {'"dtype": 7': '"dtype": 13'}, "no column"),
    "a buffer that changes": (
        GRAPH,
        {
            '{"user_output": {"arg": {"as_tensor": {"name": "clone"}}}}': (
                '{"buffer_mutation": {"arg": {"name": "clone"}, "buffer_name": "table"}}'
            )
        },
        "eval",
    ),
    "a pickled weight": (WEIGHTS, {'"use_pickle": false': '"use_pickle": true'}, "is a pickle"),
    "an object among the constants": (
        CONSTANTS,
        {"{}": '{"o": {"path_name": "custom_obj_0", "use_pickle": false}}'},
        "is a pickle",
    ),
    "a weight outside": (WEIGHTS, {"weight_0": "../../weight_0"}, "is a pickle"),
    "a weight that is missing": (WEIGHTS, {"weight_0": "weight_1"}, "it has no 'data/weights/weight_1'"),
    "no JSON": (GRAPH, {"{": "["}, "not a torch.export program"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_torch_would_run_or_does_not_belong_is_refused(name: str, tmp_path: Path) -> None:
    file, texts, reason = BAD[name]
    path = tmp_path / "bad.pt2"
    path.write_bytes(changed(WRITTEN, file, texts))
    with pytest.raises(ModelError, match=reason) as told:
        add_model(tmp_path / "models", path)
    assert "\n" not in str(told.value)
    path.write_bytes(changed(clean(PICK, WRITTEN), file, texts))  # as one put into a repository by hand
    with pytest.raises(ModelError, match=reason):
        read_signature(path, path.read_bytes(), {})


@pytest.mark.parametrize("name", ["data/aotinductor/model/model.so", "data/extra/x", "data/weights.py"])
def test_what_has_no_place_in_a_program_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no place"):
        clean(PICK, rewritten(contents(WRITTEN) | {name: b""}))


@pytest.mark.parametrize("name", ["data/weights/model.pt", "data/constants/model.pt", ".data/x"])
def test_what_the_program_does_not_name_is_left_behind(name: str) -> None:
    cleaned = clean(PICK, rewritten(contents(WRITTEN) | {name: pickle.dumps({})}))
    assert cleaned == clean(PICK, WRITTEN)


def test_an_archive_that_unpacks_to_more_than_it_is_or_is_cut_off_is_refused() -> None:
    flagged = bytearray(WRITTEN)
    flagged[flagged.rindex(b"PK\x01\x02") + 8] |= 1 << 5  # "compressed patched data", which zipfile cannot read
    for data in (
        rewritten(contents(WRITTEN), zipfile.ZIP_DEFLATED),
        bytes(flagged),
        WRITTEN[:-300],
        WRITTEN[300:],
        b"PK\x03\x04",
        b"",
    ):
        with pytest.raises(ModelError, match="not a torch"):
            clean(PICK, data)
