"""Sluice: serves deep-learning models behind Kafka."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Import the flow, and Faust with it, only where it is used: the command must start fast."""
    if name == "create_app":
        from pipeline.app import create_app

        return create_app
    raise AttributeError(name)
