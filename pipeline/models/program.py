"""torch.export programs (.pt2), made into data: `torch.export.load` itself unpickles, evaluates and looks names up.

What torch makes of an archive: examples of inputs, and tensors marked so, it unpickles without limits; shapes go
through sympy's ``eval``; an operator is any attribute of any module that torch imports; guards and names become Python
code. So it is given nothing but an archive written here, of those parts of the original that are known, in which each
text has the form that its place asks for.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pipeline.core.errors import ModelError
from topics.signature import Signature, Tensor

__all__ = ["clean", "read_signature"]

_EXAMPLES, _GRAPH = "data/sample_inputs/model.pt", "models/model.json"
_CONFIGS = MappingProxyType(
    {
        "data/weights/": "data/weights/model_weights_config.json",
        "data/constants/": "data/constants/model_constants_config.json",
    }
)
_PLAIN = MappingProxyType({"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"})
SCHEMA_MAJOR = 8  # of torch 2.8 and later; what another means is not known here

JSON_BYTES_MAX = 64 * 1024 * 1024  # a node takes about 700 bytes: 90,000 of them
TEXT_CHARS_MAX = 1000

# What reading an archive and JSON of any content raises; zipfile says by NotImplementedError what it cannot read.
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile)
_VALUES = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values")
_REFUSED = ("as_graph", "as_custom_obj", "as_operator", "custom_obj", "token")
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}\Z")
_DOTTED = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z")
_PAYLOAD = re.compile(r"(weight|tensor)_[0-9]+\Z")
_SYMBOL = re.compile(r"[a-z]+[0-9]+\Z")
# Operators of tensors, but for the two that open files; arithmetic of sizes.
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!(from_file|save)\.)[A-Za-z0-9_]+\.[A-Za-z0-9_]+\Z"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)\Z"
    r"|torch\.sym_(int|float|max|min|not|ite|sum)\Z|math\.(trunc|ceil|floor)\Z"
)
# Sums and products of sizes; no powers, which a few characters make endless.
_EXPRESSION = re.compile(
    r"(?:Symbol\('[a-z]++[0-9]++'(?:, (?:positive|nonnegative|integer)=True)*+\)"
    r"|(?:Integer|Rational|Add|Mul|Max|Min|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|ModularIndexing)\("
    r"|[a-z]?[0-9]++|//|\*(?!\*)|[-+(), ])++\Z"  # possessive: no text is tried in two ways
)
_DTYPES = MappingProxyType(
    {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool"}
    | {28: "uint16", 34: "uint32", 35: "uint64"}
)
# What a text in the graph must look like, by the key that it stands under.
_TEXTS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "name": re.compile(_NAME.pattern + r"|\Z"),  # of an argument given by its place: none
        "as_name": _NAME,
        "target": _TARGET,
        "expr_str": _EXPRESSION,
        "as_string": re.compile(r"[ -~]{0,256}\Z"),  # an einsum's equation, a mode
        "as_strings": re.compile(r"[ -~]{0,256}\Z"),
        "as_float": re.compile(r"-?Infinity\Z|NaN\Z"),
        "parameter_name": _DOTTED,
        "buffer_name": _DOTTED,
        "tensor_constant_name": _DOTTED,
        "type": re.compile(r"cpu\Z"),  # of a device
    }
)


def read_signature(path: Path, data: bytes, external: Mapping[str, bytes]) -> Signature:
    """The signature of a program without examples, one row at a time; torch is not needed. Raises `ModelError`."""
    with _refused(path):
        if _parts(data)[_EXAMPLES]:
            raise ValueError(f"it holds a pickle, {_EXAMPLES}, which sluice models add leaves out")
        return _read(data)[0]


def clean(path: Path, data: bytes) -> bytes:
    """The archive written anew: a program and its weights, nothing that runs or is unpickled when torch loads it.

    Raises `ModelError` for what is not such a program.
    """
    with _refused(path):
        return _read(data)[1]


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ModelError(f"{path}: not a torch.export program: it has no {error}") from error
    except _UNREADABLE as error:
        raise ModelError(f"{path}: not a torch.export program that is taken: {error}") from error


def _read(data: bytes) -> tuple[Signature, bytes]:
    parts = _parts(data)
    program = _program(_json(parts[_GRAPH]))
    files = {**_PLAIN, ".data/version": b"6\n", _EXAMPLES: b"", _GRAPH: json.dumps(program).encode()}
    for folder, name in _CONFIGS.items():
        config = _config(_json(parts[name]))
        files[name] = json.dumps({"config": config}).encode()
        files |= {folder + entry["path_name"]: parts[folder + entry["path_name"]] for entry in config.values()}
    return _signature(program), _archive(files)


def _parts(data: bytes) -> dict[str, bytes]:
    """Contents by name, without the archive's own folder; stored as they are, so none is larger than the file."""
    parts: dict[str, bytes] = {}
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            if entry.compress_type != zipfile.ZIP_STORED or name in parts or entry.flag_bits & 1:
                raise ValueError(f"{entry.filename!r} is compressed, encrypted or there twice")
            if name not in (*_PLAIN, _EXAMPLES, _GRAPH) and not name.startswith((".data/", *_CONFIGS)):
                raise ValueError(f"{entry.filename!r} has no place in it")
            parts[name] = archive.read(entry)
    for name, wanted in _PLAIN.items():
        if parts[name] != wanted:
            raise ValueError(f"its {name} is {parts[name][:20]!r}, not {wanted!r}")
    return parts


