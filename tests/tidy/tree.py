"""The project's files, as the tidy tests read them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("pipeline", "topics", "tests", "ops", ".ci")
MADE = ("__pycache__", ".pyc")


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project, relative to its root; nothing that a tool made."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return tuple(sorted(path.relative_to(ROOT) for path in found if not any(made in str(path) for made in MADE)))


@cache
def modules(*folders: str) -> tuple[Path, ...]:
    """The Python files of these folders, or of all."""
    return tuple(path for path in files() if path.suffix == ".py" and path.parts[0] in (folders or FOLDERS))


@cache
def text(path: Path) -> str:
    """What a file holds; empty for what is not text."""
    try:
        return (ROOT / path).read_text()
    except UnicodeDecodeError:
        return ""


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(text(path))


def imports(path: Path) -> set[str]:
    """Dotted names a module imports, wherever in it; of ``from a import b`` it is ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names
