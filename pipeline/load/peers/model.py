"""The peers' model: an ONNX Runtime session as one sets it up beside Kafka on the same cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

__all__ = ["OnnxModel"]


class OnnxModel:
    """One float32 input, one output; threads of its own would only take the cores from librdkafka and the broker."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self.output: str = self._session.get_outputs()[0].name

    def __call__(self, values: list[bytes]) -> np.ndarray[Any, Any]:
        """One row per value: the rows of the first output."""
        rows = np.frombuffer(b"".join(values), np.float32).reshape(len(values), *self._input.shape[1:])
        answers: np.ndarray[Any, Any] = self._session.run(None, {self._input.name: rows})[0]
        return answers
