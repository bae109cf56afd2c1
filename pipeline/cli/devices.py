"""`sluice devices`: the GPUs this machine has, or why there is none to use."""

from __future__ import annotations

from pipeline.cli.broker import JsonOption

__all__ = ["devices"]


def devices(as_json: JsonOption = False) -> None:
    """The GPUs that models can be served on, as `sluice serve --device` names them, or why there is none.

    For instance: sluice devices --json
    """
    from pipeline.cli.output import emit
    from pipeline.infer.backends.tensorrt import find_tensorrt
    from pipeline.infer.cuda import look_for_gpus

    gpus = look_for_gpus()
    tensorrt = find_tensorrt()
    lines = [f"no GPU: {gpus.reason}"] if gpus.reason else []
    for gpu in gpus.found:
        memory = f"{gpu.memory_bytes / 1024**3:.1f} GiB"
        about = f"compute capability {gpu.compute_capability}, driver of CUDA {gpu.driver}"
        lines.append(f"{gpu.device}  {gpu.name}  {memory}  {about}")
    lines.append("TensorRT: " + (tensorrt or "not installed: pip install 'sluice[gpu]'"))
    data = {"gpus": [gpu.to_dict() for gpu in gpus.found], "reason": gpus.reason or None, "tensorrt": tensorrt}
    emit(data, as_json, table=lines)
