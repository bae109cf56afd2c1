"""The compose file: its schema, and that what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from pipeline.cli.main import app

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = {"sluice": "ops/docker/Dockerfile.cpu", "sluice-gpu": "ops/docker/Dockerfile.gpu"}
BASES = {
    "sluice": r"^ARG (PYTHON)=python:\d+\.\d+\.\d+-slim-[a-z]+$",
    "sluice-gpu": r"^ARG (CUDA)=nvidia/cuda:\d+\.\d+\.\d+-cudnn-runtime-ubuntu\d+\.\d+$",
}
every_image = pytest.mark.parametrize("image", DOCKERFILES)


def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE)["services"]
    return found


OURS = [name for name, service in services().items() if "build" in service]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The options of a `sluice` command line, as the command itself reads them; nothing runs."""
    command = typer.main.get_command(app)
    words = list(arguments)
    while commands := getattr(command, "commands", None):
        command = commands[words.pop(0)]
    return command.make_context("sluice", words).params


def variables(of: Any = None) -> set[str]:
    """Environment variables that the command reads."""
    of = of or typer.main.get_command(app)
    own = {option.envvar for option in of.params if option.envvar}
    return own.union(*(variables(command) for command in getattr(of, "commands", {}).values()))


def test_it_is_what_the_compose_specification_says() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", services())
def test_images_are_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+", services()[name]["image"])


def test_our_image_has_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {services()[name]["image"] for name in OURS} == {f"{image}:{version}" for image in DOCKERFILES}


@pytest.mark.parametrize("name", services())
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert [port for port in services()[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", services())
def test_every_service_has_limits_and_says_what_follows_its_end(name: str) -> None:
    service = services()[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["restart"] in ("unless-stopped", "no")


@pytest.mark.parametrize("name", [name for name, each in services().items() if each["restart"] != "no"])
def test_what_stays_up_is_checked(name: str) -> None:
    assert services()[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", OURS)
def test_our_services_can_only_do_what_they_must(name: str) -> None:
    service = services()[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_commands_and_variables_exist_in_the_command(name: str) -> None:
    service = services()[name]
    assert parsed(service["command"])
    assert set(service["environment"]) <= variables()


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_s_health_is_the_file_it_makes_when_ready(name: str) -> None:
    worker = services()[name]
    path = parsed(worker["command"])["ready_file"]
    assert worker["healthcheck"]["test"] == ["CMD", "test", "-e", str(path)]
    assert any(place.partition(":")[0] == str(path.parent) for place in worker["tmpfs"])


def test_the_start_is_in_order() -> None:
    assert services()["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services()["worker"]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "topics": {"condition": "service_completed_successfully"},
    }


def test_clients_of_both_sides_are_told_an_address_they_can_reach() -> None:
    kafka = services()["kafka"]
    told = dict(each.split("://") for each in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert {services()[name]["environment"]["SLUICE_BROKER"] for name in OURS} == {told["INSIDE"]}
    _, outside, inside = kafka["ports"][0].split(":")
    assert told["HOST"] == f"localhost:{outside}"
    assert f"HOST://:{inside}" in kafka["environment"]["KAFKA_LISTENERS"]
    port = told["INSIDE"].partition(":")[2]
    assert kafka["healthcheck"]["test"][-1] == f"localhost:{port}"


def test_a_gpu_is_asked_for_by_its_profile_alone_and_its_worker_is_in_a_group_of_its_own() -> None:
    asking = {n for n, each in services().items() if "reservations" in each["deploy"]["resources"]}
    profiled = {n for n, each in services().items() if each.get("profiles") == ["gpu"]}
    assert asking == profiled == {"worker-gpu"}
    (device,) = services()["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    groups = [services()[name]["environment"]["SLUICE_GROUP"] for name in ("worker", "worker-gpu")]
    assert len(set(groups)) == 2
    models = parsed(services()["worker-gpu"]["command"])["models"]
    assert services()["worker-gpu"]["volumes"] == [f"${{SLUICE_MODELS:-./models}}:{models}:ro"]


@every_image
def test_a_dockerfile_is_there_pinned_and_not_root(image: str) -> None:
    used = {each["build"]["dockerfile"] for each in services().values() if each["image"].partition(":")[0] == image}
    assert used == {DOCKERFILES[image]}
    text = (ROOT / DOCKERFILES[image]).read_text()
    base = re.search(BASES[image], text, re.MULTILINE)
    assert base
    lines = text.splitlines()
    stages = [line for line in lines if line.startswith("FROM")]
    assert stages == [f"FROM ${{{base[1]}}} AS build", f"FROM ${{{base[1]}}}"]
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in last
    assert 'ENTRYPOINT ["sluice"]' in last
    assert all("--require-hashes" in line for line in lines if "requirements" in line and "COPY" not in line)


@every_image
def test_what_is_installed_without_a_lock_has_a_version(image: str) -> None:
    """Beside the locks and our own wheel: only the GPU's runtimes, which no lock can hold."""
    text = (ROOT / DOCKERFILES[image]).read_text()
    words = [word for line in re.findall(r"pip install ([^\n&]+)", text) for word in line.split()]
    named = [word for word in words if re.match(r"[a-z]", word) and not word.endswith((".lock", ".whl"))]
    assert [word for word in named if not re.fullmatch(r"[a-z0-9-]+==[0-9.]+", word)] == []
    assert bool(named) == (image == "sluice-gpu")


@every_image
def test_what_a_dockerfile_copies_is_there_and_not_ignored(image: str) -> None:
    ignored = {line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    for line in (ROOT / DOCKERFILES[image]).read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
                assert name not in ignored
                assert not name.endswith(".md") or f"!{name}" in ignored
