"""The project file, the locks, the README and the packages say the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.cli.main import app
from tests.tidy.tree import ROOT, files, text
from topics.codes import Code

REGISTRY = re.compile(
    r"https?://[^\s/]*(?:py" + r"pi|pythonho" + r"sted|mav" + r"en|npm" + r"js|deb" + r"ian|mir" + r"ror|pro" + r"xy)"
    r"|(?<!no-emit-)(?:index-u" + r"rl|find-li" + r"nks|trusted-h" + r"ost)"
    r"|(?<![\w.])/wo" + r"rk\b|\.lib" + r"rary/"
)


def project() -> dict[str, Any]:
    return tomllib.loads(text(Path("pyproject.toml")))["project"]  # type: ignore[no-any-return]


def locked(name: str) -> dict[str, set[str]]:
    """Distribution -> versions of a lock file; more than one where they depend on the Python."""
    versions: dict[str, set[str]] = {}
    for found in re.finditer(r"^([a-z0-9-]+)==([^ ;]+)", text(Path(name)), re.MULTILINE):
        versions.setdefault(found[1], set()).add(found[2])
    return versions


def test_no_file_names_a_registry_or_a_place_of_the_machine_it_was_made_on() -> None:
    assert [f"{path}: {found[0]}" for path in files() if (found := REGISTRY.search(text(path)))] == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-build.lock"])
def test_a_lock_has_versions_and_hashes_and_nothing_else(name: str) -> None:
    for entry in re.split(r"\n(?!    )", text(Path(name)).strip()):
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; .+?)?( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), (
            entry.splitlines()[0]
        )


@pytest.mark.parametrize(("name", "extras"), [("requirements.lock", ()), ("requirements-dev.lock", ("dev",))])
def test_a_lock_is_in_step_with_the_project_file(name: str, extras: tuple[str, ...]) -> None:
    lines = [*project()["dependencies"], *(line for e in extras for line in project()["optional-dependencies"][e])]
    versions = locked(name)
    for requirement in map(Requirement, lines):
        found = versions.get(canonicalize_name(requirement.name), set())
        assert found, f"{requirement} is not in {name}: make lock"
        assert all(requirement.specifier.contains(version) for version in found), f"{requirement}: make lock"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_the_smaller_locks_are_parts_of_the_one_that_is_tested(name: str) -> None:
    tested = locked("requirements-dev.lock")
    assert {name: versions for name, versions in locked(name).items() if not versions <= tested.get(name, set())} == {}


def test_the_base_install_has_no_torch_and_nothing_of_a_gpu() -> None:
    assert not re.search(r"^(torch|tensorrt|nvidia|cuda|openvino)", text(Path("requirements.lock")), re.MULTILINE)


def test_the_readme_lists_every_code() -> None:
    assert table("codes") == [code.value for code in Code]


def test_the_readme_lists_every_command() -> None:
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    groups = [group.name for group in app.registered_groups]
    rows = section("commands")
    assert set(re.findall(r"`sluice ([a-z]+)`", rows)) == {*commands, *groups}


def section(name: str) -> str:
    """What the README holds between its marks of this name."""
    found = re.search(rf"<!-- {name} -->\n(.*)<!-- /{name} -->", text(Path("README.md")), re.DOTALL)
    assert found, name
    return found[1]


def table(name: str) -> list[str]:
    """The first column of a table of the README."""
    return re.findall(r"^\| `([a-z-]+)` \|", section(name), re.MULTILINE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_holds_both_packages_with_their_data_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {str(path) for path in files() if path.parts[0] in ("pipeline", "topics")}
    assert {Path(name).suffix for name in names} >= {".onnx", ".npz", ".toml", ".py"}


def test_the_source_distribution_can_be_built_and_tested(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {str(Path(*Path(name).parts[1:])) for name in archive.getnames()}
    missing = {str(path) for path in files() if path.parts[0] != ".ci" and not path.name.startswith(".")} - names
    assert missing == set()
