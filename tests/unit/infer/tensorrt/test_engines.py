"""The cache of engines: what its key holds, what is trusted, and what a crash or a second process leaves."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorrt_rtx_bindings as trt

from pipeline.core.errors import BackendError
from pipeline.infer.backends.tensorrt import EngineKey, Engines, Sealed, engines
from pipeline.infer.cuda import Gpu
from pipeline.models import Model, add_model, read_content
from tests.unit.infer.tensorrt.networks import network
from tests.unit.models import graphs
from tests.unit.models.bad_models import good_model

GPU = Gpu(0, "NVIDIA Test", "9.0", 80 << 30, "13.1", "13.5")
ABOUT = {"a": [1, 2]}


def key_of(model: Model, *, gpu: Gpu = GPU, trt: Any = trt) -> EngineKey:
    return Engines(trt, Path("unused")).key(model, gpu, *read_content(model))


def test_an_engine_is_built_once_and_then_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(tmp_path, rows_max=1)
    first = Engines(trt, tmp_path / "cache").plan(model, GPU)
    assert first.seconds > 0 and first.path.parent == tmp_path / "cache"
    monkeypatch.setattr(engines, "build_plan", None)
    second = Engines(trt, tmp_path / "cache").plan(model, GPU)
    assert (second.plan, second.path, second.seconds) == (first.plan, first.path, 0.0)


def test_an_engine_that_was_changed_is_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, cache = network(tmp_path, rows_max=1), Engines(trt, tmp_path / "cache")
    first = cache.plan(model, GPU)
    content = bytearray(first.path.read_bytes())
    content[-1] ^= 1
    first.path.write_bytes(content)
    assert cache.plan(model, GPU).seconds > 0
    assert "its sha256 is not what was written" in caplog.text
    assert cache.plan(model, GPU).seconds == 0


def test_of_several_that_ask_one_builds(tmp_path: Path) -> None:
    model = network(tmp_path, rows_max=1)
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: Engines(trt, tmp_path / "cache").plan(model, GPU), range(4)))
    assert sum(each.seconds > 0 for each in built) == 1
    assert len({each.plan for each in built}) == 1


def test_the_timing_cache_of_the_machine_is_handed_from_build_to_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes] = []

    def build(trt: Any, model: Model, *content: Any, timings: bytes, **rest: Any) -> tuple[bytes, bytes]:
        given.append(timings)
        return b"plan", timings + b"t"

    monkeypatch.setattr(engines, "build_plan", build)
    cache = Engines(trt, tmp_path / "cache")
    for rows_max in (1, 2, 3):
        cache.plan(network(tmp_path / str(rows_max), rows_max=rows_max), GPU)
    cache.plan(network(tmp_path / "other", rows_max=1), replace(GPU, driver="14.0"))
    assert given == [b"", b"t", b"tt", b""]


def test_another_of_anything_an_engine_depends_on_is_another_engine(tmp_path: Path) -> None:
    model = network(tmp_path, rows_max=2)
    other_trt = SimpleNamespace(__name__="tensorrt_rtx_bindings", __version__="0.0")
    keys = [
        key_of(model),
        key_of(model, trt=other_trt),
        key_of(model, trt=SimpleNamespace(__name__="tensorrt", __version__=trt.__version__)),
        key_of(model, gpu=replace(GPU, name="other")),
        key_of(model, gpu=replace(GPU, compute_capability="8.9")),
        key_of(model, gpu=replace(GPU, cuda="14.0")),
        key_of(model, gpu=replace(GPU, driver="14.0")),
        key_of(Model(replace(model.manifest, buckets=(2,)), model.path)),
        key_of(network(tmp_path / "b", "float16", rows_max=2)),
        replace(key_of(model), flags=("other",)),
    ]
    assert len({key.digest for key in keys}) == len(keys)
    assert {field.name for field in fields(EngineKey)} == set(keys[0].to_dict())
    assert key_of(model, gpu=replace(GPU, ordinal=1, memory_bytes=1)).digest == keys[0].digest


def test_other_weights_outside_the_onnx_file_are_another_engine(tmp_path: Path) -> None:
    model = good_model(tmp_path / "models", tmp_path, rows_max=1)
    content, external = read_content(model)
    cache = Engines(trt, tmp_path)
    one = cache.key(model, GPU, content, external)
    assert one != cache.key(model, GPU, content, {name: data[::-1] for name, data in external.items()})
    assert one != cache.key(model, GPU, content + b"\0", external)


def test_a_model_under_another_name_has_the_same_engine(tmp_path: Path) -> None:
    source = graphs.add(tmp_path / "plus.onnx")
    one, two = (add_model(tmp_path / "models", source, name=name, rows_max=1) for name in ("one", "two"))
    assert key_of(one) == key_of(two)


def test_what_is_sealed_is_read_back_and_only_for_what_it_is_about(tmp_path: Path) -> None:
    files = Sealed(tmp_path / "engines")
    assert files.read("a.plan", ABOUT) is None
    path = files.write("a.plan", ABOUT, b"content")
    assert files.read("a.plan", ABOUT) == b"content"
    assert files.read("a.plan", {"a": [1, 3]}) is None
    assert (tmp_path / "engines").stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("keep", [0, 5, 20, 60, -1])
def test_what_is_cut_off_counts_as_not_there(keep: int, tmp_path: Path) -> None:
    files = Sealed(tmp_path / "engines")
    path = files.write("a.plan", ABOUT, b"content")
    path.write_bytes(path.read_bytes()[:keep])
    assert files.read("a.plan", ABOUT) is None


def test_a_crash_before_the_last_step_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Sealed(tmp_path / "engines")
    files.write("a.plan", ABOUT, b"old")

    def crash(handle: int) -> None:
        raise SystemExit

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(SystemExit):
        files.write("a.plan", ABOUT, b"new")
    assert files.read("a.plan", ABOUT) == b"old"


def test_what_others_could_have_written_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Sealed(tmp_path / "engines")
    path = files.write("a.plan", ABOUT, b"content")
    path.chmod(0o666)
    with pytest.raises(BackendError, match="not trusted"):
        files.read("a.plan", ABOUT)
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, match=r"a\.plan"):
        files.read("a.plan", ABOUT)
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(BackendError, match="not trusted"):
        files.write("b.plan", ABOUT, b"content")
    (tmp_path / "engines").chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(BackendError, match="not trusted"):
        files.read("a.plan", ABOUT)


def test_a_folder_that_cannot_be_made_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match="file"):
        Sealed(tmp_path / "file" / "engines").read("a.plan", ABOUT)


def test_the_least_used_files_make_room(tmp_path: Path) -> None:
    files = Sealed(tmp_path / "engines", files_max=2)
    for number, name in enumerate("abc"):
        os.utime(files.write(f"{name}.plan", ABOUT, b"content"), (number, number))
        if name == "b":
            assert files.read("a.plan", ABOUT) == b"content"  # used since
    assert sorted(path.name for path in files.folder.iterdir()) == ["a.plan", "c.plan"]


def test_a_folder_that_is_only_read_has_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Sealed(tmp_path / "engines")
    files.write("a.plan", ABOUT, b"content")

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    assert files.read("a.plan", ABOUT) == b"content"


def test_an_engine_that_a_full_disk_does_not_keep_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F21."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = network(tmp_path, rows_max=1)
    monkeypatch.setattr(engines, "build_plan", lambda *given, **rest: (b"plan", b"timings"))
    monkeypatch.setattr(os, "fsync", full)
    built = Engines(trt, tmp_path / "cache").plan(model, GPU)
    assert (built.plan, built.path.exists()) == (b"plan", False)
    assert "No space left on device" in caplog.text
