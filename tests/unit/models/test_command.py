"""`sluice models`: what it prints and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.main import app
from pipeline.core.errors import BackendError, ConfigError, ModelError
from pipeline.models import list_models
from tests.unit.models import graphs


def sluice(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    source = graphs.add(tmp_path / "plus.onnx")
    for _ in range(2):
        assert sluice("add", source, "--models", tmp_path / "models").exit_code == 0
    return tmp_path / "models"


def test_list_prints_every_version_with_what_the_design_names() -> None:
    (digits,) = printed(sluice("list", "--json"))
    assert list(digits) == ["name", "version", "path", "backend", "rows_max", "classes", "topics", "signature"]
    assert digits["topics"] == {
        "requests": "digits.requests",
        "predictions": "digits.predictions",
        "dead_letters": "digits.dead-letters",
    }
    assert digits["signature"]["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 8, 8]}]


def test_list_shows_people_a_line_per_version(models: Path) -> None:
    head, *lines = sluice("list", "--models", models).stdout.splitlines()
    assert head.split()[:2] == ["MODEL", "BACKEND"]
    assert [line.split()[0] for line in lines] == ["plus/1", "plus/2"]


def test_add_takes_what_is_given_and_prints_the_model(models: Path, tmp_path: Path) -> None:
    options = ["--name", "sum", "--version", "2.1", "--rows-max", 12, "--classes", "a,b,c", "--json"]
    added = printed(sluice("add", tmp_path / "plus.onnx", "--models", models, *options))
    assert added == list_models(models)[-1].to_dict()
    assert (added["name"], added["version"], added["rows_max"]) == ("sum", "2.1", 12)
    assert added["classes"] == ["a", "b", "c"]


def test_add_says_which_runtime_serves_the_model(models: Path, tmp_path: Path) -> None:
    options = ["--models", models, "--name", "sum", "--backend"]
    assert printed(sluice("add", tmp_path / "plus.onnx", *options, "openvino", "--json"))["backend"] == "openvino"
    refused = sluice("add", tmp_path / "plus.onnx", *options, "abacus").exception
    assert isinstance(refused, BackendError)
    assert "no backend 'abacus'" in str(refused)
    refused = sluice("add", tmp_path / "plus.onnx", *options, "torch").exception
    assert isinstance(refused, ModelError)
    assert "does not read .onnx" in str(refused)
    assert printed(sluice("verify", "sum", "--models", models, "--json"))["ok"]


def test_verify_tells_the_good_from_the_refused_and_exits_1(models: Path) -> None:
    good = {"ok": True, "models": [{"model": f"plus/{v}", "ok": True, "reason": None} for v in (1, 2)]}
    assert printed(sluice("verify", "--models", models, "--json")) == good
    (models / "plus" / "1" / "plus.onnx").write_bytes(b"changed")
    result = sluice("verify", "--models", models, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [model["ok"] for model in told["models"]] == [False, True]
    assert "sha256" in told["models"][0]["reason"]
    assert sluice("verify", "plus/2", "--models", models).exit_code == 0
    assert sluice("verify", "plus", "--models", models).exit_code == 1


def test_verify_names_what_is_no_model_beside_those_that_are(models: Path) -> None:
    (models / "plus" / "3").mkdir()
    (models / "plus" / "latest").mkdir()
    result = sluice("verify", "--models", models, "--json")
    assert result.exit_code == 1
    told = {model["model"]: model["reason"] for model in json.loads(result.stdout)["models"]}
    assert list(told) == ["plus/latest", "plus/1", "plus/2", "plus/3"]
    assert [label for label, reason in told.items() if reason is None] == ["plus/1", "plus/2"]
    assert "copied only in part" in told["plus/3"]
    lines = sluice("verify", "--models", models).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["ok", "plus/1"], ["ok", "plus/2"]]
    assert lines[3].startswith("refused  plus/3: ")


def test_verify_loads_the_model_in_its_own_backend(models: Path) -> None:
    manifest = models / "plus" / "1" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace('"onnxruntime"', '"abacus"'))
    result = sluice("verify", "plus/1", "--models", models)
    assert result.exit_code == 1
    assert "no backend 'abacus'" in result.stdout


def test_a_model_that_is_not_there_is_misuse_and_a_refused_one_a_failure(models: Path, tmp_path: Path) -> None:
    assert isinstance(sluice("verify", "minus", "--models", models).exception, ConfigError)
    assert isinstance(sluice("add", tmp_path / "plus.onnx", "--models", models, "--version", "1").exception, ModelError)
    assert sluice("add", tmp_path / "plus.onnx").exit_code == 2


def test_a_users_mistake_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "models", "list", "--models", str(tmp_path / "missing")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sluice: error: ")
    assert done.stderr.count("\n") == 1
