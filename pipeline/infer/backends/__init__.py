"""One module per runtime; none is imported before a model asks for it."""

from pipeline.infer.backends.by_name import BACKENDS, backend_for

__all__ = ["BACKENDS", "backend_for"]
