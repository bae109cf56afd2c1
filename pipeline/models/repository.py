"""Models on disk: ``DIR/NAME/VERSION/manifest.toml`` beside the files it lists, nothing else, added in one step."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import ModelError
from pipeline.models import onnx, program
from pipeline.models.formats import check_kind
from pipeline.models.kinds import check_backend, kind_of
from pipeline.models.manifest import (
    MANIFEST,
    ROWS_MAX_DEFAULT,
    Manifest,
    Model,
    default_buckets,
    read_manifest,
    version_key,
)
from topics.names import check_model_name, is_model_name
from topics.signature import Signature

__all__ = [
    "BUNDLED",
    "add_model",
    "list_models",
    "load_repository",
    "read_content",
    "read_external",
    "read_model",
    "rungs_of",
    "survey",
    "verify",
]

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"
"""The repository shipped in the package, holding ``digits/1``."""

DEPTH_MAX = 8  # of folders inside a model
# Installers such as uv link an installed package's files to their cache; what lies there is as trusted as this code.
_PACKAGE = Path(__file__).resolve().parents[1]


def survey(directory: Path) -> list[tuple[Path, Model | ModelError]]:
    """Every directory that should be a version, by name and then version: the model, or why it is none.

    Manifests are read, files not yet looked at. Names beginning with a dot (an addition under way) and plain files are
    passed over. Raises `ModelError` where ``directory`` is missing.
    """
    found: list[tuple[Path, Model | ModelError]] = []
    for family in sorted(_directories(directory)):
        try:
            versions = _directories(family)
        except ModelError:
            if is_model_name(family.name):
                raise
            continue  # a volume's lost+found, which just root may look into
        for path in sorted(versions, key=_order):
            try:
                found.append((path, read_model(path)))
            except ModelError as error:
                found.append((path, error))
    return found


def read_model(path: Path) -> Model:
    """The model in ``DIR/NAME/VERSION``, its files not yet looked at. Raises `ModelError`."""
    manifest = read_manifest(path)
    if (manifest.name, manifest.version) != (path.parent.name, path.name):
        raise ModelError(f"{path}: its manifest says {manifest.name}/{manifest.version}")
    return Model(manifest, path)


def list_models(directory: Path) -> list[Model]:
    """All versions of all models, by name and then version; as `survey`, but raises where one is none."""
    models = []
    for _, model in survey(directory):
        if isinstance(model, ModelError):
            raise model
        models.append(model)
    return models


def load_repository(directory: Path) -> list[Model]:
    """The newest good version of each model, verified; newer ones that are refused are logged.

    Raises `ModelError` where there is no model, and the newest version's where none of a model's is good.
    """
    families: dict[str, list[Model | ModelError]] = {}
    for path, model in survey(directory):
        families.setdefault(path.parent.name, []).insert(0, model)
    if not families:
        raise ModelError(f"{directory}: holds no model")
    return [_newest_good(newest_first) for newest_first in families.values()]


def _newest_good(newest_first: Sequence[Model | ModelError]) -> Model:
    refused: list[ModelError] = []
    for model in newest_first:
        try:
            if isinstance(model, ModelError):
                raise model
            verify(model)
        except ModelError as error:
            refused.append(error)
            continue
        for why in refused:
            log.error("refused, an older version is served: %s", why)
        return model
    raise refused[0]


def verify(model: Model, repository: Path | None = None) -> None:
    """Check that the directory holds exactly the listed files, unchanged, and the model has the declared signature.

    Refuses links, special files, pickles, plans, unlisted or missing files, wrong hashes, external data that is not a
    listed file, an operator the runtime lacks. Raises `ModelError` with one line that says which. So are the models of
    its ladder, in ``repository`` where the model itself does not lie there yet.
    """
    _verify_alone(model)
    for rung in rungs_of(model, repository):
        _verify_alone(rung)
        model.check_stands_in(rung)


def rungs_of(model: Model, repository: Path | None = None) -> list[Model]:
    """The models of a model's ladder, in order, their files not yet looked at. Raises `ModelError`."""
    directory = repository or model.path.parent.parent
    return [read_model(directory / rung.model) for rung in model.manifest.ladder if rung.model is not None]


