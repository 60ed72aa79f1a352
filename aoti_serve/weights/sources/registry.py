"""Versions of MLflow's model registry: `models:/name@alias` and `models:/name/3`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from aoti_serve.config import REGISTERED_MODEL
from aoti_serve.errors import UnreadableWeights
from aoti_serve.weights.files.sharded import INDEX_NAME
from aoti_serve.weights.sources.found import WEIGHTS_FILE, FoundVersion, PlaceFile, found_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOGGED = re.compile(r"models:/(?P<id>m-[^/@]+)(?P<rest>/.*)?")


def is_registered(uri: str) -> bool:
    return uri.startswith("models:")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version that the registry names now, and where it says that its artifacts are."""

    asked: str
    name: str
    version: str
    uri: str

    def at(self, files: Sequence[PlaceFile]) -> FoundVersion:
        """The file of weights among its artifacts, or the shards. Raises UnreadableWeights if it has none, or several.

        Under one path whatever the version: an alias that goes back to an older version is followed, too.
        """
        found = found_version(f"{self.name}-{self.version}", self._weights_among(files), files)
        fingerprint = f"version {self.version}, {found.file.fingerprint}"
        return replace(found, file=replace(found.file, path="", fingerprint=fingerprint))

    def _weights_among(self, files: Sequence[PlaceFile]) -> PlaceFile:
        fit = (
            [file for file in files if file.base == WEIGHTS_FILE or not file.path]
            or [file for file in files if file.base == INDEX_NAME]
            or [file for file in files if file.base.endswith(".safetensors")]
        )
        if len(fit) != 1:
            names = ", ".join(file.path for file in fit) or "none"
            wanted = f"one file of safetensors, or shards and one {INDEX_NAME}"
            raise UnreadableWeights(detail=f"{self.asked}: version {self.version} must hold {wanted}; there: {names}")
        return fit[0]


def registered(uri: str) -> RegisteredVersion:
    """Ask the registry, at MLFLOW_TRACKING_URI or MLFLOW_REGISTRY_URI, what it names now."""
    asked = REGISTERED_MODEL.fullmatch(uri)
    if asked is None:
        raise UnreadableWeights(detail=f"{uri}: write models:/name@alias, or models:/name/3")
    try:
        from mlflow import MlflowClient
    except ImportError:
        detail = f"{uri}: models:/ needs a package that is not installed: pip install 'aoti-serve[mlflow]'"
        raise UnreadableWeights(detail=detail) from None
    client, name = MlflowClient(), asked["name"]
    version = asked["version"] or str(client.get_model_version_by_alias(name, asked["alias"]).version)
    found = client.get_model_version(name, version)
    if found.status != "READY":
        raise UnreadableWeights(detail=f"{uri}: version {version} is {found.status}, not READY")
    return RegisteredVersion(
        uri, name, version, _place(client, uri, client.get_model_version_download_uri(name, version))
    )


def _place(client: MlflowClient, asked: str, source: str) -> str:
    """Where the artifacts are, as a path or a URI that can be read here."""
    if logged := _LOGGED.fullmatch(source):
        source = client.get_logged_model(logged["id"]).artifact_location + (logged["rest"] or "")
    scheme = urlsplit(source).scheme
    if scheme == "file":
        return unquote(urlsplit(source).path)
    if scheme in ("mlflow-artifacts", "runs", "dbfs", "models", "http", "https"):
        detail = f"{asked}: its artifacts are behind the tracking server ({scheme}:), which cannot be read from here; "
        raise UnreadableWeights(detail=detail + "register versions whose source is a folder or a bucket")
    return source
