"""How commands print: plain lines or a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["emit"]


def emit(data: Any, as_json: bool, table: Sequence[str] | RenderableType | None = None) -> None:
    """Print ``data`` as indented JSON on standard output, or ``table``: lines as they are, or anything rich can show.

    NumPy values and dataclasses are fine in ``data``. Without a table, JSON is printed for people too.
    """
    if as_json or table is None:
        import orjson

        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        print(orjson.dumps(data, default=str, option=options).decode())
    elif isinstance(table, Sequence) and not isinstance(table, str):
        for line in table:
            print(line)
    else:
        from rich.console import Console

        Console().print(table)
