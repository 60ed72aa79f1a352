"""Places that are followed: folders and files of this host, what fsspec lists, Hugging Face's hub, MLflow's registry.

All functions raise UnreadableWeights, without the credentials in a URI, for whatever goes wrong.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from upath import UPath

from aoti_serve.errors import SourceRefused, UnreadableWeights, WeightsTooLarge, plain
from aoti_serve.weights.files.index import index_in
from aoti_serve.weights.files.sharded import ShardIndex, is_shard_index
from aoti_serve.weights.sources.found import WEIGHTS_FILE, FoundVersion, PlaceFile, Seen, versions_in
from aoti_serve.weights.sources.hub import pinned
from aoti_serve.weights.sources.registry import is_registered, registered
from aoti_serve.weights.sources.source import resolve
from aoti_serve.weights.sources.uri import UriLocation, is_uri, reading_from, shown_uri

HEADER_BLOCK_BYTES = 2**18
_CONTENTS = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "ino")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


def look_at(uri: str, roots: Collection[str] = ()) -> Seen:
    """The versions at a place now, and the roots that it stands for: its configuration's author has allowed them.

    Others than that author write in a registry, so that where it leads must lie under `roots`, the `weights_roots`:
    raises SourceRefused before anything else is asked there.
    """
    if is_shard_index(uri):
        raise UnreadableWeights(detail=f"{shown_uri(uri)} is an index of shards; follow the folder that holds them all")
    with reading_from(uri):
        if is_registered(uri):
            model = registered(uri)
            return Seen([model.at(_files_at(_allowed(model.uri, roots)))])
        if uri.startswith("hf://"):
            where = pinned(uri)
            return Seen(versions_in(_remote_files(where.uri), where.name), (where.uri,))
        root = uri if is_uri(uri) else str(Path(uri).parent if Path(uri).is_file() else Path(uri))
        return Seen(versions_in(_files_at(uri), _place_name(uri)), (root,))


def defect_of(version: FoundVersion, roots: tuple[str, ...], max_header_bytes: int) -> str | None:
    """Why the version's file is not whole: not as long as its header says, or without one; None if it is.

    What would be refused for another reason passes: a swap says why, and its outcome is recorded.
    """
    try:
        if is_shard_index(version.file.uri):
            return _shards_defect(version, roots, max_header_bytes)
        return _header_defect(version.file, roots, max_header_bytes)
    except (SourceRefused, WeightsTooLarge):
        return None


def _header_defect(found: PlaceFile, roots: tuple[str, ...], max_header_bytes: int) -> str | None:
    with reading_from(found.uri), _opened(resolve(found.uri, roots)) as file:
        try:
            index_in(file, found.nbytes, None, max_header_bytes)
        except UnreadableWeights as error:
            return str(error)
    return None


def _shards_defect(version: FoundVersion, roots: tuple[str, ...], max_header_bytes: int) -> str | None:
    """The first defect of the shards that the index names; those that it does not name are not looked into."""
    uri = version.file.uri
    if version.file.nbytes > max_header_bytes:
        return None
    with reading_from(uri), _opened(resolve(uri, roots)) as file:
        content = file.read()
    try:
        named = ShardIndex.parse(content, shown_uri(uri)).shards
    except UnreadableWeights as error:
        return str(error)
    found = {shard.base: shard for shard in version.shards}
    if missing := [name for name in named if name not in found]:
        return f"shard {missing[0]}, which its index names, is not there"
    defects = (_header_defect(found[name], roots, max_header_bytes) for name in named)
    return next(filter(None, defects), None)


def _allowed(uri: str, roots: Collection[str]) -> str:
    place = resolve(uri, roots)
    return place.address if isinstance(place, UriLocation) else str(place)


def _files_at(uri: str) -> list[PlaceFile]:
    return _remote_files(uri) if is_uri(uri) else list(_local_files(Path(uri)))


def _local_files(root: Path) -> Iterator[PlaceFile]:
    """The file that `root` is, or the files in it and in its folders."""
    if root.is_file():
        yield _local_file(root, "", root.stat())
        return
    for entry in sorted(root.iterdir()):
        for path in sorted(entry.iterdir()) if entry.is_dir() else [entry]:
            found = _stat(path)
            if found is not None and stat.S_ISREG(found.st_mode):
                yield _local_file(path, path.relative_to(root).as_posix(), found)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # it has gone meanwhile, or is a link to nothing
        return None


def _local_file(path: Path, name: str, found: os.stat_result) -> PlaceFile:
    fingerprint = f"ino {found.st_ino}, mtime {found.st_mtime_ns}, {found.st_size} bytes"
    return PlaceFile(plain(name), str(path), found.st_size, found.st_mtime, fingerprint)


def _remote_files(uri: str) -> list[PlaceFile]:
    root = UPath(uri)
    files, base = root.fs, root.path.rstrip("/")
    files.invalidate_cache()
    listed: Mapping[str, Mapping[str, Any]] = files.find(base, detail=True)
    if not listed:
        raise FileNotFoundError("there is no file")
    found = ((name.rstrip("/").removeprefix(base).strip("/"), info) for name, info in listed.items())
    return [_remote_file(uri, path, info) for path, info in found if path.count("/") <= 1]


def _remote_file(uri: str, path: str, info: Mapping[str, Any]) -> PlaceFile:
    told = [info[key] for key in _TIMES if info.get(key)][:1]
    kept = {key: info[key] for key in _CONTENTS if info.get(key)}
    fingerprint = ", ".join([*(f"{key} {value}" for key, value in kept.items()), f"{info['size']} bytes"])
    if not kept.keys() - {"ino"}:
        fingerprint += f", modified {told[0] if told else None}"
    address = f"{uri.rstrip('/')}/{path}" if path else uri
    return PlaceFile(plain(path), address, int(info["size"]), _seconds(told[0]) if told else 0.0, fingerprint)


def _seconds(told: object) -> float:
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    return told.timestamp() if isinstance(told, datetime) else float(str(told))


def _place_name(uri: str) -> str:
    *_, folder, last = ["", *shown_uri(uri).rstrip("/").split("/")]
    return folder if last == WEIGHTS_FILE else last.removesuffix(".safetensors")


@contextmanager
def _opened(place: Path | UriLocation) -> Iterator[Any]:
    if isinstance(place, Path):
        with place.open("rb") as file:
            yield file
        return
    files = UPath(place.address).fs
    with files.open(place.address, "rb", block_size=HEADER_BLOCK_BYTES, cache_type="readahead") as file:
        yield file