def _verify_alone(model: Model) -> None:
    _check_files(model)
    check_backend(model.file, model.manifest.backend)
    model.check_declared(_signature(model.file, *read_content(model), model.manifest.longest))


def read_content(model: Model) -> tuple[bytes, dict[str, bytes]]:
    """The model's file and its external data by location, read once and as listed: what a backend is to load.

    A version never changes; what did so regardless since `verify` is refused here. Raises `ModelError`.
    """
    data, folder = _read_listed(model, model.manifest.file), PurePosixPath(model.manifest.file).parent
    external: dict[str, bytes] = {}
    for location in sorted(kind_of(model.file).external(model.file, data)):
        name = (folder / location).as_posix()
        if name not in model.manifest.files:
            raise ModelError(f"{model.file}: its external data {location!r} is not a listed file of the model")
        external[location] = _read_listed(model, name)
    return data, external


def add_model(
    directory: Path,
    source: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    rows_max: int | None = None,
    classes: Sequence[str] | None = None,
    backend: str | None = None,
    sequences: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
) -> Model:
    """Copy a model into the repository ``directory`` (made where missing) and return it, verified.

    ``source`` is a directory with a manifest, or an ``.onnx``, ``.xml`` or ``.pt2`` file, whose external data is taken
    along, whose pickled examples are left out, and whose manifest is made: name from the file, version after the
    newest, signature and hashes from the content. What is given replaces what the manifest says. A reader sees the
    whole model or nothing, also after a crash. Raises `ModelError`: refused content, an existing version, a file that
    cannot be read or written; `BackendError` where what it takes to read the format is not installed.
    """
    given: dict[str, Any] = {"name": name, "version": version, "backend": backend}
    for key, several in (("classes", classes), ("sequences", sequences), ("lengths", lengths)):
        given[key] = None if several is None else tuple(several)
    if rows_max is not None:
        given |= {"rows_max": rows_max, "buckets": default_buckets(min(max(rows_max, 1), 1 << 30))}
    changes = {key: value for key, value in given.items() if value is not None}
    try:
        if source.is_dir():
            listed = Model(read_manifest(source), source)
            _check_files(listed)
            manifest = replace(listed.manifest, **changes)
            return _install(directory, source, manifest)
        family = check_model_name(name or source.stem)
        numbered = {"name": family, "version": version or _next_version(directory, family)} | changes
        if source.suffix.lower() != ".pt2":
            return _install(directory, source.parent, _derive(source, numbered))
        with tempfile.TemporaryDirectory(prefix="sluice-") as scratch:
            check_kind(source)
            cleaned = Path(scratch) / source.name
            cleaned.write_bytes(program.clean(source, source.read_bytes()))
            return _install(directory, cleaned.parent, _derive(cleaned, numbered))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot add {source}: {error}") from error


def _derive(source: Path, changes: dict[str, Any]) -> Manifest:
    kind = kind_of(source)
    data = source.read_bytes()
    contents = read_external(source, data)
    longest = dict.fromkeys(changes.get("sequences", ()), max(changes.get("lengths", ()), default=0))
    manifest: dict[str, Any] = {
        "backend": kind.backend,
        "file": source.name,
        "signature": _signature(source, data, contents, longest),
        "rows_max": ROWS_MAX_DEFAULT,
        "buckets": default_buckets(ROWS_MAX_DEFAULT),
        "classes": (),
        "files": {
            PurePosixPath(name).as_posix(): hashlib.sha256(content).hexdigest()
            for name, content in (contents | {source.name: data}).items()
        },
    }
    return Manifest(**(manifest | changes))


