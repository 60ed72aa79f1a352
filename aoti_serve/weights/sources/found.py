"""What a look at a place has found: its files, and which of them are versions of weights. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple

from aoti_serve.errors import plain
from aoti_serve.weights.files.sharded import INDEX_NAME
from aoti_serve.weights.version import LONGEST_LABEL

WEIGHTS_FILE = "model.safetensors"
MARKERS = ("_SUCCESS", "COMPLETE")
_UNFINISHED = (".", "_", "tmp")
_SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")


@dataclass(frozen=True)
class PlaceFile:
    """A file in a place: its path there, which is "" if the place is the file; a `fingerprint` of what it holds.

    The path is for people, and to be stored: what is no UTF-8 in it is `?`.

    `modified` is in seconds since 1970, 0 where the place does not tell. `uri` is what to read.
    """

    path: str
    uri: str
    nbytes: int
    modified: float
    fingerprint: str

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def base(self) -> str:
        return self.path.rpartition("/")[2]


class Seen(NamedTuple):
    """What one look at a place has found: the versions there, and the roots that allow to read them."""

    versions: Sequence[FoundVersion]
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundVersion:
    """A version in a place, which may be half written. `name` is what to call it.

    Of a checkpoint in shards `file` is the index, with a fingerprint of all, and `shards` are the files beside it.
    """

    name: str
    file: PlaceFile
    shards: tuple[PlaceFile, ...] = ()

    @property
    def order(self) -> tuple[float, list[tuple[int, int, str]]]:
        """The newest is the one that was modified last; of two of one time the last by name: step-9, then step-10."""
        return self.file.modified, natural(self.file.path)

    @property
    def label(self) -> str:
        """Its name as a label: file systems allow what may stand in no label."""
        return re.sub(r"[\x00-\x1f\x7f]", "?", self.name)[:LONGEST_LABEL]

    def is_in(self, versions: Iterable[FoundVersion]) -> bool:
        """Whether it still is what it was."""
        kept = ((version.file.path, version.file.fingerprint) for version in versions)
        return (self.file.path, self.file.fingerprint) in kept


def natural(path: str) -> list[tuple[int, int, str]]:
    """A key that sorts step-9 before step-10."""
    parts = re.split(r"([0-9]+)", path)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part]


def versions_in(files: Iterable[PlaceFile], place: str) -> list[FoundVersion]:
    """The versions among the files of a place: files of safetensors, and folders with `WEIGHTS_FILE`, or with shards
    and their index.

    If any folder has one of the `MARKERS`, those without it are unfinished. `place` is the name of the place itself.
    """
    files = list(files)
    marked = {file.folder for file in files if file.folder and file.base in MARKERS}
    single = {file.folder for file in files if file.base == WEIGHTS_FILE}
    return [
        found_version(_name(file, place), file, files)
        for file in files
        if _is_version(file, single) and (not file.folder or not marked or file.folder in marked)
    ]


def found_version(name: str, file: PlaceFile, files: Iterable[PlaceFile]) -> FoundVersion:
    """The version that a file is, or an index with the shards beside it among these files."""
    if file.base != INDEX_NAME:
        return FoundVersion(name, file)
    beside = (each for each in files if each.folder == file.folder and each.base.endswith(".safetensors"))
    shards = tuple(sorted(beside, key=lambda shard: shard.path))
    return FoundVersion(name, _of_all(file, shards), shards)


def _name(file: PlaceFile, place: str) -> str:
    if file.folder:
        return file.folder
    return plain(place) if file.path in ("", WEIGHTS_FILE, INDEX_NAME) else file.base.removesuffix(".safetensors")


def _of_all(index: PlaceFile, shards: Sequence[PlaceFile]) -> PlaceFile:
    """The index as the file that stands for all: it changes when any of them does."""
    told = "\n".join(f"{file.path}: {file.fingerprint}" for file in (index, *shards))
    modified = max(file.modified for file in (index, *shards))
    return replace(index, modified=modified, fingerprint=f"all of {sha256(told.encode(errors='replace')).hexdigest()}")


def _is_version(file: PlaceFile, single: Collection[str]) -> bool:
    """`single` are the folders that hold all in one file."""
    if not file.path:
        return True
    if any(part.startswith(_UNFINISHED) for part in file.path.split("/")) or file.path.count("/") > 1:
        return False
    if file.base == INDEX_NAME:
        return file.folder not in single
    if not file.folder:
        return file.base.endswith(".safetensors") and not _SHARD.search(file.base)
    return file.base == WEIGHTS_FILE
