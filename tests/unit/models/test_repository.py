"""The repository: what is listed and added, and which version is loaded. What is refused: test_bad_models.py."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ModelError
from pipeline.models import BUNDLED, Model, add_model, held_out, list_models, load_repository, repository, verify
from pipeline.models.manifest import read_manifest
from tests.unit.models import graphs
from tests.unit.models.bad_models import WEIGHTS, good_model, hard_link, write_manifest
from topics.signature import Signature, Tensor


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A verified model whose weights lie in a file of their own."""
    return good_model(tmp_path / "models", tmp_path / "source", classes=["a", "b", "c"])


def test_what_is_added_is_whole_and_says_what_it_is(model: Model, tmp_path: Path) -> None:
    assert model.label == "plus/1"
    assert model.path == tmp_path / "models" / "plus" / "1"
    assert set(model.manifest.files) == {"plus.onnx", "data/w.bin"}
    assert model.signature == Signature(
        (Tensor("x", np.dtype("float32"), (3,)),), (Tensor("y", np.dtype("float32"), (3,)),)
    )
    assert load_repository(tmp_path / "models") == [model]
    assert [path.name for path in model.path.parent.iterdir()] == ["1"]


def test_the_listing_is_what_the_design_says(model: Model) -> None:
    assert model.to_dict() == {
        "name": "plus",
        "version": "1",
        "path": str(model.path),
        "backend": "onnxruntime",
        "rows_max": 256,
        "classes": ["a", "b", "c"],
        "topics": {
            "requests": "plus.requests",
            "predictions": "plus.predictions",
            "dead_letters": "plus.dead-letters",
        },
        "signature": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [3]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [3]}],
        },
    }


def test_the_next_version_follows_the_newest_by_number_and_only_the_newest_is_loaded(tmp_path: Path) -> None:
    source, models = graphs.add(tmp_path / "plus.onnx"), tmp_path / "models"
    versions = [add_model(models, source, version=version).version for version in ("9", None, "1.5", None)]
    assert versions == ["9", "10", "1.5", "11"]
    add_model(models, source, name="other")
    assert [model.label for model in list_models(models)] == ["other/1", "plus/1.5", "plus/9", "plus/10", "plus/11"]
    assert [model.label for model in load_repository(models)] == ["other/1", "plus/11"]


def test_an_older_version_may_be_broken_without_harm_to_the_newest(tmp_path: Path) -> None:
    source, models = graphs.add(tmp_path / "plus.onnx"), tmp_path / "models"
    old, new = add_model(models, source), add_model(models, source)
    old.file.write_bytes(b"broken")
    assert load_repository(models) == [new]
    with pytest.raises(ModelError, match="sha256"):
        verify(old)


def test_a_directory_with_a_manifest_is_added_as_it_says_but_for_what_is_given(model: Model, tmp_path: Path) -> None:
    write_manifest(Model(replace(model.manifest, answer_rejected=False), model.path))
    copy = add_model(tmp_path / "elsewhere", model.path, name="renamed", version="3", rows_max=6)
    assert copy == Model(read_manifest(copy.path), tmp_path / "elsewhere" / "renamed" / "3")
    assert (copy.manifest.rows_max, copy.manifest.buckets) == (6, (1, 2, 3, 4, 6))
    assert copy.manifest.classes == ("a", "b", "c")
    assert not copy.manifest.answer_rejected
    verify(copy)


def test_a_version_never_changes(model: Model, tmp_path: Path) -> None:
    before = model.file.read_bytes()
    other = graphs.pick(tmp_path / "plus.onnx")
    with pytest.raises(ModelError, match="exists already"):
        add_model(tmp_path / "models", other, version="1")
    assert model.file.read_bytes() == before
    verify(model)


def test_of_two_that_add_one_version_at_once_one_is_refused_and_the_other_whole(tmp_path: Path) -> None:
    source, barrier, refused = graphs.add(tmp_path / "plus.onnx"), threading.Barrier(2), []

    def attempt() -> None:
        barrier.wait(30)
        try:
            add_model(tmp_path / "models", source, version="1")
        except ModelError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 1
    assert [path.name for path in (tmp_path / "models" / "plus").iterdir()] == ["1"]
    assert [model.label for model in load_repository(tmp_path / "models")] == ["plus/1"]