def _archive(files: Mapping[str, bytes]) -> bytes:
    """As torch lays it out; the same files give the same bytes."""
    written = BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), content)
    return written.getvalue()


def _json(text: bytes) -> Any:
    if len(text) > JSON_BYTES_MAX:
        raise ValueError(f"{len(text)} bytes of JSON are more than {JSON_BYTES_MAX}")
    return json.loads(text)


def _program(value: Mapping[str, Any]) -> dict[str, Any]:
    """The known parts of a program, checked; metadata and guards, which say where it came from, are left behind."""
    if (version := value["schema_version"]["major"]) != SCHEMA_MAJOR:
        raise ValueError(f"its schema is version {version}, not {SCHEMA_MAJOR}: export it with torch 2.15")
    module = value["graph_module"]
    graph = {key: module["graph"][key] for key in (*_VALUES, "inputs", "outputs", "is_single_tensor_return")}
    graph["nodes"] = [
        {key: node[key] for key in ("target", "inputs", "outputs")} | {"name": node.get("name"), "metadata": {}}
        for node in module["graph"]["nodes"]
    ]
    if module["graph"]["custom_obj_values"]:
        raise ValueError("it holds objects that are no tensors")
    (call,) = (each["signature"] for each in module["module_call_graph"] if each["fqn"] == "")
    signature = {key: module["signature"][key] for key in ("input_specs", "output_specs")}
    _check_texts(graph)
    _check_texts(signature)
    ranges = {
        symbol: {bound: limits[bound] for bound in ("min_val", "max_val")}
        for symbol, limits in value["range_constraints"].items()
        if _SYMBOL.match(symbol)
    }
    if any(type(bound) not in (int, type(None)) for limits in ranges.values() for bound in limits.values()):
        raise ValueError("a size has no bounds")
    return {
        "graph_module": {
            "graph": graph | {"custom_obj_values": {}},
            "signature": signature,
            "module_call_graph": [{"fqn": "", "signature": _call(call, signature)}],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": int(value["opset_version"]["aten"])},
        "range_constraints": ranges,
        "schema_version": {key: int(value["schema_version"][key]) for key in ("major", "minor")},
        "verifiers": ["TRAINING"],
        "torch_version": "2.15.0",
        "guards_code": [],
    }


def _check_texts(value: Any, key: str = "") -> None:
    """Raise ``ValueError`` unless every text below has the form that the key it stands under asks for."""
    if isinstance(value, str):
        if not (form := _TEXTS.get(key)) or len(value) > TEXT_CHARS_MAX or not form.match(value):
            raise ValueError(f"{key} {value[:80]!r} is none of a program of tensors")
    elif isinstance(value, dict):
        for inner, below in value.items():
            if key in _VALUES and not _NAME.match(inner):
                raise ValueError(f"{inner[:80]!r} is no name")
            if inner in _REFUSED and below:
                raise ValueError(f"it holds a thing that is no tensor: {inner}")
            _check_texts(below, inner)
    elif isinstance(value, list):
        for below in value:
            _check_texts(below, key)


def _call(call: Mapping[str, Any], signature: Mapping[str, Any]) -> dict[str, Any]:
    """How it is called: tensors in order; it answers a tensor, a sequence or a dictionary of tensors."""
    takes = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF] * len(_inputs(signature))}
    nothing = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    if json.loads(call["in_spec"]) != [1, takes | {"children_spec": [takes, nothing]}]:
        raise ValueError("it takes more than tensors in order: export it with a tuple of tensors")
    _output_names(call["out_spec"], len(signature["output_specs"]))
    names = call.get("forward_arg_names")
    if names is not None and not all(_NAME.match(name) for name in names):
        raise ValueError(f"its arguments are {names}")
    specs = {key: call[key] for key in ("in_spec", "out_spec")}
    return {"inputs": [], "outputs": [], "forward_arg_names": names} | specs


