"""`sluice models`: list, add, import, build and verify the models of a repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.broker import JsonOption, ModelsOption
from pipeline.cli.build import build

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.core.errors import ModelError
    from pipeline.models import Model

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="""List, add, import, build and verify models: in a folder DIR/NAME/VERSION, a manifest and files.""",
)
app.command()(build)


@app.command("list")
def list_(models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """All models and versions of a repository. Their files are not checked: `sluice models verify` does.

    For instance: sluice models list --models ./models --json
    """
    from pipeline.cli.output import emit
    from pipeline.models import BUNDLED, list_models

    found = list_models(models or BUNDLED)
    emit([model.to_dict() for model in found], as_json, table=_table(found))


@app.command()
def add(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="An .onnx, .xml or .pt2 file, or a directory with a manifest.")
    ],
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="Model repository; made where missing.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model; the manifest's or the file's if not given.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Such as 3 or 1.12.0; the manifest's or the next if not given.")
    ] = None,
    rows_max: Annotated[int | None, typer.Option(help="Largest batch; 256 if nothing says it.", min=1)] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Names of the classes, in the order of the output.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Runtime that serves it; the manifest's or what suits the file if not given.")
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Inputs of sequences, zeros behind their ends.")
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(metavar="16,32,...", help="What sequences are padded to; the last is the most."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a model into a repository, checked, in one step: a running worker sees all of it or nothing.

    For instance: sluice models add resnet.onnx --models ./models --rows-max 64 --backend openvino
    """
    from pipeline.cli.output import emit
    from pipeline.infer.backends import check_name
    from pipeline.models import add_model

    if backend is not None:
        check_name(backend)
    names = None if classes is None else classes.split(",")
    model = add_model(
        models,
        source,
        name=name,
        version=version,
        rows_max=rows_max,
        classes=names,
        backend=backend,
        sequences=None if sequences is None else sequences.split(","),
        lengths=None if lengths is None else _lengths(lengths),
    )
    emit(model.to_dict(), as_json, table=_table([model]))


def _lengths(text: str) -> list[int]:
    try:
        return [int(length) for length in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--lengths {text}: give numbers, such as 16,32,64") from error


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="An .onnx, .pt2 or .tflite file, or the folder of a SavedModel.")
    ],
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="Model repository; made where missing.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; the file's if not given.")] = None,
    version: Annotated[str | None, typer.Option(help="Such as 3 or 1.12.0; the next if not given.")] = None,
    rows_max: Annotated[int | None, typer.Option(help="Largest batch; 256 if not given.", min=1)] = None,
    classes: Annotated[str | None, typer.Option(metavar="A,B,...", help="Names of the classes, in order.")] = None,
    backend: Annotated[str | None, typer.Option(help="Runtime that serves it; onnxruntime if not given.")] = None,
    rows: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Real rows to compare on, an array for each input.")
    ] = None,
    between: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Else random rows within.")] = "0,1",
    absolute: Annotated[float, typer.Option(help="By how much an answer may differ.", min=0)] = 1e-4,
    relative: Annotated[float, typer.Option(help="And by what share of itself.", min=0)] = 1e-3,
    python: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Interpreter that has the framework; this one if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a model of another framework to ONNX, and add it if it answers as it did there.

    A SavedModel is a program: import only what you trust. Pickles (.pt, .pkl, .joblib) are refused; a scikit-learn
    estimator is imported from Python, by pipeline.models.imports.from_sklearn.

    For instance: sluice models import net.pt2 --models ./models --name net --rows real.npz
    """
    from pipeline.cli.output import emit
    from pipeline.core.errors import ConfigError
    from pipeline.infer.backends import check_name
    from pipeline.models.imports import Rows, import_model

    if backend is not None:
        check_name(backend)
    try:
        low, high = map(float, between.split(","))
    except ValueError as error:
        raise ConfigError(f"--between {between!r} is not LOW,HIGH") from error
    names = None if classes is None else classes.split(",")
    given: dict[str, Any] = {"name": name, "version": version, "rows_max": rows_max, "backend": backend}
    limits = {"absolute": absolute, "relative": relative}
    done = import_model(models, source, rows=Rows(rows, low, high), python=python, classes=names, **limits, **given)
    told = f"{done.rows} rows compared with {done.framework}: they differ by {done.difference:.2g} at most"
    figures = {"framework": done.framework, "rows": done.rows, "difference": done.difference} | limits
    emit(done.model.to_dict() | {"compared": figures}, as_json, table=[*_table([done.model]), told])


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME[/VERSION]]", help="Which; all if not given.", show_default=False)
    ] = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every file, hash and signature, and load each model in its backend; exit code 1 if any is refused.

    For instance: sluice models verify --models ./models
    """
    from pipeline.cli.output import emit
    from pipeline.core.errors import ConfigError
    from pipeline.models import BUNDLED, survey

    found = {f"{path.parent.name}/{path.name}": model for path, model in survey(models or BUNDLED)}
    chosen = {label: model for label, model in found.items() if name in (None, label, label.partition("/")[0])}
    if not chosen:
        raise ConfigError(f"no model {name or ''} in {models or BUNDLED}".replace("  ", " "))
    reasons = {label: _refusal(model) for label, model in chosen.items()}
    results = [{"model": label, "ok": reason is None, "reason": reason} for label, reason in reasons.items()]
    lines = [f"ok  {label}" if reason is None else f"refused  {label}: {reason}" for label, reason in reasons.items()]
    good = not any(reasons.values())
    emit({"ok": good, "models": results}, as_json, table=lines)
    if not good:
        raise typer.Exit(1)


def _refusal(model: Model | ModelError) -> str | None:
    from pipeline.core.errors import SluiceError
    from pipeline.infer.placement import placed
    from pipeline.models import verify

    try:
        if isinstance(model, SluiceError):
            raise model
        verify(model)
        backend = placed(model, "auto")
        backend.load(model)
        backend.close()
    except SluiceError as error:
        return str(error)
    return None


def _table(models: Iterable[Model]) -> list[str]:
    rows = [("MODEL", "BACKEND", "ROWS MAX", "TAKES", "GIVES")]
    for model in models:
        sides = (model.signature.inputs, model.signature.outputs)
        takes, gives = (", ".join(map(str, side)) for side in sides)
        rows.append((model.label, model.manifest.backend, str(model.manifest.rows_max), takes, gives))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
