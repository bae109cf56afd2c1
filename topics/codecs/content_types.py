"""Which codec a ``content-type`` header asks for."""

from __future__ import annotations

from topics.codecs.arrow import ArrowCodec
from topics.codecs.codec import Codec, shown
from topics.codecs.json import JsonCodec
from topics.codecs.raw import RawCodec
from topics.codes import BadRequest, Code

__all__ = ["CONTENT_TYPES", "codec_for"]

_CODECS: dict[str, Codec] = {codec.content_type: codec for codec in (JsonCodec(), ArrowCodec(), RawCodec())}
CONTENT_TYPES: tuple[str, ...] = tuple(_CODECS)
"""The content types of requests and responses, the default first."""


def codec_for(content_type: str) -> Codec:
    """The process's one codec of ``content_type``; parameters (``; charset=utf-8``) and case do not matter.

    Raises `BadRequest` with ``UNKNOWN_CONTENT_TYPE``.
    """
    codec = _CODECS.get(content_type) or _CODECS.get(content_type.partition(";")[0].strip().lower())
    if codec is None:
        raise BadRequest(Code.UNKNOWN_CONTENT_TYPE, f"{shown(content_type)} is none of {', '.join(CONTENT_TYPES)}")
    return codec
