"""convert MODEL ONNX: a SavedModel (a folder) or a .tflite file as ONNX; answer MODEL INPUTS ANSWERS NAMES.

NAMES is JSON, the names of its inputs and of its outputs in ONNX, in order; INPUTS and ANSWERS are .npz files.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
OPSET = "17"

Arrays = dict[str, Any]


def main() -> None:
    """Do what the arguments say."""
    command, model, *paths = sys.argv[1:]
    lite = model.endswith(".tflite")
    if command == "convert":
        kind = "--tflite" if lite else "--saved-model"
        sys.argv[1:] = [kind, model, "--output", paths[0], "--opset", OPSET]
        runpy.run_module("tf2onnx.convert", run_name="__main__", alter_sys=True)
        return
    takes, gives = json.loads(paths[2])
    with np.load(paths[0], allow_pickle=False) as file:
        inputs = {name: file[name] for name in takes}
    found = _of_lite(model, inputs, gives) if lite else _of_saved(model, inputs, gives)
    np.savez(paths[1], **found)


def _of_saved(model: str, inputs: Arrays, gives: list[str]) -> Arrays:
    import tensorflow as tf

    serve = tf.saved_model.load(model).signatures["serving_default"]
    found = serve(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: found[name].numpy() for name in gives}


def _of_lite(model: str, inputs: Arrays, gives: list[str]) -> Arrays:
    import tensorflow as tf

    lite = tf.lite.Interpreter(model_path=model)
    for place, value in zip(lite.get_input_details(), inputs.values(), strict=True):
        lite.resize_tensor_input(place["index"], value.shape)
    lite.allocate_tensors()
    for place, value in zip(lite.get_input_details(), inputs.values(), strict=True):
        lite.set_tensor(place["index"], value)
    lite.invoke()
    places = lite.get_output_details()
    return {name: lite.get_tensor(place["index"]) for name, place in zip(gives, places, strict=True)}


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:
        sys.exit(f"ImportError: {error}")
