"""F20: twice as many requests as can be answered, with deadlines."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from pipeline.models import add_model
from tests.fault.conftest import MakeScene
from tests.fault.workload import Made, Workload, made
from topics.records import Status

WIDTH, LAYERS = 2048, 8  # about 67 MFLOP a row: some hundred rows a second on one core, which one client can double
ROWS = 64
DEADLINE_MS = 2000
LONG_S, SHORT_S = 600.0, 20.0
LONG_WARM, SHORT_WARM = 0.2, 0.5  # of it: ten seconds at least
RATE_REQUESTS = 1500


def slow(folder: Path, name: str) -> Workload:
    """A model that is the bottleneck: the same wide layer several times over."""
    rng = np.random.default_rng(3)
    weights = {
        "first": rng.standard_normal((50, WIDTH), np.float32) / np.float32(7),
        "wide": rng.standard_normal((WIDTH, WIDTH), np.float32) * np.float32((2 / WIDTH) ** 0.5),
        "last": rng.standard_normal((WIDTH, 1), np.float32) / np.float32(WIDTH),
    }
    nodes, at = [helper.make_node("MatMul", ["features", "first"], ["h0"])], "h0"
    for layer in range(LAYERS):
        nodes += [
            helper.make_node("MatMul", [at, "wide"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]),
        ]
        at = f"r{layer}"
    nodes.append(helper.make_node("MatMul", [at, "last"], ["score"]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 50])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor(each, TensorProto.FLOAT, value.shape, value) for each, value in weights.items()],
    )
    source = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), source)
    add_model(folder / "models", source, name=name, rows_max=32)
    values = [row.tobytes() for row in rng.random((ROWS, 50), np.float32)]
    return Workload(
        folder / "models",
        name,
        lambda number: made(number, values[number % ROWS]),
        lambda request_id, value: len(value or b"") == 4,
    )


def test_f20_twice_the_capacity(scene: MakeScene, pytestconfig: pytest.Config) -> None:
    """Every request has its outcome, a prediction or an expired notice; memory is flat after a warm-up."""
    with scene("F20", "twice the capacity, with deadlines", "at-least-once", workload=slow) as at:
        worker = at.start("--threads", "1")
        started_s = time.monotonic()
        at.client.send(RATE_REQUESTS)
        at.wait(lambda: at.committed() == RATE_REQUESTS, "the capacity")
        peak_per_s = RATE_REQUESTS / (time.monotonic() - started_s)

        def make(number: int) -> Made:
            key, value, headers = at.workload.make(number)
            deadline = str(round(time.time() * 1000) + DEADLINE_MS)
            return key, value, [*headers, ("deadline-ms", deadline)]

        at.client.make = make
        long = pytestconfig.getoption("--overload")
        seconds, warm_share = (LONG_S, LONG_WARM) if long else (SHORT_S, SHORT_WARM)
        process, sizes = psutil.Process(worker.process.pid), list[int]()
        began_ms = time.time() * 1000
        with at.client.steadily(2 * peak_per_s):
            at.injected()
            at.pause(seconds, lambda: sizes.append(process.memory_info().rss))
        verdict = at.finish(repeats=False, timeout_s=600)
        warm = sizes[int(len(sizes) * warm_share) :]
        growth = max(warm) / statistics.median(warm[: max(1, len(warm) // 10)]) - 1
        sent_ms = {each.request_id: each.at_ms for each in at.client.sent if each.at_ms >= began_ms}
        good = sum(each.at_ms - sent_ms.get(each.request_id, -DEADLINE_MS) <= DEADLINE_MS for each in at.seen
                   if each.status is Status.OK)  # fmt: skip
        at.row = replace(
            at.row,
            note=f"peak {peak_per_s:,.0f}/s; for {seconds:.0f} s at twice that {good / seconds:,.0f}/s in time, "
            f"{(verdict.answered - RATE_REQUESTS) / seconds:,.0f}/s answered, "
            f"{verdict.expired / seconds:,.0f}/s expired; "
            f"memory {warm[0] >> 20} MiB, {growth:+.1%} at most",
        )
        assert verdict.answered + verdict.expired == verdict.sent
        assert verdict.expired > 0
        assert growth < 0.05
