"""``python -m tests.gpu``: what the GPU path costs, on this machine's first GPU. Exits with 1 where there is none."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pipeline.infer.backends.tensorrt import Engines, TensorRt, load_tensorrt
from pipeline.infer.cuda import CudaBindings, look_for_gpus
from pipeline.load.lane import open_lane
from pipeline.load.process import Process
from pipeline.load.readback import read_back, wait_for_answers
from pipeline.load.requests import random_columns
from pipeline.load.throughput import WARMUP
from pipeline.local import EmbeddedKafka
from pipeline.models import Model, add_model, read_content
from pipeline.models.onnx import open_bare
from tests.conftest import no_gpu
from tests.gpu.spans import Loop, bare_loop
from tests.unit.models import graphs
from topics.codecs import codec_for
from topics.records import ARROW

FEATURES, CLASSES = 64, 10
DISTINCT, PARTITIONS, SLOTS = 16, 4, 3
CHECKED, TOLERANCE = 8, 0.05  # rows of a request; of probabilities, after many layers of float16


def perceptron(folder: Path, *, width: int, layers: int, rows_max: int) -> Model:
    """Dense layers of float16 in a float32 signature: a row is 256 bytes, and its cost is what one asks for."""
    rng = np.random.default_rng(1)
    sizes = [FEATURES, *[width] * layers, CLASSES]
    nodes, constants = [helper.make_node("Cast", ["x"], ["h0"], to=TensorProto.FLOAT16)], []
    for number, (takes, gives) in enumerate(pairwise(sizes)):
        weights = rng.normal(scale=(2 / takes) ** 0.5, size=(takes, gives)).astype(np.float16)
        constants.append(numpy_helper.from_array(weights, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [f"h{number}", f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"h{number + 1}"]))
    nodes += [
        helper.make_node("Cast", [f"h{len(sizes) - 1}"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    path = graphs.save(
        folder / "perceptron.onnx",
        nodes,
        inputs={"x": (TensorProto.FLOAT, ("batch", FEATURES))},
        outputs={"y": (TensorProto.FLOAT, ("batch", CLASSES))},
        constants=constants,
    )
    return add_model(folder / "models", path, rows_max=rows_max)


def bare(model: Model, rows: int, seconds: float) -> Loop:
    """The engine in a loop of this process, three slots in flight, as the worker has them."""
    cuda = CudaBindings()
    backend = TensorRt(cuda=cuda, timed=True)
    backend.load(model)
    slots = backend.slots(SLOTS)
    for slot in slots:
        slot.inputs["x"][:rows] = random_columns(model.signature.inputs, rows)["x"]
    backend.warm()
    loop = bare_loop(backend, cuda, slots, rows, seconds, time.monotonic)
    backend.close()
    return loop


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
    """Says whether an answer is ONNX Runtime's on the CPU, in its first rows, as far as float16 goes."""
    codec, session = codec_for(ARROW), open_bare(model.file, *read_content(model))
    columns = random_columns(model.signature.inputs, rows * DISTINCT)["x"]
    expected = [session.run(["y"], {"x": columns[at * rows : at * rows + CHECKED]})[0] for at in range(DISTINCT)]

    def right(index: int, value: bytes) -> bool:
        found = codec.decode_response(value, model.signature.outputs)["y"]
        return len(found) == rows and np.allclose(found[:CHECKED], expected[index % DISTINCT], atol=TOLERANCE)

    return right


def _figures(stage: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:,.1f}" for name, value in stage.items() if name in ("p50_us", "p99_us"))


def main() -> int:
    """Measure and print; one run, on an otherwise idle machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024, help="rows of a batch and of an Arrow request")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    if why := no_gpu():
        print(f"nothing measured: {why}", file=sys.stderr)
        return 1
    gpu, trt = look_for_gpus().found[0], load_tensorrt()
    print(f"{gpu.name}, driver of CUDA {gpu.driver}; {trt.__name__} {trt.__version__}")
    with tempfile.TemporaryDirectory(prefix="sluice-gpu-") as name, EmbeddedKafka() as kafka:
        folder = Path(name)
        os.environ["SLUICE_CACHE_DIR"] = str(folder / "cache")  # of the worker too
        model = perceptron(folder, width=given.width, layers=given.layers, rows_max=given.rows)
        built = Engines(trt).plan(model, gpu)
        print(f"engine build time: {built.seconds:.1f} s, {len(built.plan) / 1024**2:.1f} MiB")
        loop = bare(model, given.rows, given.seconds)
        print(f"bare engine loop: {loop.rows_per_s:,.0f} rows/s in batches of {given.rows}")
        print(f"GPU busy share in that loop: {loop.busy:.1%}; copies beside another batch's run: {loop.overlap:.1%}")
        rows_per_s, stages = through_kafka(model, kafka.bootstrap, folder, given.requests, given.rows)
        print(f"through Kafka: {rows_per_s:,.0f} rows/s, {rows_per_s / loop.rows_per_s:.3f} of the bare loop")
        run_ms = float(np.median([batch.run[1] - batch.run[0] for batch in loop.batches]))
        print(f"GPU busy share through Kafka, from that rate and {run_ms:.3f} ms a batch: ", end="")
        print(f"{rows_per_s / given.rows * run_ms / 1e3:.1%}")
        print("stages of a request through Kafka, with all requests there at the start:", *stages, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
