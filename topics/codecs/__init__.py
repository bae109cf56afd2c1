"""The three content types: each decodes a chunk of requests into columns and encodes columns into responses."""

from topics.codecs.codec import Codec, Decoded, ModelName, shown
from topics.codecs.content_types import CONTENT_TYPES, codec_for

__all__ = ["CONTENT_TYPES", "Codec", "Decoded", "ModelName", "codec_for", "shown"]
