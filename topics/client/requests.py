"""Builds the requests of one model from arrays and options."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite
from typing import TypedDict, Unpack

from topics.client.messages import Inputs, columns_of, content_type_of, encode
from topics.errors import InputError
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, Request, new_request_id
from topics.signature import Signature

__all__ = ["Maker", "Options"]

ID_BYTES_MAX = RequestLimits().header_chars_max


class Options(TypedDict, total=False):
    """What a call may say besides its inputs; nothing is needed."""

    key: bytes | str | None  # kept on the prediction; order holds per key
    deadline_in_ms: float | None  # from now; later the answer is `Expired`
    content_type: str | None  # json, arrow or raw, or in full; default Arrow with a signature, else JSON
    priority: int | None  # 0 to 9, 9 most urgent
    traceparent: str | None  # W3C
    tracestate: str | None
    stages: bool  # ask for the stage times
    request_id: str | None  # default a fresh one


class Maker:
    """Builds requests for one model."""

    def __init__(
        self,
        signature: Signature | None,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = new_request_id,
    ) -> None:
        self._tensors = signature.inputs if signature else None
        self._content_type = ARROW if signature else JSON
        self._clock = clock
        self._new_id = new_id

    def request(self, inputs: Inputs, **options: Unpack[Options]) -> Request:
        """A request for ``inputs`` (columns, or one array where the model has one input). Raises `InputError`."""
        priority, key, within_ms = options.get("priority"), options.get("key"), options.get("deadline_in_ms")
        if priority is not None and not 0 <= priority <= 9:
            raise InputError(f"priority {priority}: 0 to 9, 9 most urgent")
        kind = content_type_of(options.get("content_type") or self._content_type)
        if within_ms is not None and not isfinite(within_ms):
            raise InputError(f"a deadline in {within_ms} ms: give a number, or none")
        request_id = options.get("request_id") or self._new_id()
        if (size := len(request_id.encode())) > ID_BYTES_MAX:  # its notice could not name it: the call waits in vain
            raise InputError(f"a request id of {size} bytes, over {ID_BYTES_MAX}")
        return Request(
            encode(columns_of(inputs, self._tensors), kind, self._tensors, request_id),
            key.encode() if isinstance(key, str) else key,
            request_id,
            kind,
            None if within_ms is None else round(self._clock() * 1000 + within_ms),
            priority,
            options.get("traceparent"),
            options.get("tracestate"),
            options.get("stages", False),
        )