def _output_names(spec: str, count: int) -> list[str] | None:
    """The keys of the dictionary of tensors that it answers; None where it answers a tensor or a sequence."""
    version, tree = json.loads(spec)
    if version == 1 and tree == _LEAF:
        return None
    kind, context = tree["type"], json.loads(tree["context"])
    names = context if kind == "builtins.dict" else None
    good = context is None if names is None else all(isinstance(name, str) and _NAME.match(name) for name in names)
    if kind not in ("builtins.tuple", "builtins.list", "builtins.dict") or not good:
        raise ValueError("it answers more than tensors, a sequence of them, or a dictionary with names as keys")
    if version != 1 or set(tree) != set(_LEAF) or tree["children_spec"] != [_LEAF] * count:
        raise ValueError("its answers are nested")
    return names


def _inputs(signature: Mapping[str, Any]) -> list[str]:
    specs = (spec["user_input"] for spec in signature["input_specs"] if "user_input" in spec)
    return [spec["arg"]["as_tensor"]["name"] for spec in specs]


def _config(value: Mapping[str, Any]) -> dict[str, Any]:
    """Where each weight's bytes are. Raises ``ValueError`` for a pickled one."""
    checked = {}
    for name, entry in value["config"].items():
        if entry["use_pickle"] is not False or not _PAYLOAD.match(entry["path_name"]):
            raise ValueError(f"its {name[:80]!r} is a pickle")
        if not _DOTTED.match(name):
            raise ValueError(f"{name[:80]!r} is no name of a weight")
        _check_texts(entry["tensor_meta"])
        checked[name] = {key: entry[key] for key in ("path_name", "is_param", "use_pickle", "tensor_meta")}
    return checked


def _signature(program: Mapping[str, Any]) -> Signature:
    module = program["graph_module"]
    values, specs = module["graph"]["tensor_values"], module["signature"]
    takes = _inputs(specs)
    kinds = {kind for spec in specs["output_specs"] for kind in spec}
    if kinds != {"user_output"}:
        raise ValueError(f"it does more than answer ({', '.join(sorted(kinds))}): export it after .eval()")
    gives = [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in specs["output_specs"]]
    call = module["module_call_graph"][0]["signature"]
    names = _output_names(call["out_spec"], len(gives)) or gives
    batches = {json.dumps(values[name]["sizes"][:1], sort_keys=True) for name in (*takes, *gives)}
    if len(batches) != 1 or "Symbol" not in next(iter(batches)):
        raise ValueError(
            "the first dimension of each input and output must be one free batch size: "
            "export it with dynamic_shapes, ({0: Dim('batch', min=1)}, ...)"
        )
    inputs = tuple(_tensor(name, values[name]) for name in takes)
    return Signature(inputs, tuple(_tensor(name, values[value]) for name, value in zip(names, gives, strict=True)))


def _tensor(name: str, meta: Mapping[str, Any]) -> Tensor:
    if (dtype := _DTYPES.get(meta["dtype"])) is None:
        raise ValueError(f"tensor {name!r} has dtype {meta['dtype']} of torch's, which no column can carry")
    shape = [size.get("as_int") for size in meta["sizes"][1:]]
    if None in shape:
        raise ValueError(f"tensor {name!r}: only the first dimension may be free")
    return Tensor(name, np.dtype(dtype), tuple(shape))
