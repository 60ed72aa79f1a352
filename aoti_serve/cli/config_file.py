"""A Serve configuration file, read and checked before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from aoti_serve.cluster.names import GATEWAY, replicas_of
from aoti_serve.config import AppConfig, ModelConfig, problems
from aoti_serve.errors import InvalidConfig
from aoti_serve.model.package import configured_package

BUILDER = "aoti_serve.app:build"
DEFAULT_NAME = "default"


class ConfigFile(NamedTuple):
    """`content` is what Serve takes; `models` and `ingresses` (by application) are of those that are ours.

    `prefixes` are the paths below which they answer, "" for all; in the file's order.
    """

    path: Path
    content: dict[str, Any]
    models: list[ModelConfig]
    ingresses: dict[str, str]
    prefixes: list[str]

    @property
    def names(self) -> list[str]:
        """The applications; Serve calls one without a name `default`."""
        return [application.get("name", DEFAULT_NAME) for application in self.content["applications"]]


def read_config(path: Path) -> ConfigFile:
    """Raises InvalidConfig that names the file and the field."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidConfig(detail=f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: bytes that are no text, a date that is none
        raise InvalidConfig(detail=f"{path}: not YAML: {error}") from error
    applications = content.get("applications") if isinstance(content, dict) else None
    if not isinstance(applications, list) or not all(isinstance(entry, dict) for entry in applications):
        raise InvalidConfig(detail=f"{path}: not a Serve configuration: it has no list 'applications'")
    models: list[ModelConfig] = []
    ingresses = {}
    prefixes = []
    for application in applications:
        if application.get("import_path") == BUILDER:
            own = _models(path, application)
            models += own
            ingresses[application.get("name", DEFAULT_NAME)] = _ingress(own)
            prefixes.append(str(application.get("route_prefix") or "/").rstrip("/"))
    return ConfigFile(path, content, models, ingresses, prefixes)


def _ingress(models: Sequence[ModelConfig]) -> str:
    """The deployment that answers HTTP."""
    fused = (replicas_of(model.name) for model in models if model.placement == "fused")
    return next(fused, GATEWAY)


def _models(path: Path, application: dict[str, Any]) -> list[ModelConfig]:
    try:
        config = AppConfig.model_validate(application.get("args") or {})
    except ValidationError as error:
        raise InvalidConfig(
            detail=f"{path}: application '{application.get('name')}', args: {problems(error.errors())}"
        ) from error
    for model in config.models:
        for file in filter(None, (model.package, model.weights)):
            if not file.exists():
                raise InvalidConfig(detail=f"{path}: model '{model.name}': no file {file}")
        configured_package(model)
    return list(config.models)
