"""torch.export programs for tests; importing this needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

__all__ = ["conv", "digits", "export", "pick"]


class _Pick(nn.Module):  # type: ignore[misc]
    """As `graphs.pick`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(0, 100, 10))

    def forward(self, at: Any, image: Any) -> Mapping[str, Any]:
        return {"picked": self.table[at], "copied": image.clone()}


class _OfFile(nn.Module):  # type: ignore[misc]
    """A model of the weights in an ONNX file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        for tensor in onnx.load(file).graph.initializer:
            self.register_buffer(tensor.name.replace(".", "_"), torch.from_numpy(numpy_helper.to_array(tensor).copy()))


class _Digits(_OfFile):
    """The bundled digit classifier."""

    def forward(self, image: Any) -> Mapping[str, Any]:
        x = image * self.scale
        x = nn.functional.conv2d(x, self.conv0_w, self.conv0_b, padding=1).relu()
        x = nn.functional.conv2d(x, self.conv1_w, self.conv1_b, padding=1).relu()
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.conv2d(x, self.conv2_w, self.conv2_b, padding=1).relu().flatten(1)
        hidden = (x @ self.dense0_w + self.dense0_b).relu()
        logits = hidden @ self.dense1_w + self.dense1_b
        return {"probabilities": logits.softmax(1), "label": logits.argmax(1)}


class _Conv(_OfFile):
    """As `graphs.conv`."""

    def forward(self, x: Any) -> Mapping[str, Any]:
        x = nn.functional.conv2d(x, self.w0, padding=1, stride=2)
        x = nn.functional.batch_norm(x, self.mean, self.var, self.scale, self.bias).relu()
        x = nn.functional.conv2d(x, self.w1, padding=1, stride=2, groups=16)
        x = nn.functional.conv2d(x, self.w2).relu().mean((2, 3))
        return {"y": x @ self.dense}


def export(path: Path, module: nn.Module, *examples: np.ndarray[Any, Any]) -> Path:
    """Write a program whose inputs have a free batch size; of examples with more than one row."""
    batch = torch.export.Dim("batch", min=1)
    tensors = tuple(torch.from_numpy(example) for example in examples)
    program = torch.export.export(module.eval(), tensors, dynamic_shapes=tuple({0: batch} for _ in tensors))
    torch.export.save(program, path)
    return path


def pick(path: Path) -> Path:
    return export(path, _Pick(), np.arange(3), np.zeros((3, 2, 2), np.float32))


def digits(path: Path, file: Path) -> Path:
    """The bundled model at ``file`` as a program."""
    return export(path, _Digits(file), np.zeros((3, 1, 8, 8), np.float32))


def conv(path: Path, file: Path) -> Path:
    """`graphs.conv` at ``file`` as a program."""
    return export(path, _Conv(file), np.zeros((3, 3, 32, 32), np.float32))
