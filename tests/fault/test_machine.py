"""Faults around a worker: full disks, telemetry that is not there, clocks that are wrong."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.fault.conftest import MakeScene
from tests.fault.workload import Made

AT_LEAST, EXACTLY = "at-least-once", "exactly-once"
LONG = pytest.mark.long
ONLY = ("--instance-id", "only")
FULL = Path("/dev/full")  # takes no byte: no space left on device


def test_f21_a_full_disk_and_folders_that_cannot_be_written(scene: MakeScene) -> None:
    """What a worker writes beside Kafka is told once where it fails, and the worker serves and drains as ever."""
    assert FULL.is_char_device()
    with scene("F21", "disk full, folders unwritable", AT_LEAST) as at:
        nowhere = at.folder / "file" / "ready"
        nowhere.parent.write_text("not a folder")
        (at.folder / f"sluice-{os.getuid()}").write_text("nor is Faust's")
        told = {
            f"the report {FULL} cannot be written: No space left on device": ("--report", str(FULL)),
            f"the ready file {nowhere} cannot be made: Not a directory": ("--ready-file", str(nowhere)),
            f"Faust's folder {at.folder / f'sluice-{os.getuid()}'} cannot be made: File exists": (),
        }
        for line, options in told.items():
            worker = at.start(*ONLY, *options, env={"TMPDIR": str(at.folder)})
            at.client.send(500)
            at.injected()
            at.wait(lambda: at.committed() == len(at.client.sent), "all committed")
            at.stop(worker)
            assert line in worker.log.read_text()
            assert "Traceback" not in worker.log.read_text()
        at.client.send(500)
        at.start(*ONLY, log=FULL)
        at.finish(repeats=False)


@contextmanager
def refusing() -> Iterator[str]:
    """Nobody listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class _Failing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(503)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


@contextmanager
def failing() -> Iterator[str]:
    """Answers 503, each time."""
    with HTTPServer(("127.0.0.1", 0), _Failing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("guarantee", [AT_LEAST, EXACTLY])
@LONG
def test_f22_telemetry_goes_nowhere(scene: MakeScene, guarantee: str) -> None:
    """Requests do not notice; spans that are lost are counted."""
    with scene("F22", "telemetry refusing, silent, failing", guarantee) as at, ExitStack() as stack:

        def traced(number: int) -> Made:
            key, value, headers = at.workload.make(number)
            return key, value, [*headers, ("traceparent", f"00-{number + 1:032x}-{number + 1:016x}-01")]

        for number, endpoint in enumerate((refusing, silent, failing)):
            report = at.folder / f"report{number}"
            url = stack.enter_context(endpoint())
            worker = at.start(*ONLY, "--otlp-endpoint", url, "--report", str(report))
            at.injected()
            at.client.send(500, make=traced)
            at.wait(lambda: at.committed() == len(at.client.sent), "all committed")
            at.stop(worker)
            assert json.loads(report.read_text())["losses"]["spans_dropped"] >= 500
        at.finish(repeats=False)


@pytest.mark.parametrize("guarantee", [AT_LEAST, pytest.param(EXACTLY, marks=LONG)])
def test_f23_clients_whose_clocks_are_an_hour_off(scene: MakeScene, guarantee: str) -> None:
    """Behind: its deadlines are past, and it is told so. Ahead: answered. By days: a dead letter asks for the clock."""
    with scene("F23", "clients' clocks an hour off, or days", guarantee) as at:
        at.start()
        hour_ms = 3_590_000  # the broker itself refuses timestamps more than an hour ahead
        for off_ms, ahead_ms in ((-hour_ms, 10_000), (hour_ms, 10_000), (0, 48 * 3_600_000)):
            now_ms = round(time.time() * 1000) + off_ms

            def late(number: int, deadline_ms: int = now_ms + ahead_ms) -> Made:
                key, value, headers = at.workload.make(number)
                return key, value, [*headers, ("deadline-ms", str(deadline_ms))]

            at.client.send(300, make=late, timestamp_ms=now_ms)
            at.injected()
        verdict = at.finish(repeats=False)
        assert (verdict.expired, verdict.answered, verdict.dead) == (300, 300, 300)
