"""The command line that every peer understands."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

__all__ = ["LINGER_MS", "PeerArguments", "peer_arguments"]

LINGER_MS = 5.0  # librdkafka's default


@dataclass(frozen=True, slots=True)
class PeerArguments:
    """Where a peer reads, where it writes and what it computes; an echo has no model."""

    broker: str
    requests: str
    predictions: str
    group: str
    onnx: str
    label: str
    linger_ms: float
    quiet_gc: bool
    within_s: float


def peer_arguments(description: str) -> PeerArguments:
    """Parse the command line of this process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--broker", required=True, help="HOST:PORT of a Kafka broker")
    parser.add_argument("--requests", required=True, help="topic to read")
    parser.add_argument("--predictions", required=True, help="topic to write")
    parser.add_argument("--group", required=True, help="consumer group; a fresh one begins at the earliest message")
    parser.add_argument("--onnx", default="", help="model file of one input and one output")
    parser.add_argument("--label", default="echo/1", help="the model header: NAME/VERSION")
    parser.add_argument("--linger-ms", type=float, default=LINGER_MS, help="producer linger (default: librdkafka's)")
    parser.add_argument("--quiet-gc", action="store_true", help="the collector set as Sluice's worker sets its own")
    parser.add_argument("--within-s", type=float, default=0.05, help="how long stock Faust's take waits for a batch")
    return PeerArguments(**vars(parser.parse_args()))
