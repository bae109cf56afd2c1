"""Coverage-guided fuzzing of one reader of what strangers send: ``python -m tests.hostile.fuzz json FOLDER SECONDS``.

What must hold of any bytes: columns or `BadRequest`, the same alone and between good neighbours (I7), the values that
pyarrow reads, within the time and memory that libFuzzer is told. An input that breaks it is kept in
``FOLDER/json/crashes``; the corpus lies beside it, so that a later run goes on from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import atheris

with atheris.instrument_imports(include=["topics", "pipeline.admit"], enable_loader_override=False):
    from pipeline.admit import HeaderReader
    from tests.hostile.cases import good_request, hostile_cases
    from tests.hostile.header_cases import header_cases
    from tests.hostile.oracle import LIMITS, SIGNATURES, assert_alike, assert_as_pyarrow, ones
    from topics.codecs import codec_for
    from topics.codes import BadRequest
    from topics.records import ARROW, JSON, RAW

INPUT_BYTES_MAX = 8_192  # a request of the fixtures has 1 kB; more bytes only make a run slower
INPUT_KIB_MAX = 64 * 1024  # of memory, what one message may take; the peak so far is 256 MiB after the imports
ROUND_S = 100  # of one process: atheris loses 0.2 kB where it traces how NumPy's arrays compare, raw 0.7 GB a round
RSS_MIB_MAX = 2_048
RUN_S_MAX = 5  # of one input, which takes 0.5 ms
TYPES = {"json": JSON, "arrow": ARROW, "raw": RAW}


def values(content_type: str) -> Callable[[bytes], None]:
    """One value of a message; the first byte says of which signature."""

    def run(data: bytes) -> None:
        before_kib = getrusage(RUSAGE_SELF).ru_maxrss
        tensors = SIGNATURES[data[0] % len(SIGNATURES)] if data else SIGNATURES[0]
        columns = assert_alike(content_type, data[1:], tensors)
        if content_type == ARROW:
            assert_as_pyarrow(data[1:], tensors, columns)
        assert getrusage(RUSAGE_SELF).ru_maxrss - before_kib <= INPUT_KIB_MAX, "memory"

    return run


def headers(data: bytes) -> None:
    """Names and values in turn, parted by NUL; an empty value is null."""
    reader, parts = HeaderReader(LIMITS, ("digits", "1")), data.split(b"\0")
    names = [part.decode(errors="replace") for part in parts[::2]]
    try:
        read = reader.read(list(zip(names, [part or None for part in parts[1::2]], strict=False)))
    except BadRequest as why:
        if not why.reason.isprintable():
            raise AssertionError(why.reason) from why
    else:
        assert 0 <= read.priority <= 9
        assert read.request_id != ""


def seeds(target: str) -> list[bytes]:
    """What the fuzzer begins with: good requests, and every fixture that is not just long."""
    if target == "headers":
        return [
            b"\0".join(part for name, raw in case.headers for part in (name.encode(), raw or b""))
            for case in header_cases()
        ]
    content_type = TYPES[target]
    bad = [case.value or b"" for case in hostile_cases() if case.content_type == content_type]
    found = [(0, value) for value in (good_request(content_type), good_request(content_type, 3), *bad)]
    codec = codec_for(content_type)
    found += [(at, codec.encode_request(ones(tensors, 2), tensors)) for at, tensors in enumerate(SIGNATURES)]
    return [bytes([at]) + value for at, value in found if len(value) < INPUT_BYTES_MAX]


def main(target: str, folder: Path, seconds: int) -> int:
    """Fuzz in rounds that go on from one another's corpus; 1 where one has found something."""
    corpus, crashes = folder / target / "corpus", folder / target / "crashes"
    for made in (corpus, crashes):
        made.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    again = [sys.executable, "-m", "tests.hostile.fuzz", target, str(folder)]
    for done_s in range(0, seconds, ROUND_S):
        if subprocess.run([*again, str(min(ROUND_S, seconds - done_s)), str(corpus)], check=False).returncode:
            print(f"found; to run it again: {' '.join(again)} 0 {crashes}/INPUT", flush=True)
            return 1
    return 0


def fuzz(target: str, folder: Path, seconds: int, *inputs: str) -> None:
    """One round from a folder of inputs; of files, each is run once."""
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-rss_limit_mb={RSS_MIB_MAX}",
        f"-timeout={RUN_S_MAX}",
        f"-artifact_prefix={folder / target / 'crashes'}{os.sep}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, *inputs], headers if target == "headers" else values(TYPES[target]))
    atheris.Fuzz()


if __name__ == "__main__":
    named, into, time_s, *inputs = sys.argv[1:]
    if inputs:
        fuzz(named, Path(into), int(time_s), *inputs)
    sys.exit(main(named, Path(into), int(time_s)))
