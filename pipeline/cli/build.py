"""`sluice models build`: a model's TensorRT engine, ahead of the worker that would else build it at its start."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.broker import JsonOption, ModelsOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.infer.backends.tensorrt import Built, Progress
    from pipeline.models import Model

__all__ = ["build"]


def build(
    name: Annotated[str, typer.Argument(metavar="NAME[/VERSION]", help="Which; the newest version if none is given.")],
    models: ModelsOption = None,
    device: Annotated[str, typer.Option(metavar="cuda:N", help="The GPU it is for; it is built on it.")] = "cuda:0",
    as_json: JsonOption = False,
) -> None:
    """Build a model's TensorRT engine for a GPU of this machine, and keep it for `sluice serve` there.

    An engine is for one GPU, driver and TensorRT: with another of these it is built again. It takes minutes for a large
    model; precision is what the ONNX file says (float16 by its casts, int8 by its Q/DQ nodes).

    For instance: sluice models build resnet --models ./models --device cuda:0
    """
    from pipeline.cli.output import emit
    from pipeline.core.errors import BackendError
    from pipeline.infer.backends.tensorrt import Engines, load_tensorrt
    from pipeline.infer.cuda import CudaBindings, look_for_gpus
    from pipeline.infer.placement import gpu_of

    model = _model(name, models)
    gpus = look_for_gpus()
    gpu = gpus.found[gpu_of(device, gpus)]
    engines, cancelled = Engines(load_tensorrt()), threading.Event()

    def work() -> Built:
        CudaBindings().use(gpu.ordinal)  # this thread's: an engine is built on the device that is current
        return engines.plan(model, gpu, progress=progress, cancelled=cancelled)

    with _bar() as progress:
        built = _in_a_thread(work, cancelled)
    if not built.path.exists():
        raise BackendError(f"{built.path}: the engine is built, but could not be kept")
    data = {
        "model": model.label,
        "gpu": gpu.name,
        "path": str(built.path),
        "bytes": len(built.plan),
        "built": built.seconds > 0,
        "seconds": built.seconds,
    }
    how = f"built in {built.seconds:.1f} s" if built.seconds else "there already"
    emit(data, as_json, table=[f"{model.label} on {gpu.name}: {how}, {len(built.plan) / 1024**2:.1f} MiB"])


def _model(name: str, models: Path | None) -> Model:
    """The version that is named, or the newest good one; verified."""
    from pipeline.core.errors import ConfigError
    from pipeline.models import BUNDLED, load_repository, read_model, verify

    repository = models or BUNDLED
    family, _, version = name.partition("/")
    if version and (repository / family / version).is_dir():
        model = read_model(repository / family / version)
        verify(model)
        return model
    found = [] if version else [model for model in load_repository(repository) if model.name == family]
    if not found:
        raise ConfigError(f"no model {name} in {repository}")
    return found[0]


def _in_a_thread(work: Callable[[], Built], cancelled: threading.Event) -> Built:
    """So that Ctrl-C, which only the main thread hears, is not raised within TensorRT's C++ but has it give up."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            cancelled.set()
            raise


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on a terminal, else nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading")

        def tell(phase: str, done: int, steps: int) -> None:
            bar.update(task, description=phase, completed=done, total=steps)

        yield tell
