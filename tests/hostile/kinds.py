"""The kinds of bad requests that must be covered, each with the fixtures that are it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["KINDS"]

KINDS: Mapping[str, tuple[str, ...]] = {
    "null value": ("json: null value", "arrow: null value", "raw: null value"),
    "empty value": ("json: empty value", "arrow: empty value", "raw: empty value"),
    "over the size limit": (
        "json: over the size limit", "arrow: over the size limit", "raw: over the size limit",
        "bomb: json over the size limit", "bomb: arrow over the size limit", "bomb: raw over the size limit",
        "json: over the row limit", "arrow: over the row limit", "raw: over the row limit",
        "json: half a million values", "json: half a million lists", "json: a hundred thousand keys", "key of 65 KiB",
    ),
    "unknown content type": ("unknown content type",),
    "unknown schema version": (
        "arrow: metadata version V1", "arrow: metadata version V6", "arrow: stream of before Arrow 0.15",
    ),
    "truncated Arrow": (
        "arrow: truncated", "arrow: half", "arrow: schema alone, cut", "arrow: end marker alone",
        "arrow: without an end marker",
    ),
    "schema and no batch": ("arrow: schema and no batch",),
    "two batches": ("arrow: two batches", "arrow: two streams"),
    "trailing bytes": ("json: trailing byte", "arrow: trailing byte", "raw: trailing byte"),
    "corrupt string offsets": ("arrow: corrupt text offsets",),
    "compressed body": ("arrow: compressed", "bomb: arrow zstd", "bomb: arrow lz4"),
    "forged uncompressed length": ("arrow: compressed, forged length",),
    "zero-byte columns with a billion rows": (
        "arrow: null column of a billion rows", "arrow: empty lists, a billion rows",
        "arrow: no columns, a billion rows", "json: a billion rows",
    ),
    "duplicate columns": ("arrow: duplicate column", "json: duplicate input"),
    "missing columns": ("arrow: no columns, a billion rows", "json: empty inputs"),
    "extra columns": (
        "arrow: extra column", "arrow: other column", "arrow: a hundred columns", "json: unknown input",
        "json: a hundred inputs", "json: a thousand inputs",
    ),
    "wrong dtype": (
        "arrow: other dtype", "arrow: integers", "json: other datatype", "json: text values", "json: bools",
        "json: unknown datatype", "json: BYTES",
    ),
    "shape product not the data's length": (
        "json: too few values", "json: ragged data", "json: ragged data of the right count", "json: other shape",
        "arrow: short lists", "arrow: buffer too short", "arrow: forged row count", "raw: truncated",
        "json: product of the shape over 64 bits", "arrow: fixed-shape tensor of a product over 64 bits",
    ),
    "zero dimensions": (
        "json: zero rows", "json: zero dimension", "arrow: no rows", "arrow: empty lists, a billion rows",
    ),
    "negative dimensions": (
        "json: negative rows", "json: negative dimension", "arrow: negative row count",
        "arrow: fixed-shape tensor of negative dimensions", "arrow: negative metadata",
    ),
    "over-limit dimensions": (
        "json: dimension over 64 bits", "json: a billion rows", "arrow: lists of 2 billion",
        "arrow: forged row count over 64 bits", "arrow: metadata of 2 GB",
    ),
    "nulls": ("json: nulls", "arrow: null rows", "arrow: null values", "arrow: forged null count"),
    "NaN": ("json: NaN literal", "arrow: NaN", "raw: NaN"),
    "infinity": ("arrow: infinity", "raw: infinity", "json: number over float32", "json: number over a double"),
    "extension types": (
        "arrow: unknown extension type", "arrow: fixed-shape tensor of another shape",
        "arrow: fixed-shape tensor in another order",
    ),
    "dictionary types": ("arrow: dictionary", "arrow: dictionary of numbers"),
    "nested types": ("arrow: struct", "arrow: lists of any length", "arrow: lists of another nesting",
                     "json: deep data"),
    "view types": ("arrow: list views", "arrow: text view"),
    "invalid UTF-8": ("json: invalid UTF-8", "json: lone surrogate", "arrow: name that is not UTF-8"),
    "JSON depth bomb": ("json: depth bomb", "bomb: json 12 MiB of open lists"),
    "huge integers": (
        "json: integer of 5,000 digits", "json: integer that no dtype holds", "json: exponent of 5,000 digits",
        "json: dimension over 64 bits", "header: priority of 4,000 digits", "deadline: of 4,000 digits",
    ),
    "unknown model": ("json: another model", "header: another model", "header: model name empty"),
    "unknown version": ("json: another version", "json: a version that is a number", "header: another version"),
    "model name with ..": ("json: model name with ..", "header: model name with ..", "header: version with .."),
    "model name with a slash": ("json: model name with a slash", "header: model name with a slash"),
    "model name with NUL": ("json: model name with NUL", "header: model name with NUL"),
    "duplicate headers": (
        "header: request id twice", "header: request id twice, the same", "header: content type twice",
        "header: traceparent twice",
    ),
    "missing headers": (
        "header: missing, so that the value is no JSON", "header: request id null", "header: content type null",
    ),
    "non-UTF-8 headers": (
        "header: request id not UTF-8", "header: content type not UTF-8", "header: priority not UTF-8",
        "header: tracestate not UTF-8",
    ),
    "absurd deadline": (
        "deadline: absurdly far", "deadline: absurdly long ago", "deadline: below 0", "deadline: over 64 bits",
    ),
    "pickle bytes": ("json: pickle", "arrow: pickle", "raw: pickle", "arrow: pickles"),
}  # fmt: skip
"""Kind -> fixtures. Three kinds have tests of their own: a header's name that is not UTF-8 (no Python client can send
it), a deadline in the past (answered ``expired``) and a repeated request id (both are answered)."""
