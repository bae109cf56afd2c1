"""``python -m tests.gpu``: what the GPU path costs, on this machine's first GPU. Exits with 1 where there is none."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.infer.backends import backend_for
from pipeline.infer.backends.tensorrt import Engines, TensorRt, load_tensorrt
from pipeline.infer.cuda import CudaBindings, look_for_gpus
from pipeline.load.lane import open_lane
from pipeline.load.process import Process
from pipeline.load.readback import read_back, wait_for_answers
from pipeline.load.requests import random_columns
from pipeline.load.throughput import WARMUP
from pipeline.local import EmbeddedKafka
from pipeline.models import Model
from tests.gpu.backends import installed, made
from tests.gpu.perceptron import perceptron
from tests.gpu.spans import bare_loop, session_loop
from topics.codecs import codec_for
from topics.records import ARROW

DISTINCT, PARTITIONS, SLOTS = 16, 4, 3
CHECKED, TOLERANCE = 4, 0.02  # rows of a request; of probabilities, after many layers of float16


def build(model: Model) -> None:
    """TensorRT's engine, from here on in the cache."""
    trt = load_tensorrt()
    built = Engines(trt).plan(model, look_for_gpus().found[0])
    print(f"engine build time: {built.seconds:.1f} s, {len(built.plan) / 1024**2:.1f} MiB, TensorRT {trt.__version__}")


def bare(model: Model, name: str, rows: int, seconds: float) -> tuple[float, float | None]:
    """The backend in a loop of this process, its slots in flight as the worker has them: rows a second, ms of a run."""
    backend = made(name)
    backend.load(model)
    slots = backend.slots(SLOTS)
    for slot in slots:
        slot.inputs["x"][:rows] = random_columns(model.signature.inputs, rows)["x"]
    backend.warm()
    if not isinstance(backend, TensorRt):
        rows_per_s, run_ms = session_loop(backend, slots, rows, seconds, time.monotonic), None
        print(f"bare session loop: {rows_per_s:,.0f} rows/s in batches of {rows}; its copies are within its runs")
    else:
        loop = bare_loop(backend, CudaBindings(), slots, rows, seconds, time.monotonic)
        rows_per_s, run_ms = loop.rows_per_s, float(np.median([batch.run[1] - batch.run[0] for batch in loop.batches]))
        print(f"bare loop: {rows_per_s:,.0f} rows/s in batches of {rows}, {run_ms:.3f} ms a run")
        print(f"GPU busy share in that loop: {loop.busy:.1%}; copies beside another batch's run: {loop.overlap:.1%}")
    backend.close()
    return rows_per_s, run_ms


def through_kafka(
    model: Model, broker: str, folder: Path, requests: int, rows: int, device: str = "cuda:0"
) -> tuple[float, list[str]]:
    """Rows a second of a worker on the device, and its stages: each with p50 and p99."""
    with open_lane(broker, folder, model, "gpu", PARTITIONS) as lane:
        lane.preload(requests, ARROW, rows=rows, distinct=DISTINCT)
        report = folder / "report.json"
        arguments = [*lane.serve_arguments(), "--device", device, "--report", str(report)]
        topic = lane.model.topics.predictions
        with Process("pipeline.cli", arguments, lane.folder / "log") as process:
            wait_for_answers(lane.published(), requests, process, WARMUP)
            process.stop()
        answers = read_back(broker, topic, PARTITIONS, requests, roughly(lane.model, rows))
    stages = json.loads(report.read_text())["total"]["stages"]
    return answers.rate(WARMUP) * rows, [f"  {name:<12} {_figures(stage)}" for name, stage in stages.items()]


def roughly(model: Model, rows: int) -> Callable[[int, bytes], bool]:
    """Says whether an answer is the CPU's, in its first rows, as far as float16 goes."""
    backend, codec = backend_for("torch" if model.file.suffix == ".pt2" else "onnxruntime"), codec_for(ARROW)
    backend.load(model)
    (slot,) = backend.slots(1)
    columns = random_columns(model.signature.inputs, rows * DISTINCT)["x"]
    checked = columns.reshape(DISTINCT, rows, -1)[:, :CHECKED].reshape(DISTINCT * CHECKED, -1)
    slot.inputs["x"][: len(checked)] = checked
    backend.run(slot, len(checked))
    expected = slot.outputs["y"][: len(checked)].reshape(DISTINCT, CHECKED, -1).copy()
    backend.close()

    def right(index: int, value: bytes) -> bool:
        found = codec.decode_response(value, model.signature.outputs)["y"]
        return len(found) == rows and np.allclose(found[:CHECKED], expected[index % DISTINCT], atol=TOLERANCE)

    return right


def _figures(stage: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:,.1f}" for name, value in stage.items() if name in ("p50_us", "p99_us"))


def main() -> int:
    """Measure and print; one run, on an otherwise idle machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("tensorrt", "onnxruntime_cuda", "torch_cuda"), help="not the first here")
    parser.add_argument("--rows", type=int, default=1024, help="rows of a batch and of an Arrow request")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    gpus, name = look_for_gpus(), given.backend or next(iter(installed()), "")
    if not gpus.found or not name:
        print(f"nothing measured: {gpus.reason or 'no backend of a GPU is installed'}", file=sys.stderr)
        return 1
    print(f"{gpus.found[0].name}, driver of CUDA {gpus.found[0].driver}; backend {name}")
    with tempfile.TemporaryDirectory(prefix="sluice-gpu-") as temporary, EmbeddedKafka() as kafka:
        folder = Path(temporary)
        os.environ["SLUICE_CACHE_DIR"] = str(folder / "cache")  # of the worker too
        model = perceptron(folder, name, width=given.width, layers=given.layers, rows_max=given.rows)
        if name == "tensorrt":
            build(model)
        bare_rows_per_s, run_ms = bare(model, name, given.rows, given.seconds)
        rows_per_s, stages = through_kafka(model, kafka.bootstrap, folder, given.requests, given.rows)
        print(f"through Kafka: {rows_per_s:,.0f} rows/s, {rows_per_s / bare_rows_per_s:.3f} of the bare loop")
        if run_ms is not None:
            busy = rows_per_s / given.rows * run_ms / 1e3
            print(f"GPU busy share through Kafka, from that rate and the bare loop's run: {busy:.1%}")
        print("stages of a request through Kafka, with all requests there at the start:", *stages, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
