"""Stable codes of rejected and expired requests: the values of the ``x-error-code`` header.

A code never changes its meaning; new ones may be added. `BadRequest` is how a codec or a header check says
no to one request; it carries the code and a reason for people.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BadRequest", "Code"]


class Code(StrEnum):
    """Why a request was not answered with a prediction."""

    NULL_VALUE = "null-value"
    EMPTY_VALUE = "empty-value"
    TOO_LARGE = "too-large"
    TOO_MANY_ROWS = "too-many-rows"
    NO_ROWS = "no-rows"
    UNKNOWN_CONTENT_TYPE = "unknown-content-type"
    BAD_HEADER = "bad-header"
    BAD_DEADLINE = "bad-deadline"
    MALFORMED = "malformed"  # the bytes are not what the content type says
    COMPRESSED = "compressed"
    UNSUPPORTED_TYPE = "unsupported-type"  # dictionary, view, nested, unknown extension types
    MISSING_INPUT = "missing-input"
    UNKNOWN_INPUT = "unknown-input"
    DUPLICATE_INPUT = "duplicate-input"
    WRONG_DTYPE = "wrong-dtype"
    WRONG_SHAPE = "wrong-shape"
    NULLS = "nulls"
    NOT_FINITE = "not-finite"
    UNKNOWN_MODEL = "unknown-model"
    MODEL_FAILED = "model-failed"  # the backend raised on this request alone
    PREDICTION_TOO_LARGE = "prediction-too-large"
    DEADLINE_PASSED = "deadline-passed"  # of an `expired` notice, never of a dead letter


class BadRequest(Exception):
    """One request that cannot be answered: a stable ``code`` and a ``reason`` for people (one short line)."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

    def bare(self) -> BadRequest:
        """To keep: a raised one holds the frames it came through, and with them the request and all that kept it."""
        return BadRequest(self.code, self.reason)
