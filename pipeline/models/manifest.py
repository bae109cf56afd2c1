"""What a model says of itself: name, version, signature, limits and the hash of each of its files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import ModelError
from pipeline.models.ladder import FULL, Rung, ladder_checks, version_of
from topics.names import Topics, check_model_name, topics_of
from topics.records import PRIORITY_DEFAULT
from topics.signature import Signature

__all__ = ["MANIFEST", "ROWS_MAX_DEFAULT", "Manifest", "Model", "default_buckets", "read_manifest", "version_key"]

MANIFEST = "manifest.toml"
MANIFEST_BYTES_MAX = 1024 * 1024  # 10,000 class names or files are a tenth of this
ROWS_MAX_DEFAULT = 256  # past it a CPU gains nothing per row, and a batch of 100 us rows still ends within 26 ms
ROWS_LIMIT = 65_536  # slots are preallocated: a larger batch of the smallest image (3 kB) is 200 MB a slot
SLO_MS_LIMIT = 3_600_000  # an hour: above that it bounds nothing a client would wait for
LENGTHS_LIMIT = 64  # each is warmed with each bucket in each slot
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}\Z")
_BACKEND = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``manifest.toml``; checked when made, so that it can be trusted everywhere else.

    ``buckets`` are the batch sizes a backend pads to, ascending, the last one ``rows_max``. ``files`` maps the
    relative path of every file but the manifest to its sha256. ``gather_ms_max`` is how long a window may wait for
    more rows while the device is free. ``slo_ms``, where there is one, is within what a request is to be
    answered, counted from its Kafka timestamp: the deadline of requests that name none; batches are planned by it.
    ``priority``, 9 the most important, is that of its topic among those of one worker: others wait for it.

    A model of sequences names in ``sequences`` its inputs whose rows are sequences along their first axis, zeros behind
    their ends, and in ``lengths`` what a batch's longest is padded to: ascending, the last one the declared size. The
    file's axis is free. The others' padding is then computed for nobody.

    ``ladder`` says what answers in the model's place, in order, when requests would be late by its ``slo_ms``.

    Raises `ModelError`.
    """

    name: str
    version: str
    backend: str
    file: str
    signature: Signature
    rows_max: int
    buckets: tuple[int, ...]
    classes: tuple[str, ...]
    files: Mapping[str, str]
    answer_rejected: bool = True
    allow_not_finite: bool = False
    gather_ms_max: float = 0.0
    slo_ms: float | None = None
    priority: int = PRIORITY_DEFAULT
    sequences: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    ladder: tuple[Rung, ...] = ()

    def __post_init__(self) -> None:
        try:
            check_model_name(self.name)
            version_key(self.version)
        except ValueError as error:
            raise ModelError(str(error)) from error
        for good, what in (
            (_BACKEND.match(self.backend), f"backend {self.backend!r} is not a name"),
            (1 <= self.rows_max <= ROWS_LIMIT, f"rows_max {self.rows_max} is not within 1..{ROWS_LIMIT}"),
            (
                self.buckets == tuple(sorted({b for b in self.buckets if b > 0}))
                and self.buckets[-1:] == (self.rows_max,),
                f"buckets {list(self.buckets)} do not ascend to rows_max {self.rows_max}",
            ),
            (len(set(self.classes)) == len(self.classes), "two classes have the same name"),
            (self.file in self.files, f"file {self.file!r} is not listed in files"),
            *self._sequence_checks(),
            *ladder_checks(self.ladder, f"{self.name}/{self.version}", self.signature.outputs),
            (not self.ladder or self.slo_ms is not None, "a ladder needs slo_ms, which says what is late"),
            (0.0 <= self.gather_ms_max <= 60_000.0, f"gather_ms_max {self.gather_ms_max} is not within 0..60000"),
            (
                self.slo_ms is None or 0.0 < self.slo_ms <= SLO_MS_LIMIT,
                f"slo_ms {self.slo_ms} is not within 0..{SLO_MS_LIMIT}",
            ),
            (0 <= self.priority <= 9, f"priority {self.priority} is not within 0..9"),
        ):
            if not good:
                raise ModelError(f"model {self.name}: {what}")
        for rung in self.ladder:
            if rung.model is not None:
                _check_label(self.name, rung)
        for path, sha256 in self.files.items():
            _check_relative(path)
            if not _SHA256.match(sha256):
                raise ModelError(f"model {self.name}: {path}: {sha256!r} is not a sha256 in hexadecimal")

    def _sequence_checks(self) -> Iterator[tuple[bool, str]]:
        ascends = self.lengths == tuple(sorted({length for length in self.lengths if length > 0}))
        yield ascends and len(self.lengths) <= LENGTHS_LIMIT, f"lengths {list(self.lengths)} do not ascend"
        shapes = {tensor.name: tensor.shape for tensor in self.signature.inputs}
        for name in self.sequences:
            fits = name in shapes and shapes[name][:1] == self.lengths[-1:] != ()
            yield fits, f"{name!r} is not an input of sequences of {list(self.lengths[-1:])}"
        fits = not self.sequences or self.backend.startswith("onnxruntime")
        yield fits, f"backend {self.backend!r} does not pad sequences to lengths: onnxruntime does"
        yield bool(self.lengths) == bool(self.sequences), "lengths are of sequences: give both or none"

    @property
    def longest(self) -> Mapping[str, int]:
        """Inputs of sequences and their largest size."""
        return dict.fromkeys(self.sequences, max(self.lengths, default=0))

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of the ladder's rungs, the model itself first; none where it has no ladder."""
        return (FULL, *(rung.name for rung in self.ladder)) if self.ladder else ()

    @property
    def cached(self) -> int:
        """How many answers the ladder remembers; 0 where none of its rungs does."""
        return next((rung.cached for rung in self.ladder if rung.cached is not None), 0)

    def to_toml(self) -> str:
        """The text of ``manifest.toml``; `read_manifest` gives the same manifest back."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("signature", "files", "ladder")}
        lines = [f"{key} = {_toml(value)}" for key, value in flat.items() if value is not None]
        for rung in self.ladder:
            lines += ["", "[[ladder]]", f"name = {_toml(rung.name)}"]
            lines += [] if rung.model is None else [f"model = {_toml(rung.model)}"]
            lines += [] if rung.cached is None else [f"cached = {rung.cached}"]
            lines += [f"answer.{_toml(output)} = {_toml(value)}" for output, value in (rung.answer or {}).items()]
        for side, tensors in self.signature.to_dict().items():
            for tensor in tensors:
                lines += ["", f"[[{side}]]", *(f"{key} = {_toml(value)}" for key, value in tensor.items())]
        return "\n".join([*lines, "", "[files]", *(f"{_toml(k)} = {_toml(v)}" for k, v in self.files.items()), ""])


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest and the directory it lies in."""

    manifest: Manifest
    path: Path

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def label(self) -> str:
        """``name/version``, as the ``model`` header of a prediction says it."""
        return f"{self.name}/{self.version}"

    @property
    def signature(self) -> Signature:
        return self.manifest.signature

    @property
    def topics(self) -> Topics:
        return topics_of(self.name)

    @property
    def file(self) -> Path:
        """The file the backend loads."""
        return self.path / self.manifest.file

    def check_declared(self, actual: Signature) -> None:
        """Raise `ModelError` unless ``actual``, which the model's file has, is the signature the manifest declares."""
        for side in ("inputs", "outputs"):
            declared, found = (getattr(signature, side) for signature in (self.signature, actual))
            if declared != found:
                said, has = (", ".join(map(str, tensors)) for tensors in (declared, found))
                raise ModelError(f"{self.path}: the manifest declares {side} {said}, but the model has {has}")

    def check_stands_in(self, rung: Model) -> None:
        """Raise `ModelError` unless ``rung`` can answer any batch of this model."""
        for what in ("signature", "rows_max", "buckets", "classes", "sequences", "lengths"):
            if getattr(rung.manifest, what) != getattr(self.manifest, what):
                raise ModelError(f"{rung.label} cannot stand in for {self.label}: its {what} is another")

    def to_dict(self) -> dict[str, Any]:
        """As `sluice models list --json` prints it."""
        manifest, topics = self.manifest, self.topics
        return {
            "name": self.name,
            "version": self.version,
            "path": str(self.path),
            "backend": manifest.backend,
            "rows_max": manifest.rows_max,
            "classes": list(manifest.classes),
            "topics": {
                "requests": topics.requests,
                "predictions": topics.predictions,
                "dead_letters": topics.dead_letters,
            },
            "signature": self.signature.to_dict(),
        } | ({"ladder": list(manifest.rungs)} if manifest.ladder else {})


