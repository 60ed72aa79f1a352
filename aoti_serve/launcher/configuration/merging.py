"""Merge our applications with those of a cluster, since Serve deletes what a configuration does not name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from aoti_serve.config import AppConfig
from aoti_serve.errors import StartFailed
from aoti_serve.launcher.configuration.config_file import BUILDER, DEFAULT_NAME, ConfigFile, Ours

NO_SUCH = ("DELETING", "NOT_STARTED")


class Deployed(NamedTuple):
    """An application of the cluster. `content` is its part of a configuration; None if a program deployed it."""

    prefix: str | None
    content: dict[str, Any] | None

    @property
    def models(self) -> dict[str, str] | None:
        """The stores of its models, by the models' names; None if it is not one of our applications."""
        if self.content is None or self.content.get("import_path") != BUILDER:
            return None
        try:
            config = AppConfig.model_validate(self.content.get("args") or {})
        except ValidationError:  # of another version of ours
            return {}
        return {model.name: model.store_root for model in config.models}


def deployed_among(details: Mapping[str, Any], configs: Mapping[str, Any]) -> dict[str, Deployed]:
    """The deployed applications by name.

    `details` are Serve's, of its instance; `configs` are what was deployed from files, whether it still runs or not.
    """
    return {
        name: Deployed(
            application.get("route_prefix"),
            configs[name].model_dump(exclude_unset=True)
            if application["source"] == "declarative" and name in configs
            else None,
        )
        for name, application in details.get("applications", {}).items()
        if application["status"] not in NO_SUCH
    }


def merge_deployments(config: ConfigFile, there: Mapping[str, Deployed], *, replace: bool) -> dict[str, Any]:
    """The configuration that adds the file's applications to the deployed ones, or replaces those of the same name.

    Raises StartFailed if an application of another owner would be replaced, unless `replace` is true; also if a route
    prefix is taken.
    """
    own = {application.get("name", DEFAULT_NAME): dict(application) for application in config.content["applications"]}
    if not replace:
        for reason in _conflicts(config, there):
            raise StartFailed(detail=f"{reason}; --replace puts this one in its place")
    others = {name: entry for name, entry in there.items() if name not in own}
    for application in own.values():
        _keep_apart(application, others)
    kept = [entry.content for entry in others.values() if entry.content is not None]
    return config.content | {"applications": [*kept, *own.values()]}


def _conflicts(config: ConfigFile, there: Mapping[str, Deployed]) -> Iterator[str]:
    ours = {application.name: application for application in config.ours}
    for application in config.content["applications"]:
        name = application.get("name", DEFAULT_NAME)
        if name in there and (lost := _lost(application, ours.get(name), there[name])):
            yield f"the cluster runs an application '{name}' already, {lost}"


def _lost(application: Mapping[str, Any], ours: Ours | None, there: Deployed) -> str:
    """The words for what a replacement would lose; empty if the new application has all that the deployed one has."""
    if there.content is None:
        return "which a program has deployed"
    if there.content["import_path"] != application["import_path"]:
        return f"which is {there.content['import_path']}"
    if ours is None or there.models is None:
        return ""
    new = {model.name: model.store_root for model in ours.config.models}
    lost = [name for name in there.models if name not in new]
    if lost:
        return f"which serves {', '.join(lost)}, and this file does not"
    moved = [name for name, store in there.models.items() if new[name] != store]
    return f"whose '{moved[0]}' has its versions in {there.models[moved[0]]}" if moved else ""


def _keep_apart(application: dict[str, Any], others: Mapping[str, Deployed]) -> None:
    """Refuse a route prefix that a deployed application has. An application that no proxy serves gets no prefix."""
    prefix = application.get("route_prefix", "/")
    holder = next((name for name, entry in others.items() if prefix is not None and entry.prefix == prefix), None)
    if holder is None:
        return
    gateway = (application.get("args") or {}).get("gateway") or {}
    listens = application.get("import_path") == BUILDER and gateway.get("http_port", 0) is not None
    if "route_prefix" in application or not listens:
        name = application.get("name", DEFAULT_NAME)
        detail = f"application '{holder}' has the route prefix {prefix} already: give '{name}' another `route_prefix`"
        raise StartFailed(detail=detail)
    application["route_prefix"] = None