def read_external(source: Path, data: bytes) -> dict[str, bytes]:
    """The external data of a file that is in no repository yet, by location. Raises `ModelError`, ``OSError``."""
    external = {name: source.parent / name for name in kind_of(source).external(source, data)}
    for name, path in external.items():
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if inside:
            _check_plain(path, path.lstat())
        if not inside or not path.resolve().is_relative_to(source.parent.resolve()):  # by way of a linked folder
            raise ModelError(f"{source}: its external data {name!r} lies outside its directory")
    return {name: path.read_bytes() for name, path in external.items()}


def _signature(path: Path, data: bytes, external: Mapping[str, bytes], longest: Mapping[str, int]) -> Signature:
    """What a model's file says of itself. Raises `ModelError`."""
    if longest:  # a manifest has sequences for ONNX Runtime alone
        return onnx.read_signature(path, data, external, longest)
    return kind_of(path).signature(path, data, external)


def _install(directory: Path, source: Path, manifest: Manifest) -> Model:
    """Copy ``source`` to a sibling of its place, make it durable, and give it its name in one step."""
    family = directory / manifest.name
    target = family / manifest.version
    if target.exists():
        raise ModelError(f"{target} exists already: a version never changes, add the next one")
    family.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{manifest.version}.", dir=family, ignore_cleanup_errors=True) as scratch:
        staged = Path(scratch) / manifest.version
        for name in manifest.files:
            copy = staged / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy)
            _fsync(copy)
        (staged / MANIFEST).write_text(manifest.to_toml(), encoding="utf-8")
        _fsync(staged / MANIFEST)
        verify(Model(manifest, staged), directory)
        for folder, _, _ in os.walk(staged):
            _fsync(Path(folder))
        staged.rename(target)  # fails where another process added the same version meanwhile
    _fsync(family)
    _fsync(directory)
    return Model(manifest, target)


def _next_version(directory: Path, family: str) -> str:
    path = directory / family
    taken = [version_key(p.name) for p in _directories(path)] if path.exists() else []
    return str(max(taken)[0] + 1) if taken else "1"


def _directories(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def _order(path: Path) -> tuple[int, ...]:
    """A version's place among its family; what is named like none comes first."""
    try:
        return version_key(path.name)
    except ValueError:
        return ()


def _check_files(model: Model) -> None:
    listed, missing = model.manifest.files, set(model.manifest.files)
    try:
        for path in _scan(model.path, DEPTH_MAX):
            if (name := path.relative_to(model.path).as_posix()) == MANIFEST:
                continue
            check_kind(path)
            if name not in listed:
                raise ModelError(f"{path}: is not listed in the manifest")
            with path.open("rb") as file:
                _check_hash(model, name, hashlib.file_digest(file, "sha256").hexdigest())
            missing.discard(name)
        if missing:
            raise ModelError(f"{model.path}: {min(missing)} is missing; the directory was copied only in part")
        kind_of(model.file)
    except OSError as error:
        raise ModelError(f"{error.filename or model.path}: {error.strerror}") from error


def _read_listed(model: Model, name: str) -> bytes:
    path = model.path / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    _check_hash(model, name, hashlib.sha256(content).hexdigest())
    return content


def _check_hash(model: Model, name: str, sha256: str) -> None:
    if sha256 != (listed := model.manifest.files[name]):
        raise ModelError(f"{model.path / name}: its sha256 is {sha256}, but the manifest says {listed}")


def _scan(directory: Path, depth: int) -> Iterator[Path]:
    """Every file below; anything but plain directories and plain files of one name is refused."""
    if depth == 0:
        raise ModelError(f"{directory}: folders are nested too deep")
    with os.scandir(directory) as entries:
        for entry in entries:
            path, status = Path(entry.path), entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield from _scan(path, depth - 1)
            else:
                _check_plain(path, status)
                yield path


def _check_plain(path: Path, status: os.stat_result) -> None:
    """Refuse a link: its content lies, or can be changed, outside the model's directory."""
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path}: a symbolic link or special file has no place in a model")
    if status.st_nlink > 1 and not path.resolve().is_relative_to(_PACKAGE):
        raise ModelError(f"{path}: is a hard link to a file that has another name too; copy it instead")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
