"""`sluice demo`: real images through a real Kafka, and where their time went."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.ending import ended_by_signals

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np

    from pipeline.local.process import Guarded
    from pipeline.models import Model
    from topics import Answer, Client

__all__ = ["demo"]

ACCURACY_MIN = 0.98
STAGES_OFF_MAX = 0.01  # invariant I5
READY_S_MAX = 120.0  # imports, model load and warm-up take seconds; a loaded machine ten times that
DRAIN_S_MAX = 60.0
ANSWER_S_MAX = 60.0
POLL_S = 0.05
SHOWN = 4
SHADES = " .:-=+*#@"  # of 0..16, two values each
# Content type and images of a request: the three codecs, one image at a time as most clients send, and many.
LOTS = (("json", 1), ("raw", 1), ("arrow", 1), ("arrow", 64))


@dataclass(frozen=True, slots=True)
class Lot:
    """All held-out images, ``repeat`` times, in one form."""

    content_type: str
    images_per_request: int
    requests: int
    images: int
    right: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def demo(
    repeat: Annotated[int, typer.Option(help="How often each held-out image is sent in each form.", min=1)] = 5,
    keep: Annotated[bool, typer.Option("--keep", help="Leave Kafka and a worker up until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start a Kafka and a worker, send real images of digits, and print predictions, accuracy and where time went.

    Nothing needs to be installed or running: the first start fetches Apache Kafka (44 MB) once, and everything started
    here is ended with the command. Exits with 1 where accuracy is below 0.98, a request got no prediction, or the
    stages do not sum to the end-to-end latency within 1%.

    For instance: sluice demo --keep
    """
    from pipeline.cli.output import emit
    from pipeline.local import EmbeddedKafka
    from pipeline.models import BUNDLED, held_out, load_repository
    from topics import Client

    (model,) = load_repository(BUNDLED)
    images, labels = held_out()
    tell = _teller(as_json)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-demo-")))
        tell("starting Apache Kafka")
        bootstrap = stack.enter_context(EmbeddedKafka()).bootstrap
        tell(f"Kafka answers at {bootstrap}; starting a worker")
        report = folder / "report.json"
        with _worker(bootstrap, folder, report):
            tell(f"the worker is ready; sending {len(images)} images of handwritten digits\n")
            with Client(bootstrap, model.name, model.signature) as client:
                said = client.predict(images[:SHOWN], timeout_s=ANSWER_S_MAX, content_type="json")
                tell("\n".join(_pictures(images[:SHOWN], labels[:SHOWN], said)))
                lots = [_send(client, images, labels, form, rows, repeat) for form, rows in LOTS]
        snapshot = json.loads(report.read_text())
        found = _summary(model, lots, snapshot)
        emit({**found, "worker": snapshot}, as_json, table=[*_lines(lots, found, snapshot)])
        _check(found)
        if keep:
            with _worker(bootstrap, folder, report) as worker, suppress(KeyboardInterrupt):
                tell(_how_to_talk(bootstrap))
                while worker.poll() is None:
                    time.sleep(POLL_S)


def _teller(as_json: bool) -> Callable[[str], None]:
    """Progress goes where figures do not: to people on standard output, beside JSON on standard error."""
    return lambda text: print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


@contextmanager
def _worker(bootstrap: str, folder: Path, report: Path) -> Iterator[Guarded]:
    """`sluice serve` as a process of its own, ready; drained on leaving. Raises `SluiceError` where it fails."""
    from pipeline.core.errors import SluiceError
    from pipeline.core.subprocesses import module_command, module_environment
    from pipeline.local.process import Guarded

    said, log = folder / "worker.out", folder / "worker.log"
    said.unlink(missing_ok=True)
    command = [*module_command("pipeline.cli"), "serve", "--broker", bootstrap, "--report", str(report)]
    worker = Guarded(command, output=said, errors=log, scratch=folder, env=module_environment())
    try:
        _await_ready(worker, said, log)
        yield worker
    finally:
        worker.end(DRAIN_S_MAX)
    if worker.poll():
        raise SluiceError(f"the worker failed while draining; the end of its log:\n{_tail(log)}")


