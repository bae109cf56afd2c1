"""One module per runtime; none is imported before a model asks for it."""

from pipeline.infer.backends.by_name import BACKENDS, backend_for, check_name

__all__ = ["BACKENDS", "backend_for", "check_name"]
