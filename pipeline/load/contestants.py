"""Who runs beside Sluice in the throughput bench, and with which Python; who is not installed is left out and told."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pipeline
from pipeline.core.errors import ConfigError
from pipeline.core.subprocesses import module_command
from topics.records import JSON, RAW

__all__ = ["PEERS", "Field", "Peer", "field_of"]

LOOK_S_MAX = 60.0  # to import one package
PATH = "import sys; sys.path.insert(0, {!r}); import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's module and options; the package it needs beyond Sluice's own; its share of the messages; their form.

    A slower one gets fewer, for about as many seconds. Who cannot read raw tensors gets the same rows in its own form.
    """

    module: str
    options: tuple[str, ...] = ()
    needs: str | None = None
    share: float = 1.0
    content_type: str = RAW
    advice: str = "install Sluice's extra `bench`"


PEERS = {
    "loop": Peer("pipeline.load.peers.loop"),
    "quiet-loop": Peer("pipeline.load.peers.loop", ("--quiet-gc",)),
    "aiokafka": Peer("pipeline.load.peers.aiokafka_loop", share=0.5),
    "bytewax": Peer("pipeline.load.peers.bytewax_flow", needs="bytewax"),
    "quixstreams": Peer(
        "pipeline.load.peers.quix_streams",
        needs="quixstreams",
        share=0.2,
        advice="it wants an older confluent-kafka: install quixstreams and onnxruntime in an environment of their own "
        "and give --peers-python PATH/bin/python",
    ),
    "faststream": Peer("pipeline.load.peers.faststream_batch", needs="faststream", share=0.2),
    "faust": Peer("pipeline.load.peers.faust_take", share=0.05),
    "mlserver": Peer(
        "pipeline.load.peers.ml_server",
        needs="mlserver",
        share=0.05,
        content_type=JSON,
        advice="it wants an older protobuf: install mlserver and onnxruntime in an environment of their own and give "
        "--peers-python PATH/bin/python",
    ),
}


@dataclass(frozen=True, slots=True)
class Field:
    """The peers that can run, each with the command that begins its command line, and why the others cannot."""

    commands: dict[str, list[str]]
    left_out: dict[str, str]


def field_of(names: Iterable[str], other: Path | None, folder: Path) -> Field:
    """Look for what each of `PEERS` needs here, then in the environment of the Python ``other``.

    Raises `ConfigError` for an unknown name and where ``other`` is no Python. ``folder`` must outlive the run.
    """
    commands, left_out = {}, {}
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"no peer {name!r}: there are {', '.join(PEERS)}")
        peer = PEERS[name]
        if peer.needs is None or importlib.util.find_spec(peer.needs):
            commands[name] = module_command(peer.module)
        elif other is not None and _imports(other, peer.needs):
            commands[name] = [str(other), "-I", "-c", PATH.format(str(_alone(folder)), peer.module)]
        else:
            left_out[name] = f"{peer.needs} is not installed; {peer.advice}"
    return Field(commands, left_out)


def _imports(python: Path, package: str) -> bool:
    """Whether that Python has the package."""
    look = [str(python), "-I", "-c", f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({package!r}))"]
    try:
        return subprocess.run(look, capture_output=True, timeout=LOOK_S_MAX, check=False).returncode == 0
    except OSError as error:
        raise ConfigError(f"--peers-python {python}: {error.strerror}") from error


def _alone(folder: Path) -> Path:
    """A folder with this package alone: the other Python must see none of the packages installed beside it."""
    place = folder / "peers"
    place.mkdir(exist_ok=True)
    link = place / "pipeline"
    if not link.exists():
        link.symlink_to(Path(pipeline.__file__).parent, target_is_directory=True)
    return place
