"""A Serve configuration file, read and checked before anything is started."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from aoti_serve.config import AppConfig, GatewayConfig, ModelConfig
from aoti_serve.errors import InvalidArguments, InvalidConfig, each_problem, yaml_words
from aoti_serve.errors.file_kinds import FileKind, kind_of

BUILDER = "aoti_serve.app:build"
DEFAULT_NAME = "default"
DISABLED = "Disabled"
SERVE_HOST, SERVE_PORT = "127.0.0.1", 8000  # where Serve's proxies listen if the file is silent


class Ours(NamedTuple):
    """One of our applications. `prefix` is the path below which Serve's proxies serve it, "" for all paths.

    `deployments` is Serve's own section of that name, by deployment.
    """

    name: str
    prefix: str
    config: AppConfig
    deployments: dict[str, dict[str, Any]]

    @property
    def gateway(self) -> GatewayConfig:
        return self.config.gateway


class ConfigFile(NamedTuple):
    """A configuration as Serve takes it (`content`), and those of its applications that are ours, in its order."""

    path: Path
    content: dict[str, Any]
    ours: list[Ours]

    @property
    def names(self) -> list[str]:
        """The names of all applications; Serve calls one without a name `default`."""
        return [application.get("name", DEFAULT_NAME) for application in self.content["applications"]]

    @property
    def models(self) -> list[ModelConfig]:
        return [model for application in self.ours for model in application.config.models]

    @property
    def proxies(self) -> str:
        """The nodes on which Serve's own proxies run: none if the file is silent, since gateways listen themselves."""
        return str(self.content.get("proxy_location") or DISABLED)

    @property
    def proxy_address(self) -> tuple[str, int]:
        """The host and port on which Serve's proxies listen, if there are any."""
        options = self.content.get("http_options") or {}
        return options.get("host") or SERVE_HOST, options.get("port") or SERVE_PORT


def read_config(
    path: Path, host: str | None = None, port: int | None = None, grpc_port: int | None = None
) -> ConfigFile:
    """Read the file. `host` and the ports replace those of its gateway.

    Raises InvalidConfig, which names the file and the field.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidConfig(detail=f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: bytes that are no text, a date that is none
        what = _no_configuration(path) or f"not YAML: {yaml_words(error, path)}"
        raise InvalidConfig(detail=f"{path}: {what}") from error
    applications = content.get("applications") if isinstance(content, dict) else None
    if not isinstance(applications, list) or not all(isinstance(entry, dict) for entry in applications):
        what = _no_configuration(path) or "not a Serve configuration: it has no list 'applications'"
        raise InvalidConfig(detail=f"{path}: {what}")
    if not applications:
        raise InvalidConfig(detail=f"{path}: 'applications' is empty: there is nothing to serve")
    built = [entry for entry in applications if entry.get("import_path") == BUILDER]
    _listen_at(path, built, {"host": host, "http_port": port, "grpc_port": grpc_port})
    ours = [_ours(path, entry) for entry in built]
    for entry, application in zip(built, ours, strict=True):  # the process that builds it may run in another folder
        entry["args"] = application.config.model_dump(mode="json", exclude_unset=True)
    return ConfigFile(path, content, ours)


def _no_configuration(path: Path) -> str | None:
    """What a file is that was taken for a configuration, and what makes one; None if it is text."""
    kind = kind_of(path)
    if kind in (FileKind.TEXT, FileKind.UNKNOWN):
        return None
    package = shlex.quote(str(path)) if kind is FileKind.PACKAGE else "PACKAGE"
    return f"it is {kind}, and no configuration: `aoti-serve init --package {package}` writes one"


def _listen_at(path: Path, built: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
    wanted = {key: value for key, value in wanted.items() if value is not None}
    if not wanted:
        return
    if len(built) != 1:
        detail = f"{path}: --host and the ports are for a file with one application of ours, this one has {len(built)}"
        raise InvalidConfig(detail=f"{detail}: write {', '.join(f'`gateway.{key}`' for key in wanted)} into the file")
    arguments = built[0].get("args") or {}
    if isinstance(arguments, dict) and isinstance(gateway := arguments.get("gateway") or {}, dict):
        built[0]["args"] = arguments | {"gateway": gateway | wanted}


def _ours(path: Path, application: dict[str, Any]) -> Ours:
    name = application.get("name", DEFAULT_NAME)
    try:
        config = AppConfig.model_validate(application.get("args") or {})
    except ValidationError as error:
        place, found = f"{path}: application '{name}', args", each_problem(error.errors(), AppConfig)
        raise InvalidArguments(place=place, detail="; ".join(found), problems=found) from error
    sections = application.get("deployments") or []
    named = {entry["name"]: entry for entry in sections if isinstance(entry, dict) and "name" in entry}
    return Ours(name, str(application.get("route_prefix") or "/").rstrip("/"), config, named)