def test_a_reader_never_sees_part_of_an_addition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment before the rename, which is where a crash would leave it, the repository lists nothing."""
    seen: list[list[Model]] = []

    def look(model: Model, repository: Path) -> None:
        verify(model, repository)
        seen.append(list_models(tmp_path / "models"))

    monkeypatch.setattr(repository, "verify", look)
    add_model(tmp_path / "models", graphs.add(tmp_path / "plus.onnx"))
    assert seen == [[]]


def test_a_failed_addition_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ModelError, match="No space left"):
        add_model(tmp_path / "models", graphs.add(tmp_path / "plus.onnx"))
    assert list((tmp_path / "models" / "plus").iterdir()) == []


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/hostname", "link.bin", "folder/outside.bin", "hard.bin", "missing.bin"]
)
def test_an_onnx_file_that_refers_outside_its_directory_is_not_added(location: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    outside = tmp_path / "outside.bin"
    outside.write_bytes(WEIGHTS)
    (source / "link.bin").symlink_to(outside)
    (source / "folder").symlink_to(tmp_path)
    os.link(outside, source / "hard.bin")
    if location.startswith("folder"):
        (source / "hard.bin").unlink()  # the file itself is plain: only its folder is a link
    with pytest.raises(ModelError, match=r"outside its directory|link|No such file"):
        add_model(tmp_path / "models", graphs.add(source / "plus.onnx", location=location))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["a.b", "..", "", "a/b", "a\0b"])
def test_a_name_that_cannot_be_a_topic_is_not_added(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model name"):
        add_model(tmp_path / "models", graphs.add(tmp_path / "plus.onnx"), name=name)
    assert not (tmp_path / "models").exists()


def test_a_pickle_is_not_added_whatever_its_name(tmp_path: Path) -> None:
    for name in ("model.pt", "model.onnx"):
        (tmp_path / name).write_bytes(pickle.dumps({}))
        with pytest.raises(ModelError, match="pickle"):
            add_model(tmp_path / "models", tmp_path / name)


@pytest.mark.parametrize(("source", "reason"), [("missing.onnx", "No such file"), ("m.txt", "not a model format")])
def test_a_source_that_is_no_model_is_told_clearly(source: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("hello")
    with pytest.raises(ModelError, match=reason):
        add_model(tmp_path / "models", tmp_path / source)


def test_a_repository_that_is_missing_or_empty_is_told_clearly(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        load_repository(tmp_path / "missing")
    with pytest.raises(ModelError, match="holds no model"):
        load_repository(tmp_path)


def test_a_directory_under_another_name_than_its_manifest_says_is_refused(model: Model, tmp_path: Path) -> None:
    model.path.rename(model.path.with_name("2"))
    with pytest.raises(ModelError, match="manifest says plus/1"):
        list_models(tmp_path / "models")


def test_files_an_installer_links_to_its_cache_are_no_reason_to_refuse_a_bundled_model(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard_link(model)
    monkeypatch.setattr(repository, "_PACKAGE", model.path.parents[1].resolve())
    verify(model)


def test_the_bundled_repository_holds_the_digit_classifier_and_its_images() -> None:
    (model,) = load_repository(BUNDLED)
    assert model.label == "digits/1"
    assert model.signature.to_dict() == {
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 8, 8]}],
        "outputs": [
            {"name": "probabilities", "dtype": "float32", "shape": [10]},
            {"name": "label", "dtype": "int64", "shape": []},
        ],
    }
    assert model.manifest.classes == tuple("0123456789")
    images, labels = held_out()
    assert images.shape == (len(labels), 1, 8, 8)
    assert (images.dtype, labels.dtype) == (np.dtype("float32"), np.dtype("int64"))
    assert (images.min(), images.max()) == (0, 16)
    assert set(labels.tolist()) == set(range(10))


def test_the_linear_model_of_the_bench_takes_fifty_numbers() -> None:
    found = load_repository(Path(repository.__file__).parents[1] / "load" / "models")
    (model,) = [model for model in found if model.name == "linear"]
    assert (model.label, model.manifest.rows_max) == ("linear/1", 4096)
    assert model.signature.to_dict() == {
        "inputs": [{"name": "features", "dtype": "float32", "shape": [50]}],
        "outputs": [{"name": "score", "dtype": "float32", "shape": []}],
    }
