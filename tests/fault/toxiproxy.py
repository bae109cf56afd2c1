"""Toxiproxy between workers and the broker: cut, slow and narrow connections."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pytest
import requests

from pipeline.local.kafka import free_ports
from pipeline.local.places import cache_directory

__all__ = ["Toxiproxy"]

VERSION = "v2.12.0"
BUILD_S_MAX = 600.0
START_S_MAX = 20.0

# A millisecond is Toxiproxy's unit of time and a kilobyte per second that of a rate: 375 of them are 3 Mbit/s.
TOXICS: Mapping[str, tuple[str, Mapping[str, int]]] = MappingProxyType(
    {"latency": ("latency", {"latency": 100}), "bandwidth": ("bandwidth", {"rate": 375})}
)


class Toxiproxy:
    """The server, started with this block and ended with it; built once into the cache folder.

    Skips the test that asks for it where it cannot be built.
    """

    def __enter__(self) -> Self:
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [str(_binary()), "-host", "127.0.0.1", "-port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LOG_LEVEL": "error"},
        )
        end_s = time.monotonic() + START_S_MAX
        while True:
            try:
                self._ask("GET", "/version")
            except requests.ConnectionError:
                assert time.monotonic() < end_s, "Toxiproxy does not start"
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def open(self, listen: str, upstream: str) -> None:
        """The one way that `harmed` is about."""
        self._ask("POST", "/proxies", name="way", listen=listen, upstream=upstream, enabled=True)

    @contextmanager
    def harmed(self, how: str) -> Iterator[None]:
        """``connection`` cuts it and refuses new ones; ``latency`` and ``bandwidth`` hold in both directions."""
        if how == "connection":
            self._ask("POST", "/proxies/way", enabled=False)
            yield
            self._ask("POST", "/proxies/way", enabled=True)
            return
        kind, attributes = TOXICS[how]
        streams = ("upstream", "downstream")
        for stream in streams:
            self._ask("POST", "/proxies/way/toxics", name=stream, type=kind, stream=stream, attributes=attributes)
        yield
        for stream in streams:
            self._ask("DELETE", f"/proxies/way/toxics/{stream}")

    def _ask(self, method: str, path: str, **body: Any) -> None:
        requests.request(method, self._url + path, json=body or None, timeout=10).raise_for_status()


def _binary() -> Path:
    """The server, from the cache or freshly built."""
    folder = cache_directory() / f"toxiproxy-{VERSION}"
    binary = folder / "server"
    if binary.exists():
        return binary
    if (go := shutil.which("go")) is None:
        pytest.skip(f"network faults need Toxiproxy: {binary} is not there, and there is no Go to build it")
    build = [go, "install", f"github.com/Shopify/toxiproxy/v2/cmd/server@{VERSION}"]
    folder.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        build,
        env={**os.environ, "GOBIN": str(folder)},
        capture_output=True,
        text=True,
        timeout=BUILD_S_MAX,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"network faults need Toxiproxy, which could not be built: {built.stderr.strip()[-200:]}")
    return binary
