"""Manifests: what is read back, how versions and buckets are ordered, and what is refused."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ModelError
from pipeline.models import manifest
from pipeline.models.ladder import Rung
from pipeline.models.manifest import MANIFEST, Manifest, default_buckets, read_manifest, version_key
from topics.signature import Signature, Tensor

SIGNATURE = Signature(
    (Tensor("x", np.dtype("float32"), (2, 3)), Tensor("é", np.dtype("int64"), ())),
    (Tensor("y", np.dtype("bool"), (1,)),),
)
GOOD = Manifest(
    name="some-model",
    version="1.10",
    backend="onnxruntime",
    file="model.onnx",
    signature=SIGNATURE,
    rows_max=8,
    buckets=(1, 8),
    classes=("it's", 'a "quote"', "back\\slash", "new\nline", "\x7f", "🙂"),
    files={"model.onnx": "0" * 64, "weights/a b.bin": "f" * 64},
    answer_rejected=False,
    allow_not_finite=True,
    gather_ms_max=2.5,
    slo_ms=15.5,
    priority=9,
    sequences=("x",),
    lengths=(1, 2),
    ladder=(Rung("int8", model="other/2"), Rung("cached", cached=500), Rung("default", answer={"y": [True]})),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(GOOD.to_toml(), encoding="utf-8")
    assert read_manifest(tmp_path) == GOOD


def test_a_ladder_remembers_answers_only_where_a_rung_says_so() -> None:
    assert GOOD.cached == 500
    assert replace(GOOD, ladder=GOOD.ladder[:1]).cached == replace(GOOD, ladder=()).cached == 0
    assert replace(GOOD, ladder=(Rung("cached", cached=1),)).rungs == ("full", "cached")


def test_what_is_left_out_takes_its_default(tmp_path: Path) -> None:
    switches, sizes = (
        ("answer_rejected", "allow_not_finite"),
        ("gather_ms_max", "slo_ms", "buckets", "lengths", "priority"),
    )
    text = replace(GOOD, ladder=()).to_toml()
    optional = (*switches, *sizes, "classes", "sequences")
    lines = [line for line in text.split("\n") if not line.startswith(optional)]
    (tmp_path / MANIFEST).write_text("\n".join(lines), encoding="utf-8")
    manifest = read_manifest(tmp_path)
    assert manifest.answer_rejected
    assert not manifest.allow_not_finite
    assert (manifest.slo_ms, manifest.priority, manifest.ladder, manifest.rungs) == (None, 5, (), ())
    assert (manifest.sequences, manifest.lengths) == ((), ())
    assert (manifest.gather_ms_max, manifest.classes, manifest.buckets) == (0.0, (), (1, 2, 3, 4, 6, 8))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "../etc"}, "model name"),
        ({"name": "a.b"}, "model name"),
        ({"version": "01"}, "version"),
        ({"version": "1-rc"}, "version"),
        ({"version": "../1"}, "version"),
        ({"backend": "os.system"}, "backend"),
        ({"rows_max": 0, "buckets": (0,)}, "rows_max"),
        ({"rows_max": 65_537, "buckets": (65_537,)}, "rows_max"),
        ({"buckets": ()}, "buckets"),
        ({"buckets": (8, 1)}, "buckets"),
        ({"buckets": (1, 1, 8)}, "buckets"),
        ({"buckets": (-1, 8)}, "buckets"),
        ({"buckets": (1, 4)}, "buckets"),
        ({"classes": ("a", "a")}, "two classes"),
        ({"file": "other.onnx"}, "not listed"),
        ({"files": {"model.onnx": "0" * 63}}, "sha256"),
        ({"files": {"model.onnx": "0" * 64, "../x": "0" * 64}}, "plain path"),
        ({"files": {"model.onnx": "0" * 64, "/x": "0" * 64}}, "plain path"),
        ({"files": {"model.onnx": "0" * 64, "a/./x": "0" * 64}}, "plain path"),
        ({"files": {"model.onnx": "0" * 64, "a\\x": "0" * 64}}, "plain path"),
        ({"files": {"model.onnx": "0" * 64, "": "0" * 64}}, "plain path"),
        ({"lengths": (2, 1)}, "lengths"),
        ({"lengths": (0, 2)}, "lengths"),
        ({"lengths": (1, 3)}, "of sequences of"),
        ({"lengths": ()}, "sequences"),
        ({"sequences": ()}, "both or none"),
        ({"sequences": ("y",)}, "not an input"),
        ({"gather_ms_max": -1.0}, "gather_ms_max"),
        ({"gather_ms_max": float("nan")}, "gather_ms_max"),
        ({"slo_ms": 0.0}, "slo_ms"),
        ({"slo_ms": float("inf")}, "slo_ms"),
        ({"priority": -1}, "priority"),
        ({"priority": 10}, "priority"),
        ({"slo_ms": None}, "needs slo_ms"),
        ({"ladder": (Rung("full", model="other/2"),)}, "the same name"),
        ({"ladder": (Rung("a", model="other/2"), Rung("a", model="other/3"))}, "the same name"),
        ({"ladder": tuple(Rung(f"r{at}", model="other/2") for at in range(8))}, "9 rungs"),
        ({"ladder": (Rung("Not a name", model="other/2"),)}, "is not a name"),
        ({"ladder": (Rung("a"),)}, "one of them"),
        ({"ladder": (Rung("a", model="other/2", answer={"y": [True]}),)}, "one of them"),
        ({"ladder": (Rung("a", model="other/2", cached=1),)}, "one of them"),
        ({"ladder": (Rung("a", answer={"y": [True]}, cached=1),)}, "one of them"),
        ({"ladder": (Rung("a", model="some-model/1.10"),)}, "is the model itself"),
        ({"ladder": (Rung("a", model="other"),)}, "is not NAME/VERSION"),
        ({"ladder": (Rung("a", model="../etc/1"),)}, "model name"),
        ({"ladder": (Rung("a", model="other/../1"),)}, "version"),
        ({"ladder": (Rung("a", answer={"y": [True]}), Rung("b", model="other/2"))}, "nothing is asked"),
        ({"ladder": (Rung("a", cached=0),)}, r"cached 0 is not within 1\.\.1000000"),
        ({"ladder": (Rung("a", cached=1_000_001),)}, "cached 1000001 is not within"),
        ({"ladder": (Rung("a", cached=1), Rung("b", model="other/2"))}, "only a constant"),
        ({"ladder": (Rung("a", cached=1), Rung("b", cached=1))}, "only a constant"),
        ({"ladder": (Rung("a", answer={"y": [True]}), Rung("b", cached=1))}, "nothing is asked"),
        ({"ladder": (Rung("a", answer={}),)}, r"it answers \[\], the model gives \['y'\]"),
        ({"ladder": (Rung("a", answer={"y": [True], "z": 1}),)}, "the model gives"),
        ({"ladder": (Rung("a", answer={"y": [True, False]}),)}, r"shape \[2\]"),
        ({"ladder": (Rung("a", answer={"y": True}),)}, r"shape \[\]"),
        ({"ladder": (Rung("a", answer={"y": [2]}),)}, "not all such numbers"),
        ({"ladder": (Rung("a", answer={"y": ["yes"]}),)}, "not all such numbers"),
        ({"ladder": (Rung("a", answer={"y": [[1], [1, 2]]}),)}, "y bool"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        replace(GOOD, **change)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("rows_max = 8", "", "'rows_max' is missing"),
        ("rows_max = 8", "rows_max = true", "wrong type"),
        ("rows_max = 8", 'rows_max = "8"', "wrong type"),
        ("rows_max = 8", "rows_max = 8\nrun = 'rm'", "unknown key run"),
        ("buckets = [1, 8]", "buckets = [1.0, 8]", "are integers"),
        ("lengths = [1, 2]", "lengths = [1, 2.0]", "are integers"),
        ('sequences = ["x"]', "sequences = [1]", "are texts"),
        ('name = "some-model"', "name = 3", "wrong type"),
        ('dtype = "float32"', 'dtype = "object"', "dtype"),
        ('dtype = "float32"', 'dtype = "nonsense"', "not a tensor"),
        ("shape = [2, 3]", "shape = [2, -3]", "shape"),
        ("shape = [2, 3]", "shape = 2", "not a tensor"),
        ("[[inputs]]", "[[entries]]", "missing"),
        ("[[ladder]]", "[ladder]", "declare|overwrite|Cannot|wrong type"),
        ('name = "int8"', "name = 8", "wrong type"),
        ('model = "other/2"', "model = 2", "wrong type"),
        ('model = "other/2"', 'model = "other/2"\nwhen = 1', "unknown key when"),
        ('name = "int8"', "", "'name' is missing"),
        ('answer."y" = [true]', "answer = 1", "wrong type"),
        ("cached = 500", "cached = true", "wrong type"),
        ("cached = 500", "cached = 1.5", "wrong type"),
        ("cached = 500", "cached = 1_000_001", "not within"),
        ('"model.onnx" =', '"model.onnx" = 1 #', "hashes are texts"),
        ("[files]", "[files", "Expected"),
    ],
)
def test_a_malformed_file_is_refused_with_its_path(old: str, new: str, reason: str, tmp_path: Path) -> None:
    text = GOOD.to_toml()
    assert old in text
    (tmp_path / MANIFEST).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelError, match=reason) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / MANIFEST) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_without_a_manifest_is_told_as_copied_in_part(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="copied only in part"):
        read_manifest(tmp_path)


def test_a_manifest_by_link_or_of_absurd_size_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text(GOOD.to_toml(), encoding="utf-8")
    (tmp_path / MANIFEST).symlink_to("real.toml")
    with pytest.raises(ModelError, match=MANIFEST):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ModelError, match="larger"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=MANIFEST):
        read_manifest(tmp_path)


def test_versions_are_ordered_by_number() -> None:
    ordered = ["0.9", "1", "1.0", "1.2", "1.10", "2", "9", "10", "10.0.0.1"]
    assert sorted(sorted(ordered, key=len), key=version_key) == ordered


@pytest.mark.parametrize("rows_max", [1, 2, 3, 5, 7, 8, 100, 256, 4096, 65_536])
def test_default_buckets_end_at_the_largest_batch_and_waste_at_most_a_third(rows_max: int) -> None:
    buckets = default_buckets(rows_max)
    assert buckets[0] == 1
    assert buckets[-1] == rows_max
    assert list(buckets) == sorted(set(buckets))
    assert all(3 * (low + 1) >= 2 * high for low, high in pairwise(buckets))


def test_the_text_is_ordinary_toml() -> None:
    assert tomllib.loads(GOOD.to_toml())["classes"] == list(GOOD.classes)


@pytest.mark.parametrize(
    ("line", "with_"),
    [
        ("gather_ms_max = 2.5", f"gather_ms_max = 1{'0' * 400}"),  # an integer that no float holds
        ("slo_ms = 15.5", f"slo_ms = 1{'0' * 400}"),
        ("priority = 9", f"priority = {'[' * 5000}{']' * 5000}"),  # deeper than Python's stack
    ],
    ids=["gather", "slo", "depth"],
)
def test_what_is_too_large_for_anything_is_refused_as_a_manifest(line: str, with_: str, tmp_path: Path) -> None:
    text = GOOD.to_toml()
    assert line in text
    (tmp_path / MANIFEST).write_text(text.replace(line, with_), encoding="utf-8")
    with pytest.raises(ModelError, match=MANIFEST):
        read_manifest(tmp_path)


def test_no_buckets_are_made_up_to_a_batch_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a number of 50,000 hexadecimal digits they would take gigabytes and minutes."""
    text = GOOD.to_toml().replace("rows_max = 8\nbuckets = [1, 8]", "rows_max = 65537")
    (tmp_path / MANIFEST).write_text(text, encoding="utf-8")
    monkeypatch.setattr(manifest, "default_buckets", None)
    with pytest.raises(ModelError, match=r"rows_max 65537 is not within 1\.\.65536"):
        read_manifest(tmp_path)