def version_key(version: str) -> tuple[int, ...]:
    """Order of versions: dotted numbers compare number by number, so 10 follows 9 and 1.10 follows 1.9.

    Raises ``ValueError`` for what is not one to four numbers without leading zeros (so that no two spellings of one
    version exist).
    """
    if not _VERSION.match(version):
        raise ValueError(f"version {version!r} is not a number such as 3 or 1.12.0")
    return tuple(int(part) for part in version.split("."))


def default_buckets(rows_max: int) -> tuple[int, ...]:
    """Powers of two and the sizes half-way between, up to ``rows_max``: at most a third of a batch is padding."""
    sizes = {size for power in range(rows_max.bit_length()) for size in (1 << power, 3 << power >> 1)}
    return tuple(sorted(size for size in sizes | {rows_max} if size <= rows_max))


def read_manifest(directory: Path) -> Manifest:
    """Read ``directory/manifest.toml``. Raises `ModelError` where it is missing, malformed or says what cannot be."""
    path = directory / MANIFEST
    try:
        if path.is_symlink() or not path.is_file():
            raise ModelError(f"{directory}: no {MANIFEST}; the directory is not a model or was copied only in part")
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise ModelError(f"{path}: larger than {MANIFEST_BYTES_MAX} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        return _parse(tomllib.loads(text))
    except (ValueError, OverflowError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ModelError(f"{path}: {error}") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _parse(value: Mapping[str, Any]) -> Manifest:
    rest = dict(value)
    try:
        signature = Signature.from_dict({side: rest.pop(side) for side in ("inputs", "outputs")})
        rows_max = _take(rest, "rows_max", int)
        buckets = tuple(_take(rest, "buckets", list, default_buckets(rows_max) if 0 < rows_max <= ROWS_LIMIT else ()))
        classes = tuple(_take(rest, "classes", list, ()))
        sequences, lengths = (tuple(_take(rest, key, list, ())) for key in ("sequences", "lengths"))
        files = _take(rest, "files", dict)
        texts = {key: _take(rest, key, str) for key in ("name", "version", "backend", "file")}
        switches = {key: _take(rest, key, bool) for key in ("answer_rejected", "allow_not_finite") if key in rest}
        gather_ms_max = float(_take(rest, "gather_ms_max", (int, float), 0.0))
        slo_ms = float(_take(rest, "slo_ms", (int, float))) if "slo_ms" in rest else None
        priority = _take(rest, "priority", int, PRIORITY_DEFAULT)
        ladder = tuple(_rung(each) for each in _take(rest, "ladder", list, ()))
    except KeyError as error:
        raise ModelError(f"{error} is missing") from error
    if rest:
        raise ModelError(f"unknown key {', '.join(sorted(rest))}")
    if any(type(size) is not int for size in (*buckets, *lengths)):
        raise ModelError("buckets and lengths are integers")
    if not all(isinstance(text, str) for text in (*classes, *sequences, *files.values())):
        raise ModelError("classes, sequences and hashes are texts")
    return Manifest(
        **texts,
        signature=signature,
        rows_max=rows_max,
        buckets=buckets,
        classes=classes,
        files=files,
        gather_ms_max=gather_ms_max,
        slo_ms=slo_ms,
        priority=priority,
        sequences=sequences,
        lengths=lengths,
        ladder=ladder,
        **switches,
    )


def _rung(value: Any) -> Rung:
    if not isinstance(value, dict):
        raise ModelError(f"ladder: {value!r} is not a table")
    rest = dict(value)
    name = _take(rest, "name", str)
    model = _take(rest, "model", str) if "model" in rest else None
    answer = _take(rest, "answer", dict) if "answer" in rest else None
    cached = _take(rest, "cached", int) if "cached" in rest else None
    if rest:
        raise ModelError(f"ladder: unknown key {', '.join(sorted(rest))}")
    return Rung(name, model, answer, cached)


def _check_label(model: str, rung: Rung) -> None:
    try:
        version_key(version_of(rung.model or "")[1])
    except ValueError as error:
        raise ModelError(f"model {model}: rung {rung.name!r}: {error}") from error


def _take(table: dict[str, Any], key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    value = table.pop(key) if default is None else table.pop(key, default)
    if value is not default and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise ModelError(f"{key} = {value!r} has the wrong type")
    return value


def _toml(value: str | float | Sequence[str | int]) -> str:
    # JSON's texts, numbers, switches and lists of them are TOML's too, but for the one control character it lets pass.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_relative(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or path[0] == "/" or ".." in parts or "\\" in path or "\0" in path:
        raise ModelError(f"{path!r} is not a plain path inside the model's directory")
