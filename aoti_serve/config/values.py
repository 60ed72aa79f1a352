"""The values of configuration keys: ports, times, names, places; and what is wrong with one, in words."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

PortNumber = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
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


def problems(found: Sequence[Any]) -> str:
    """pydantic's `errors()` in words, by field; without its addresses."""
    # A list whose entries are wrong is reported as too short as well.
    real = [entry for entry in found if entry["type"] != "too_short"] or found
    return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {_words(entry)}".removeprefix(": ") for entry in real)


def _words(problem: Any) -> str:
    unknown = problem["type"] == "extra_forbidden"
    return "there is no such key" if unknown else str(problem["msg"]).removeprefix("Value error, ")
