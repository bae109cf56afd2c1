"""Imports point one way, and what is imported is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.tidy.tree import ROOT, imports, modules, text, tree

# The way of a request, from what everyone stands on to what stands on everything: imports point to the left.
ROOMS = (
    "core observe models commit intake admit infer window publish swap app serve load plan local cli".split()  # noqa: SIM905
)


def room_of(path: Path) -> str:
    return path.parts[1].removesuffix(".py")


def test_every_room_of_the_pipeline_has_its_place() -> None:
    assert {room_of(path) for path in modules("pipeline")} - {"__init__"} == set(ROOMS)


def test_the_pipeline_imports_only_rooms_before_its_own() -> None:
    wrong = [
        f"{path} imports pipeline.{room}"
        for path in modules("pipeline")
        if room_of(path) != "__init__"  # exports create_app to users
        for room in {name.split(".")[1] for name in imports(path) if name.startswith("pipeline.")}
        if room not in ROOMS or ROOMS.index(room) > ROOMS.index(room_of(path))
    ]
    assert not wrong


def test_the_contract_knows_nothing_of_the_pipeline() -> None:
    wrong = [f"{path} imports {name}" for path in modules("topics") for name in imports(path) if "pipeline" in name]
    assert not wrong


def test_nothing_is_imported_relatively() -> None:
    wrong = [str(path) for path in modules() for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and n.level]
    assert not wrong


# Only the benches import them: peers in processes of their own, pictures where they are asked for.
OF_THE_BENCH = {"aiokafka", "bytewax", "faststream", "matplotlib", "mlserver", "quixstreams"}


def distributions(lines: Iterable[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in lines}


def test_what_the_packages_import_is_declared_and_as_an_extra_only_what_is_imported_when_asked_for() -> None:
    project = tomllib.loads(text(Path("pyproject.toml")))["project"]
    base, of = distributions(project["dependencies"]), packages_distributions()
    extra = base.union(*map(distributions, project["optional-dependencies"].values()))
    wrong = [
        f"{path} imports {name}"
        for path in modules("pipeline", "topics")
        for name in {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"pipeline", "topics"}
        if not (path.is_relative_to("pipeline/load") and name in OF_THE_BENCH)
        and not (extra if "backends" in path.parts or name not in imported_at_once(path) else base)
        & {name, f"{name}-cpu", *(d.lower().replace("_", "-") for d in of.get(name, ()))}
    ]
    assert not wrong


def imported_at_once(path: Path) -> set[str]:
    """The packages that importing a module imports; what its functions do comes later."""
    nodes = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {
        name.split(".")[0] for name in names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    }


def test_the_packages_are_those_that_are_tested() -> None:
    import pipeline
    import topics

    assert {Path(package.__file__ or "").parents[1] for package in (pipeline, topics)} == {ROOT}
