"""The files of some names that lie beside weights: in their folder, or in their repository."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection
from pathlib import Path

from upath import UPath

from aoti_serve.weights.sources.shards import Scratch
from aoti_serve.weights.sources.source import fetch_to, resolve
from aoti_serve.weights.sources.uri import PORTS, is_uri, reading_from


def files_beside(
    uri: str, names: Collection[str], roots: Collection[str], limit: int, scratch: Scratch
) -> dict[str, bytes]:
    """Those of `names` that are there, with their bytes, of at most `limit` each.

    A web server does not list its files: beside what lies there nothing is looked for. Raises what `fetch_to` does.
    """
    found = {}
    for name in sorted(names):
        place = _beside(uri, name, roots)
        if place is not None and _is_there(place, roots):
            with scratch() as path:
                fetch_to(place, roots, path, limit, "the most that assets take")
                found[name] = path.read_bytes()
    return found


def _beside(uri: str, name: str, roots: Collection[str]) -> str | None:
    if uri.lower().startswith(tuple(f"{scheme}:" for scheme in PORTS)):
        return None
    here = resolve(uri, roots)
    is_folder = isinstance(here, Path) and os.path.isdir(here)
    return posixpath.join(uri if is_folder else posixpath.dirname(uri), name)


def _is_there(place: str, roots: Collection[str]) -> bool:
    found = resolve(place, roots)
    if isinstance(found, Path):
        return os.path.isfile(found)
    assert is_uri(place)
    with reading_from(place):
        files = UPath(found.address).fs
        files.invalidate_cache()
        return bool(files.exists(found.address))
