"""Modules and functions stay short, plainly named and finished."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.tidy.tree import files, modules, text, tree

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
# Tables of cases: splitting them would only hide that they are complete.
LONG_MODULES = {"tests/unit/topics/test_codecs.py"}
LONG_FUNCTIONS = {"tests/hostile/cases.py:_arrow", "tests/hostile/cases.py:_json"}
BANNED = re.compile(r"util|helper|common|manager|misc")
UNFINISHED = re.compile(
    "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", r"importor" + "skip", r"mark\.sk" + "ip", "xf" + "ail"))
)
UNFINISHED_BUT = {"pyproject.toml"}  # says that an expected failure which passes is a failure


def test_modules_are_short() -> None:
    assert {str(p) for p in modules() if text(p).count("\n") > MODULE_LINES_MAX} - LONG_MODULES == set()


def test_functions_are_short() -> None:
    long = {
        f"{path}:{node.name}"
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    }
    assert long - LONG_FUNCTIONS == set()


def test_what_is_allowed_to_be_long_exists() -> None:
    names = {
        f"{path}:{node.name}" for path in modules() for node in tree(path).body if isinstance(node, ast.FunctionDef)
    }
    assert {str(path) for path in modules()} >= LONG_MODULES
    assert names >= LONG_FUNCTIONS


def test_nothing_has_a_name_that_fits_everything() -> None:
    classes = {
        n.name for path in modules("pipeline", "topics") for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)
    }
    parts = {part for path in files() if path.suffix == ".py" for part in path.parts}
    assert {name for name in classes | parts if BANNED.search(name.lower())} == set()


def test_nothing_is_left_unfinished() -> None:
    assert {str(p) for p in files() if UNFINISHED.search(text(p)) and p.suffix != ".lock"} == UNFINISHED_BUT


def test_a_package_only_exports() -> None:
    """Its ``__init__`` imports, names what it exports in ``__all__``, and at most defers the imports."""
    for path in modules("pipeline", "topics"):
        if path.name != "__init__.py":
            continue
        exported, listed = exports(path)
        assert exported == listed, path


def exports(path: Path) -> tuple[set[str], set[str]]:
    """The names an ``__init__`` imports from our packages, and its ``__all__``."""
    imported: set[str] = set()
    listed: set[str] = set()
    body = list(tree(path).body)
    for node in body:
        if isinstance(node, ast.If):
            body += node.body
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in ("pipeline", "topics"):
                imported |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            assert isinstance(target, ast.Name), path
            assert target.id.startswith("_"), path
            if target.id == "__all__" and node.value:
                listed = set(ast.literal_eval(node.value))
        else:
            lazy = isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
            assert lazy or isinstance(node, ast.Expr), f"{path}:{node.lineno}"
    return imported, listed
