"""Which versions are tried: newer ones, newest first, once nobody touches them, and not again as they were refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from pipeline.core.errors import ModelError
from pipeline.models import add_model, read_model
from pipeline.models.newer import Seen, check_replaces, due, look
from tests.unit.models import graphs

ONE, TWO = (("f", 1, 1, 1),), (("f", 1, 1, 2),)
A, B = Path("a"), Path("b")


def versions(family: Path, *names: str) -> None:
    for name in names:
        (family / name).mkdir(parents=True)


def test_only_newer_versions_are_seen_the_newest_first(tmp_path: Path) -> None:
    versions(tmp_path, "9", "10", "8.9", "9.0.1", "11", ".12.part")
    (tmp_path / "99").write_text("a file")
    assert [each.path.name for each in look(tmp_path, "9")] == ["11", "10", "9.0.1"]


def test_what_is_named_like_no_version_is_seen_last(tmp_path: Path) -> None:
    versions(tmp_path, "1", "2", "v3", "latest")
    assert [each.path.name for each in look(tmp_path, "1")] == ["2", "v3", "latest"]


def test_a_directory_that_is_gone_holds_nothing_newer(tmp_path: Path) -> None:
    assert look(tmp_path / "gone", "1") == []


def test_the_state_changes_with_anything_in_the_directory(tmp_path: Path) -> None:
    def state() -> object:
        (seen,) = look(tmp_path, "1")
        return seen.state

    versions(tmp_path, "2")
    states = [state()]
    (tmp_path / "2" / "data").mkdir()
    states.append(state())
    (tmp_path / "2" / "data" / "w.bin").write_bytes(b"one")
    states.append(state())
    (tmp_path / "2" / "data" / "w.bin").write_bytes(b"another")
    states.append(state())
    assert state() == states[-1]
    os.utime(tmp_path / "2" / "data" / "w.bin", ns=(5, 5))
    states.append(state())
    (tmp_path / "elsewhere").write_bytes(b"another")
    (tmp_path / "elsewhere").replace(tmp_path / "2" / "data" / "w.bin")
    os.utime(tmp_path / "2" / "data" / "w.bin", ns=(5, 5))
    states.append(state())
    assert len(set(states)) == len(states)


def test_a_version_is_due_once_it_has_settled() -> None:
    seen = [Seen(B, ONE), Seen(A, TWO)]
    assert due(seen, before={}, refused={}) == []
    assert due(seen, before={A: ONE, B: ONE}, refused={}) == [Seen(B, ONE)]
    assert due(seen, before={A: TWO, B: ONE}, refused={}) == seen


def test_a_version_that_was_refused_is_due_again_only_when_it_changed() -> None:
    seen = [Seen(A, TWO)]
    assert due(seen, before={A: TWO}, refused={A: TWO}) == []
    assert due(seen, before={A: TWO}, refused={A: ONE}) == seen


def test_only_a_model_of_the_same_signature_replaces_another(tmp_path: Path) -> None:
    plus = add_model(tmp_path / "models", graphs.add(tmp_path / "plus.onnx"))
    again = add_model(tmp_path / "models", graphs.add(tmp_path / "plus.onnx"), rows_max=7)
    check_replaces(again, plus)
    for path in (
        graphs.pick(tmp_path / "pick.onnx"),
        graphs.save(
            tmp_path / "other.onnx",
            [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)],
            inputs={"x": (graphs.FLOAT, ("batch", 3))},
            outputs={"y": (TensorProto.DOUBLE, ("batch", 3))},
        ),
    ):
        other = add_model(tmp_path / "models", path, name="plus")
        with pytest.raises(
            ModelError, match=rf"{other.path}: its (in|out)puts are .*, but those of plus/1, in use, are"
        ):
            check_replaces(read_model(other.path), plus)
