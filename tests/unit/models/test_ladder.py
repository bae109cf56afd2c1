"""Ladders in a repository: a rung is verified with its model, and stands in for it or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ModelError
from pipeline.models import Model, Rung, add_model, list_models, load_repository, rungs_of, verify
from pipeline.models.manifest import MANIFEST
from tests.unit.models import graphs
from topics.signature import Tensor

ANSWER = (
    'slo_ms = 20\n[[ladder]]\nname = "fast"\nmodel = "fast/1"\n[[ladder]]\nname = "default"\nanswer.y = [0, 0.5, 1]\n'
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """``plus/1`` with a ladder: ``fast/1`` and a constant."""
    for name in ("plus", "fast"):
        add_model(tmp_path / "models", graphs.add(tmp_path / f"{name}.onnx"), rows_max=8)
    with_ladder(tmp_path / "models" / "plus" / "1", ANSWER)
    return tmp_path / "models"


def with_ladder(folder: Path, ladder: str) -> None:
    text = (folder / MANIFEST).read_text().replace("[[inputs]]", ladder + "\n[[inputs]]", 1)
    (folder / MANIFEST).write_text(text)


def plus(models: Path) -> Model:
    return list_models(models)[-1]


def test_a_ladder_is_loaded_with_its_model(models: Path) -> None:
    fast, model = load_repository(models)
    assert (fast.label, model.label) == ("fast/1", "plus/1")
    assert model.manifest.rungs == ("full", "fast", "default")
    assert [rung.label for rung in rungs_of(model)] == ["fast/1"]
    (answer,) = model.manifest.ladder[-1].row(model.signature.outputs).values()
    assert answer.dtype == np.float32 and answer.tolist() == [0, 0.5, 1]
    assert model.to_dict()["ladder"] == ["full", "fast", "default"]
    assert "ladder" not in fast.to_dict()


def test_a_model_with_a_ladder_is_added_where_its_rungs_are(models: Path, tmp_path: Path) -> None:
    added = add_model(models, models / "plus" / "1", version="2")
    assert added.manifest.rungs == ("full", "fast", "default")
    verify(plus(models))
    with pytest.raises(ModelError, match="fast/1: no manifest"):
        add_model(tmp_path / "elsewhere", models / "plus" / "1")


def test_a_rung_that_is_changed_refuses_its_model(models: Path) -> None:
    graphs.unknown_operator(models / "fast" / "1" / "fast.onnx")
    with pytest.raises(ModelError, match=r"fast\.onnx: its sha256 is"):
        verify(plus(models))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("rows_max = 8\nbuckets = [1, 2, 3, 4, 6, 8]", "rows_max = 4\nbuckets = [4]", "rows_max"),
        ("buckets = [1, 2, 3, 4, 6, 8]", "buckets = [1, 8]", "buckets"),
        ("classes = []", 'classes = ["a"]', "classes"),
    ],
)
def test_a_rung_whose_batches_are_others_is_refused(models: Path, old: str, new: str, what: str) -> None:
    manifest = models / "fast" / "1" / MANIFEST
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, new))
    with pytest.raises(ModelError, match=f"fast/1 cannot stand in for plus/1: its {what} is another"):
        verify(plus(models))


def test_a_rung_of_another_signature_is_refused(models: Path, tmp_path: Path) -> None:
    add_model(models, graphs.pick(tmp_path / "pick.onnx"), name="fast", version="2", rows_max=8)
    manifest = models / "plus" / "1" / MANIFEST
    manifest.write_text(manifest.read_text().replace("fast/1", "fast/2"))
    with pytest.raises(ModelError, match="fast/2 cannot stand in for plus/1: its signature is another"):
        verify(plus(models))


def test_an_older_version_is_served_where_a_rung_is_missing(models: Path) -> None:
    add_model(models, models / "plus" / "1", version="2")
    manifest = models / "plus" / "2" / MANIFEST
    manifest.write_text(manifest.read_text().replace("fast/1", "fast/7"))
    assert [model.label for model in load_repository(models)] == ["fast/1", "plus/1"]


def test_whole_numbers_are_a_float_outputs_values_but_not_the_reverse() -> None:
    number, label = Tensor("y", np.dtype("float32"), ()), Tensor("y", np.dtype("int8"), ())
    assert Rung("d", answer={"y": 3}).row([number])["y"] == np.float32(3)
    assert Rung("d", answer={"y": 3.0}).row([label])["y"].dtype == np.int8
    for value in (300, 0.5, float("nan"), 10**30):
        with pytest.raises(ValueError, match="y int8"):
            Rung("d", answer={"y": value}).row([label])
    for value in (float("inf"), 1e300):
        with pytest.raises(ValueError, match="y float32"):
            Rung("d", answer={"y": value}).row([number])
