"""What a model's SLO makes of its requests."""

from __future__ import annotations

from dataclasses import replace

from tests.simulate.requests import Request

__all__ = ["under_slo"]


def under_slo(request: Request) -> Request:
    """The same for a model with an SLO: it may expire, and many have a priority."""
    if request.kind != "header" and request.number % 3:
        headers = request.message.headers() or []
        request.message.set_headers([*headers, ("priority", b"%d" % (request.number * 7 % 10))])
    return replace(request, expires=True)
