"""Limits of one request, checked before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RequestLimits"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may ask for (invariant I4)."""

    # A broker's default is 1 MB; people raise it to about 10 MB. librdkafka holds what it received, Python a copy and
    # the producer one of the dead letter: three times 12 MiB, in a worker that may grow by 64 MiB for one message.
    value_bytes_max: int = 12 * 1024 * 1024
    rows_max: int = 49_152  # 12 MiB of 256-byte rows
    # Parsed JSON takes up to 93 bytes for each value, list, object and key, and a string four times its bytes where one
    # character of it needs four. So 400,000 and 4 MiB stay below 36 + 5 * 4 = 56 MiB, beside the message itself.
    json_bytes_max: int = 4 * 1024 * 1024  # about 350,000 numbers as one writes float32: Arrow is for more
    json_values_max: int = 400_000
    tensors_max: int = 64  # columns or JSON tensors looked at before the count is refused
    key_bytes_max: int = 64 * 1024  # a key is copied to the prediction
    header_chars_max: int = 4_096  # of one header's value
