"""Which Kafka a command talks to: an option, the environment, or the local stack; and which models it means."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.models import Model
    from topics.secrets import KafkaSettings
    from topics.signature import Signature

__all__ = [
    "BrokerOption",
    "JsonOption",
    "KafkaConfigOption",
    "KafkaOption",
    "ModelsOption",
    "broker_of",
    "check_model",
    "kafka_of",
    "models_of",
    "named_values",
    "signature_of",
]

BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker",
        metavar="HOST:PORT",
        envvar="SLUICE_BROKER",
        help="Kafka to talk to; the local stack's (`sluice up`) if not given.",
        show_default=False,
    ),
]
KafkaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--kafka",
        metavar="NAME=VALUE",
        envvar="SLUICE_KAFKA",
        help="Any librdkafka setting, such as security.protocol=SASL_SSL; may be repeated.",
        show_default=False,
        show_envvar=True,
    ),
]
KafkaConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="SLUICE_KAFKA_CONFIG",
        help="A file of NAME=VALUE lines for --kafka, which wins over them; the place for passwords.",
        show_default=False,
    ),
]
ModelsOption = Annotated[
    Path | None,
    typer.Option("--models", metavar="DIR", help="Model repository; the bundled one if not given.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def broker_of(option: str | None) -> str:
    """``option``, else the running local stack's address. Raises `ConfigError`, which says what to do."""
    if option:
        return option
    from pipeline import local
    from pipeline.core.errors import ConfigError

    stack = local.running()
    if stack is None or not stack.broker.alive():
        raise ConfigError("no broker: give --broker HOST:PORT, set SLUICE_BROKER, or start a local one: sluice up")
    return stack.bootstrap


def kafka_of(options: list[str] | None, config: Path | None = None) -> KafkaSettings:
    """``--kafka`` options over the lines of ``--kafka-config`` as librdkafka settings. Raises `ConfigError`."""
    from pipeline.cli.secrecy import hide_settings
    from topics.secrets import KafkaSettings

    settings = KafkaSettings({} if config is None else _read_config(config))
    hide_settings(settings)
    settings |= named_values("--kafka", options)
    hide_settings(settings)
    return settings


def _read_config(path: Path) -> dict[str, str]:
    """``NAME=VALUE`` lines; blank ones and comments (#) are left out, spaces around both parts too."""
    from pipeline.core.errors import ConfigError
    from topics.secrets import is_secret

    try:
        lines = path.read_text().splitlines()
        others = path.stat().st_mode & 0o004
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text"
        raise ConfigError(f"--kafka-config {path}: {why}") from error
    settings: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            settings |= named_values(f"{path} line {number}", [line])
    settings = {name: value.strip() for name, value in settings.items()}
    if others and any(map(is_secret, settings)):
        print(f"sluice: warning: {path} holds secrets and everyone may read it: chmod 600 {path}", file=sys.stderr)
    return settings


def named_values(option: str, values: list[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping. Raises `ConfigError`, which repeats no part of them: it may be a secret."""
    from pipeline.core.errors import ConfigError

    named = {}
    for text in values or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{option}: write NAME=VALUE")
        named[name.strip()] = value
    return named


def models_of(directory: Path | None) -> list[Model]:
    """The newest version of each model of the repository. Raises `ModelError`."""
    from pipeline.core.errors import ModelError
    from pipeline.models import BUNDLED, list_models

    newest = {model.name: model for model in list_models(directory or BUNDLED)}
    if not newest:
        raise ModelError(f"{directory or BUNDLED}: holds no model")
    return list(newest.values())


def signature_of(model: str, directory: Path | None) -> Signature | None:
    """What ``model`` takes and gives; None where the bundled repository does not hold it.

    Raises `ConfigError` where it is no name of a model, or not in the ``directory`` that was given.
    """
    from pipeline.core.errors import ConfigError
    from pipeline.models import BUNDLED, list_models

    check_model(model)
    found = {known.name: known.signature for known in list_models(directory or BUNDLED)}
    if directory is not None and model not in found:
        raise ConfigError(f"no model {model!r} in {directory}, only {', '.join(sorted(found))}")
    return found.get(model)


def check_model(name: str) -> None:
    """Raise `ConfigError` where ``name`` cannot be a model's."""
    from pipeline.core.errors import ConfigError
    from topics.names import check_model_name

    try:
        check_model_name(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