def _await_ready(worker: Guarded, said: Path, log: Path) -> None:
    from pipeline.core.errors import SluiceError

    until_s = time.monotonic() + READY_S_MAX
    while not (said.exists() and said.read_text().startswith("ready")):
        if worker.poll() is not None or time.monotonic() > until_s:
            raise SluiceError(f"the worker did not get ready; the end of its log:\n{_tail(log)}")
        time.sleep(POLL_S)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _send(
    client: Client,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    content_type: str,
    rows: int,
    repeat: int,
) -> Lot:
    """Every image ``repeat`` times; the time is from the first request to the last answer, through this one client."""
    starts = [start for _ in range(repeat) for start in range(0, len(images), rows)]
    began_s = time.monotonic()
    asked: list[Future[Answer]] = [
        client.submit(images[start : start + rows], timeout_s=ANSWER_S_MAX, content_type=content_type)
        for start in starts
    ]
    answers = [future.result() for future in asked]
    seconds = time.monotonic() - began_s
    right = sum(
        int((_labels(answer.outputs()) == labels[start : start + rows]).sum())
        for start, answer in zip(starts, answers, strict=True)
    )
    return Lot(content_type, rows, len(asked), repeat * len(images), right, seconds)


def _labels(outputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The predicted digits; raw answers hold the first output alone, the probabilities."""
    labels = outputs.get("label")
    return outputs["probabilities"].argmax(axis=1) if labels is None else labels


def _pictures(
    images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], said: dict[str, np.ndarray[Any, Any]]
) -> Iterator[str]:
    """Thumbnails beside each other, and below each what the model said and what it is."""
    shades = (images[:, 0] / 2).round().astype(int)
    for row in range(shades.shape[1]):
        yield "    ".join("".join(SHADES[value] * 2 for value in image[row]) for image in shades)
    sure = said["probabilities"].max(axis=1)
    captions = (f"says {d} ({p:.0%}), is {t}" for d, p, t in zip(said["label"], sure, labels, strict=True))
    yield "    ".join(caption.ljust(2 * shades.shape[2]) for caption in captions)


def _summary(model: Model, lots: list[Lot], snapshot: dict[str, Any]) -> dict[str, Any]:
    images = sum(lot.images for lot in lots)
    return {
        "model": model.label,
        "requests": 1 + sum(lot.requests for lot in lots),
        "images": images,
        "accuracy": sum(lot.right for lot in lots) / images,
        "lots": [{**asdict(lot), "images_per_s": lot.images_per_s} for lot in lots],
        "stages_over_end_to_end": snapshot["total"]["stages_over_end_to_end"],
        "answered": snapshot["total"]["requests"]["answered"],
    }


def _lines(lots: list[Lot], found: dict[str, Any], snapshot: dict[str, Any]) -> Iterator[str]:
    yield f"\n{'content type':14}{'images a request':>18}{'requests':>10}{'images/s':>10}{'accuracy':>10}"
    for lot in lots:
        form = f"{lot.content_type:14}{lot.images_per_request:18}{lot.requests:10,}"
        yield f"{form}{lot.images_per_s:10,.0f}{lot.right / lot.images:10.4f}"
    total = snapshot["total"]
    whole_us = total["end_to_end"]["mean_us"]
    yield f"\n{'stage':14}{'mean ms':>10}{'p50 ms':>10}{'p99 ms':>10}{'share':>8}"
    for name, stage in [*total["stages"].items(), ("end_to_end", total["end_to_end"])]:
        mean, p50, p99 = (stage[figure] / 1e3 for figure in ("mean_us", "p50_us", "p99_us"))
        share = stage["mean_us"] / whole_us if whole_us else 0.0
        yield f"{name.replace('_', ' '):14}{mean:10.3f}{p50:10.3f}{p99:10.3f}{share:8.1%}"
    yield (
        f"\n{found['answered']:,} of {found['requests']:,} requests answered by {found['model']}, accuracy "
        f"{found['accuracy']:.4f}; stages sum to {found['stages_over_end_to_end']:.2%} of end to end"
    )


def _check(found: dict[str, Any]) -> None:
    from pipeline.core.errors import SluiceError

    if found["accuracy"] < ACCURACY_MIN:
        raise SluiceError(f"accuracy {found['accuracy']:.4f} is below {ACCURACY_MIN}")
    if found["answered"] != found["requests"]:
        raise SluiceError(f"the worker answered {found['answered']} of {found['requests']} requests")
    if not abs(found["stages_over_end_to_end"] - 1) <= STAGES_OFF_MAX:
        raise SluiceError(f"the stages sum to {found['stages_over_end_to_end']:.2%} of the end-to-end latency")


def _how_to_talk(bootstrap: str) -> str:
    return f"""
Kafka is up at {bootstrap}, with a worker for the model digits. In another terminal, for instance:

  export SLUICE_BROKER={bootstrap}
  sluice topics list
  sluice consume digits
  echo '{{"image": {json.dumps([[[0.0] * 8] * 8])}}}' | sluice produce digits

Ctrl-C ends both."""
