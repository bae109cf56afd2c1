"""Train the bundled digit classifier and write its ONNX, its held-out images and its repository entry.

    python ops/models/train_digits.py            # about two minutes on two cores; needs the `dev` extra
    python ops/models/train_digits.py --choose   # accuracy on a validation part of the training images only

A small convolutional network in plain NumPy: convolutions as matrix products over sliding windows, Adam, shifts of
up to one pixel as augmentation, and an exponential average of the weights. The settings below were chosen with
``--choose``, which never sees a held-out image. See pipeline/models/bundled/README.md for where the images come from.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from pipeline.models import BUNDLED, add_model

Array = np.ndarray[Any, Any]
SEED = 20261124
HELD_OUT = 500
EPOCHS, BATCH, RATE, DECAY, DROPOUT, SMOOTHING = 120, 64, 2e-3, 1e-4, 0.3, 0.05
CHANNELS = (1, 24, 48, 48)  # convolutions 3x3: 8x8, 8x8, then after pooling 4x4
HIDDEN = 96


def initial(rng: np.random.Generator) -> dict[str, Array]:
    """He-initialised weights of the three convolutions and two dense layers."""
    sizes = {f"conv{i}": (9 * CHANNELS[i], CHANNELS[i + 1]) for i in range(3)}
    sizes |= {"dense0": (CHANNELS[3] * 16, HIDDEN), "dense1": (HIDDEN, 10)}
    weights = {f"{k}.w": rng.normal(0, np.sqrt(2 / fan), (fan, out)) for k, (fan, out) in sizes.items()}
    weights |= {f"{k}.b": np.zeros(out) for k, (_, out) in sizes.items()}
    return {k: v.astype(np.float32) for k, v in weights.items()}


def windows(x: Array) -> Array:
    """(N, H, W, C) -> (N, H, W, C*9): the 3x3 neighbourhood of each pixel, zero outside."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.ascontiguousarray(sliding_window_view(padded, (3, 3), axis=(1, 2))).reshape(*x.shape[:3], -1)


def gather(columns: Array, channels: int) -> Array:
    """The transpose of `windows`: adds each neighbourhood's gradient back to its pixels."""
    count, height, width, _ = columns.shape
    parts = columns.reshape(count, height, width, channels, 3, 3)
    padded = np.zeros((count, height + 2, width + 2, channels), columns.dtype)
    for i in range(3):
        for j in range(3):
            padded[:, i : i + height, j : j + width] += parts[..., i, j]
    return padded[:, 1:-1, 1:-1]


def forward(w: dict[str, Array], x: Array, keep: Array | None = None) -> tuple[Array, list[Array]]:
    """Logits of images (N, 8, 8, 1) scaled to 0..1, and what `backward` needs."""
    c0 = windows(x)
    a0 = np.maximum(c0 @ w["conv0.w"] + w["conv0.b"], 0)
    c1 = windows(a0)
    a1 = np.maximum(c1 @ w["conv1.w"] + w["conv1.b"], 0)
    blocks = a1.reshape(len(x), 4, 2, 4, 2, -1)
    pooled = blocks.max((2, 4))
    c2 = windows(pooled)
    a2 = np.maximum(c2 @ w["conv2.w"] + w["conv2.b"], 0)
    flat = a2.reshape(len(x), -1) * (1 if keep is None else keep)
    hidden = np.maximum(flat @ w["dense0.w"] + w["dense0.b"], 0)
    return hidden @ w["dense1.w"] + w["dense1.b"], [c0, a0, c1, blocks, pooled, c2, a2, flat, hidden]


def backward(w: dict[str, Array], kept: list[Array], error: Array, keep: Array) -> dict[str, Array]:
    """Gradients of the weights, from the gradient of the logits."""
    c0, a0, c1, blocks, pooled, c2, a2, flat, hidden = kept
    grads: dict[str, Array] = {}

    def layer(name: str, taken: Array, out: Array) -> Array:
        rows, grad = taken.reshape(-1, taken.shape[-1]), out.reshape(-1, out.shape[-1])
        grads[f"{name}.w"], grads[f"{name}.b"] = rows.T @ grad, grad.sum(0)
        return out @ w[f"{name}.w"].T

    error = layer("dense1", hidden, error) * (hidden > 0)
    error = (layer("dense0", flat, error) * keep).reshape(a2.shape) * (a2 > 0)
    error = gather(layer("conv2", c2, error), CHANNELS[2])[:, :, None, :, None]
    largest = blocks == pooled[:, :, None, :, None]
    error = (error * largest / largest.sum((2, 4), keepdims=True)).reshape(len(a0), 8, 8, -1) * (
        blocks.reshape(len(a0), 8, 8, -1) > 0
    )
    layer("conv0", c0, gather(layer("conv1", c1, error.astype(np.float32)), CHANNELS[1]) * (a0 > 0))
    return grads


