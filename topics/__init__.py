"""The contract between clients and the pipeline: topics, records, codecs, and clients that speak it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topics.client import Answer, AsyncClient, Client
    from topics.errors import Expired, NotAnswered, NotPredicted, Rejected, TopicsError
    from topics.names import Topics, topics_of
    from topics.records import Request
    from topics.signature import Signature, Tensor

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Expired",
    "NotAnswered",
    "NotPredicted",
    "Rejected",
    "Request",
    "Signature",
    "Tensor",
    "Topics",
    "TopicsError",
    "topics_of",
]

_ERRORS = ("Expired", "NotAnswered", "NotPredicted", "Rejected", "TopicsError")
_HOMES = {
    **dict.fromkeys(("Answer", "AsyncClient", "Client"), "topics.client"),
    **dict.fromkeys(_ERRORS, "topics.errors"),
    **dict.fromkeys(("Topics", "topics_of"), "topics.names"),
    "Request": "topics.records",
    **dict.fromkeys(("Signature", "Tensor"), "topics.signature"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: a worker that wants a topic's name need not load a client, nor `sluice --help` Arrow."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
