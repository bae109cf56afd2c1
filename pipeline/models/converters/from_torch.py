"""convert PROGRAM ONNX NAMES: a torch.export program as ONNX; answer PROGRAM INPUTS ANSWERS NAMES: what it answers.

PROGRAM is a .pt2 file without pickles; NAMES is JSON, the names of its inputs and of its outputs, in order; INPUTS and
ANSWERS are .npz files.
"""

from __future__ import annotations

import json
import sys

import numpy as np


def main() -> None:
    """Do what the arguments say."""
    import torch

    command, program, *paths, names = sys.argv[1:]
    takes, gives = json.loads(names)
    exported = torch.export.load(program)
    if command == "convert":
        torch.onnx.export(
            exported, (), paths[0], input_names=takes, output_names=gives, dynamo=True, external_data=False
        )
        return
    with np.load(paths[0], allow_pickle=False) as inputs, torch.inference_mode():
        answer = exported.module()(*(torch.from_numpy(inputs[name]) for name in takes))
    found = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, (tuple, list)) else [answer]
    np.savez(paths[1], **{name: tensor.numpy() for name, tensor in zip(gives, found, strict=True)})


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:
        sys.exit(f"ImportError: {error}")