def shifted(x: Array, rng: np.random.Generator) -> Array:
    """Each image moved by -1, 0 or 1 pixels both ways, and its strokes a little fainter or stronger."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    views = sliding_window_view(padded, (8, 8), axis=(1, 2))
    moved = views[np.arange(len(x)), rng.integers(0, 3, len(x)), rng.integers(0, 3, len(x))]
    strength = rng.uniform(0.85, 1.15, (len(x), 1, 1, 1)).astype(np.float32)
    return np.clip(moved.transpose(0, 2, 3, 1) * strength, 0, 1)


def train(x: Array, y: Array, seed: int) -> dict[str, Array]:
    """Averaged weights after `EPOCHS` passes over images (N, 8, 8, 1) scaled to 0..1 with labels (N,)."""
    rng = np.random.default_rng(seed)
    w = initial(rng)
    average = {k: v.copy() for k, v in w.items()}
    first, second = ({k: np.zeros_like(v) for k, v in w.items()} for _ in range(2))
    targets = (np.eye(10) * (1 - SMOOTHING) + SMOOTHING / 10).astype(np.float32)
    step, steps = 0, EPOCHS * (len(x) // BATCH)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for at in range(0, len(x) - BATCH + 1, BATCH):
            step += 1
            some = order[at : at + BATCH]
            keep = (rng.random((BATCH, CHANNELS[3] * 16)) > DROPOUT).astype(np.float32) / (1 - DROPOUT)
            logits, kept = forward(w, shifted(x[some], rng), keep)
            grads = backward(w, kept, (softmax(logits) - targets[y[some]]) / BATCH, keep)
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, grad in grads.items():
                first[k] += 0.1 * (grad - first[k])
                second[k] += 0.001 * (grad**2 - second[k])
                moment = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
                w[k] -= rate * (moment[0] / (np.sqrt(moment[1]) + 1e-8) + DECAY * w[k])
                average[k] += 0.01 * (w[k] - average[k])
    return average


def softmax(logits: Array) -> Array:
    """Probabilities of logits (N, 10)."""
    powers: Array = np.exp(logits - logits.max(1, keepdims=True))
    total: Array = powers.sum(1, keepdims=True)
    return powers / total


def accuracy(w: dict[str, Array], x: Array, y: Array) -> float:
    """Share of the images whose largest logit is their label's."""
    return float((forward(w, x)[0].argmax(1) == y).mean())


def to_onnx(w: dict[str, Array]) -> onnx.ModelProto:
    """The network as a graph over images (N, 1, 8, 8) with values 0..16."""
    constants: dict[str, Array] = {"scale": np.array(1 / 16, np.float32), "rows": np.array([0, -1])}
    nodes = [helper.make_node("Mul", ["image", "scale"], ["x0"])]
    for i in range(3):
        kernel = w[f"conv{i}.w"].reshape(CHANNELS[i], 3, 3, CHANNELS[i + 1]).transpose(3, 0, 1, 2)
        constants |= {f"conv{i}.w": np.ascontiguousarray(kernel), f"conv{i}.b": w[f"conv{i}.b"]}
        inputs = [f"x{i}", f"conv{i}.w", f"conv{i}.b"]
        nodes += [
            helper.make_node("Conv", inputs, [f"c{i}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}" if i != 1 else "a1"]),
        ]
    nodes.insert(5, helper.make_node("MaxPool", ["a1"], ["x2"], kernel_shape=[2, 2], strides=[2, 2]))
    dense = w["dense0.w"].reshape(16, CHANNELS[3], HIDDEN).transpose(1, 0, 2).reshape(-1, HIDDEN)
    constants |= {"dense0.w": dense, "dense0.b": w["dense0.b"], "dense1.w": w["dense1.w"], "dense1.b": w["dense1.b"]}
    nodes += [
        helper.make_node("Reshape", ["x3", "rows"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense0.w", "dense0.b"], ["h"]),
        helper.make_node("Relu", ["h"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "dense1.w", "dense1.b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="sluice")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, measure once on the held-out images, and write what ships."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--choose", action="store_true", help="validate on a part of the training images, write nothing"
    )
    choose = parser.parse_args().choose
    digits = load_digits()
    x, y = (digits.images[..., None] / 16).astype(np.float32), digits.target.astype(np.int64)
    train_x, held_x, train_y, held_y = train_test_split(x, y, test_size=HELD_OUT, stratify=y, random_state=SEED)
    if choose:
        for seed in range(3):
            parts = train_test_split(train_x, train_y, test_size=300, stratify=train_y, random_state=seed)
            print(
                f"seed {seed}: validation accuracy {accuracy(train(parts[0], parts[2], seed), parts[1], parts[3]):.4f}"
            )
        return
    weights = train(train_x, train_y, SEED)
    print(f"held-out accuracy {accuracy(weights, held_x, held_y):.4f} of {len(held_y)} images")
    images = (held_x * 16).astype(np.uint8).transpose(0, 3, 1, 2)
    np.savez_compressed(BUNDLED / "held_out.npz", images=images, labels=held_y.astype(np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        onnx.save(to_onnx(weights), path)
        print(add_model(BUNDLED, path, version="1", classes=[str(d) for d in range(10)]).path)


if __name__ == "__main__":
    main()
