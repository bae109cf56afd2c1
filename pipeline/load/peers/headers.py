"""The headers of an answer, as every peer writes them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["answer_headers"]


def answer_headers(request: Iterable[tuple[str, bytes]] | None, source: bytes, label: bytes) -> list[tuple[str, bytes]]:
    """Those of the contract, for a request with these headers at ``source``, ``topic/partition/offset``."""
    named = dict(request or ())
    return [
        ("request-id", named.get("request-id", source)),
        ("content-type", named.get("content-type", b"application/json")),
        ("status", b"ok"),
        ("model", label),
        ("source", source),
    ]
