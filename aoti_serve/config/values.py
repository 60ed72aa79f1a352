"""The values of configuration keys: ports, times, names, places."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from aoti_serve.errors import shown_value


@dataclass(frozen=True)
class Form:
    """The form of a text: a pattern of the whole, and in words what an error says is wanted."""

    pattern: str
    wanted: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^({self.pattern})$"}

    def _checked(self, text: str) -> str:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError(f"{shown_value(text)} is not {self.wanted}")
        return text


PortNumber = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ModelName = Annotated[
    str,
    Field(max_length=128),
    Form(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, '_', '.' and '-', a letter or a digit first"),
]
# Absolute: the processes of the server start in other folders.
AbsolutePath = Annotated[Path, AfterValidator(Path.resolve)]
# Links stay: what is behind them may be exchanged, as Kubernetes does with a secret.
WatchedPath = Annotated[Path, AfterValidator(Path.absolute)]


def _located(place: str) -> str:
    if not place:
        raise ValueError("it is empty")
    if "::" in place:
        raise ValueError("a chain of URIs cannot be used here")
    if urlsplit(place).scheme == "local":
        raise ValueError("write a folder of this host without `local:`")
    if "://" in place and not place.partition("://")[2].strip("/"):
        raise ValueError("a URI needs more than its scheme")
    return absolute(place)


# A folder of this host, or a URI such as s3://bucket/models; absolute, as an AbsolutePath.
Location = Annotated[str, AfterValidator(_located)]


REGISTERED_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


def _followed(place: str) -> str:
    if place.startswith("models:"):
        if not REGISTERED_MODEL.fullmatch(place):
            raise ValueError("write models:/name@alias, or models:/name/3")
        return place
    scheme = place.partition("://")[0].lower() if "://" in place else ""
    if scheme in ("http", "https"):
        raise ValueError("a web server lists nothing that could be followed; name a folder or a bucket")
    if scheme in ("", "file") and place:  # links stay: what they lead to may be exchanged
        return str(Path(unquote(urlsplit(place).path) if scheme else place).absolute())
    return _located(place)


# A place to look at again and again.
FollowedPlace = Annotated[str, AfterValidator(_followed)]


def _seconds(period: object) -> object:
    if isinstance(period, str) and (found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h)", period)):
        return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]
    if isinstance(period, str) and not re.fullmatch(r"[0-9.]+", period):
        raise ValueError(f"{shown_value(period)} is no time: write 10s, 5min, 1h, or a number of seconds")
    return period


# In seconds; written as a number, or as 10s, 5min, 1h.
Period = Annotated[float, BeforeValidator(_seconds), Field(ge=1, allow_inf_nan=False)]


def absolute(place: str) -> str:
    """A folder's absolute path after all links, or a URI without dots and double slashes."""
    scheme, uri, rest = place.partition("://")
    if not uri:
        return str(Path(place).resolve())
    if scheme.lower() == "file":
        return str(Path(unquote(urlsplit(place).path)).resolve())
    authority, _, path = rest.partition("/")
    path = posixpath.normpath("/" + path.lstrip("/"))
    return f"{scheme.lower()}://{authority}{path if path != '/' else ''}"
