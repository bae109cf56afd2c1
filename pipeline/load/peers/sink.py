"""A telemetry endpoint that takes all it is sent and drops it: OTLP over HTTP as a collector answers it."""

from __future__ import annotations

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

taken: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    """Reads a body and says 200."""

    protocol_version = "HTTP/1.1"  # the exporter keeps its connection, as with a collector

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        taken[self.path] = taken.get(self.path, 0) + 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, *args: Any) -> None:
        """Nothing: it would be work on the cores that are measured."""


def main() -> None:
    """Print ``ready PORT``, serve until SIGTERM, then print how often each path was posted to."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"ready {server.server_address[1]}", flush=True)
    server.serve_forever()
    for path, times in sorted(taken.items()):
        print(path, times)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
