"""Which telemetry signals have somewhere to go, told without importing any telemetry."""

from __future__ import annotations

import os

__all__ = ["TELEMETRY_SIGNALS", "signals_of"]

TELEMETRY_SIGNALS = ("traces", "metrics")


def signals_of(endpoint: str | None) -> frozenset[str]:
    """The signals with an endpoint, by the argument (a base URL) or by OpenTelemetry's standard variables."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return frozenset()
    base = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return frozenset(
        signal
        for signal in TELEMETRY_SIGNALS
        if (base or os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"))
        and os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() != "none"
    )
