"""Every bad model is refused in one line, where it is verified, added and loaded, and harms no good version."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from pipeline.core.errors import ModelError
from pipeline.infer.backends import backend_for
from pipeline.models import Model, add_model, load_repository, verify
from pipeline.models.manifest import MANIFEST
from tests.unit.models import graphs
from tests.unit.models.bad_models import (
    BAD_MODELS,
    WEIGHTS,
    BadModel,
    extra,
    good_model,
    safetensors,
    tensors,
    write_manifest,
)

every_kind = pytest.mark.parametrize("bad", BAD_MODELS, ids=lambda bad: bad.kind)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return good_model(tmp_path / "models", tmp_path / "source")


@every_kind
def test_it_is_refused_in_one_line(bad: BadModel, model: Model) -> None:
    verify(model)
    spoilt = bad.spoil(model)
    with pytest.raises(ModelError, match=bad.reason) as caught:
        verify(spoilt)
    assert "\n" not in str(caught.value)
    assert str(model.path) in str(caught.value)


@every_kind
def test_it_is_not_added(bad: BadModel, model: Model, tmp_path: Path) -> None:
    write_manifest(bad.spoil(model))
    with pytest.raises(ModelError):
        add_model(tmp_path / "elsewhere", model.path)
    assert not list((tmp_path / "elsewhere").rglob("*.*"))


@every_kind
def test_the_version_before_it_is_served_instead(
    bad: BadModel, model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_manifest(bad.spoil(good_model(tmp_path / "models", tmp_path / "source")))
    with caplog.at_level(logging.ERROR):
        assert load_repository(tmp_path / "models") == [model]
    (told,) = caplog.messages
    assert f"{model.path.with_name('2')}" in told


def test_a_directory_without_its_manifest_is_refused_and_the_version_before_it_served(
    model: Model, tmp_path: Path
) -> None:
    half = model.path.with_name("2")
    half.mkdir()
    (half / "plus.onnx").write_bytes(model.file.read_bytes())
    assert load_repository(tmp_path / "models") == [model]
    (model.path / MANIFEST).unlink()
    with pytest.raises(ModelError, match=rf"{half}: no {MANIFEST}.*copied only in part"):
        load_repository(tmp_path / "models")


def test_sound_safetensors_beside_a_model_are_no_reason_to_refuse_it(model: Model) -> None:
    for header in (tensors(b=(8, 12), a=(0, 8)), tensors(a=(0, 0), b=(0, 12)), {"__metadata__": {"by": "us"}}):
        behind = 0 if "__metadata__" in header else 12
        verify(extra("w.safetensors", safetensors(header, behind=behind))(model))


@pytest.mark.parametrize("name", ["plus.onnx", "data/w.bin"])
def test_a_file_that_changed_after_it_was_verified_is_not_loaded(name: str, model: Model) -> None:
    """What is loaded are the bytes that were hashed, also where another sound model took the file's place."""
    verify(model)
    path = model.path / name
    if name == "plus.onnx":
        graphs.add(path)
    else:
        path.write_bytes(WEIGHTS[::-1])
    with pytest.raises(ModelError, match="its sha256 is"):
        backend_for("onnxruntime").load(model)


@pytest.mark.parametrize("name", ["plus/2/manifest.toml", "lost+found"])
def test_what_this_user_may_not_look_into_keeps_nothing_else_from_serving(
    name: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, whom nothing is forbidden, by what the system would say to others."""
    forbidden = tmp_path / "models" / name
    good_model(tmp_path / "models", tmp_path / "source")
    if not forbidden.exists():
        forbidden.mkdir()
    is_symlink, iterdir = Path.is_symlink, Path.iterdir

    def refused(path: Path) -> bool:
        if path == forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return False

    monkeypatch.setattr(Path, "is_symlink", lambda path: refused(path) or is_symlink(path))
    monkeypatch.setattr(Path, "iterdir", lambda path: refused(path) or iterdir(path))
    served = load_repository(tmp_path / "models")
    assert [each.label for each in served] == ["plus/1" if "2" in name else "plus/2"]
