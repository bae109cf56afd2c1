"""The model repository: models are data, verified before they are loaded."""

from pipeline.models.data import held_out
from pipeline.models.ladder import Rung
from pipeline.models.manifest import Manifest, Model, default_buckets
from pipeline.models.repository import (
    BUNDLED,
    add_model,
    list_models,
    load_repository,
    read_content,
    read_model,
    rungs_of,
    survey,
    verify,
)

__all__ = [
    "BUNDLED",
    "Manifest",
    "Model",
    "Rung",
    "add_model",
    "default_buckets",
    "held_out",
    "list_models",
    "load_repository",
    "read_content",
    "read_model",
    "rungs_of",
    "survey",
    "verify",
]
