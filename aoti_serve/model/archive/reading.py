"""The `.pt2` zip: the models in it, reading one member, and whether all of it may be unpacked.

Nothing that the archive says of itself is trusted: a member may lie about its size, be a link, or name a place outside.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aoti_serve.errors import UnreadablePackage
from aoti_serve.errors.file_kinds import FileKind, kind_of

MODELS = "data/aotinductor"
_METADATA = re.compile(rf"(?P<root>(?:[^/]+/)?){MODELS}/(?P<model>.+)/[^/]+wrapper_metadata\.json")
# What zipfile and zlib raise for archives that are cut off, overwritten, encrypted or compressed in unknown ways.
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)

_INSTEAD = {FileKind.SAFETENSORS: "; it goes under `weights`, and the .pt2 file under `package`"}
_NO_BETTER = (FileKind.PACKAGE, FileKind.ARCHIVE, FileKind.UNKNOWN)  # kinds that explain nothing

_MOST_READ = 2**28
_MOST_MEMBERS = 100_000
_HARMLESS = 2**26
_HIGHEST_RATIO = 200
_PIECE = 2**20


def names_in_archive(path: Path) -> tuple[str, ...]:
    """The models in an archive, sorted; only the zip's directory is read.

    Raises UnreadablePackage if the file is no archive, is damaged, or holds no model.
    """
    with open_archive(path) as archive:
        return tuple(sorted(models_in(path, archive)[1]))


def metadata(path: Path, model: str) -> bytes:
    """The JSON that the compiler wrote of a model. Raises UnreadablePackage, also if there is no such model."""
    with open_archive(path) as archive:
        _, models = models_in(path, archive)
        if model not in models:
            raise UnreadablePackage(path=path, detail=f"it holds no model '{model}'; it holds {', '.join(models)}")
        return _content(path, archive, models[model])


def read(path: Path, name: str) -> bytes | None:
    """One member by its name below the archive's top folder ("models/model.json"), None if there is none.

    Raises UnreadablePackage if the archive is damaged or the member is larger than may be read.
    """
    with open_archive(path) as archive:
        root, _ = models_in(path, archive)
        member = root + name
        return _content(path, archive, member) if member in archive.NameToInfo else None


def members(path: Path, folder: str) -> tuple[str, ...]:
    """The names below the archive's top folder of the files in one folder of it."""
    with open_archive(path) as archive:
        root, _ = models_in(path, archive)
        return tuple(name.removeprefix(root) for name in archive.NameToInfo if name.startswith(root + folder))


def check_whole(path: Path) -> None:
    """Compare every byte with the archive's checksums. Raises UnreadablePackage, which names the file that differs."""
    with open_archive(path) as archive:
        if problem := _grows(archive.infolist(), path.stat().st_size):
            raise UnreadablePackage(path=path, detail=f"it is not read: {problem}")
        for info in archive.infolist():
            for _ in member_chunks(path, archive, info):
                pass


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip itself. Raises UnreadablePackage if the file is none, or is damaged."""
    with reading_archive(path):
        if not path.exists():
            raise UnreadablePackage(path=path, detail="no such file")
        if not path.is_file():  # opening a pipe would wait for a writer
            raise UnreadablePackage(path=path, detail="not a .pt2 archive: not a regular file")
        archive = zipfile.ZipFile(path)
    with archive:
        # Of two members with one name the readers here and torch's could each take another.
        if len(archive.NameToInfo) != len(archive.infolist()):
            raise UnreadablePackage(path=path, detail="two of its members have one name")
        yield archive


@contextmanager
def reading_archive(path: Path) -> Iterator[None]:
    """Turn the errors of reading a damaged archive into UnreadablePackage."""
    try:
        yield
    except _DAMAGE as error:
        raise UnreadablePackage(path=path, detail=_why_unreadable(path, error)) from error


def _why_unreadable(path: Path, why: object) -> str:
    kind = kind_of(path)
    if kind in _NO_BETTER:
        return f"not a .pt2 archive, or a damaged one: {why}"
    return f"not a .pt2 archive: it is {kind}{_INSTEAD.get(kind, '')}"


def models_in(path: Path, archive: zipfile.ZipFile) -> tuple[str, dict[str, str]]:
    """The archive's top folder, and the metadata member of each model."""
    found = [match for match in map(_METADATA.fullmatch, archive.namelist()) if match]
    models = {match["model"]: match[0] for match in found}
    roots = {match["root"] for match in found}
    if not models:
        kind = kind_of(path)
        what = "there is no compiled model in it" if kind in _NO_BETTER else f"it is {kind}"
        raise UnreadablePackage(path=path, detail=f"not an AOTInductor package: {what}")
    if len(models) < len(found) or len(roots) > 1:
        raise UnreadablePackage(path=path, detail="not an AOTInductor package: several models have one name")
    return roots.pop(), models


def member_chunks(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the member's content; apart from writing, so that a full disk is not taken for a damaged archive."""
    with reading_archive(path), archive.open(info) as member:
        while piece := member.read(_PIECE):
            yield piece


def unpackable(path: Path, archive: zipfile.ZipFile, folder: Path, reserved: str) -> list[zipfile.ZipInfo]:
    """List the files in the archive, if all of it may be unpacked into `folder`; none may be called `reserved`.

    Raises UnreadablePackage with the problem of the first file that may not be unpacked, or of all of them together.
    """
    members = archive.infolist()
    problem = next((f"{info.filename!r} {problem}" for info in members if (problem := _problem(info, reserved))), None)
    problem = problem or _too_much(members, path.stat().st_size, shutil.disk_usage(folder).free, folder)
    if problem:
        raise UnreadablePackage(path=path, detail=f"it is not unpacked: {problem}")
    return [info for info in members if not info.is_dir()]


def _content(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    with reading_archive(path), archive.open(name) as member:
        content = member.read(_MOST_READ + 1)
    if len(content) > _MOST_READ:
        raise UnreadablePackage(path=path, detail=f"{name} is larger than {_MOST_READ} bytes")
    return content


def _problem(info: zipfile.ZipInfo, reserved: str) -> str | None:
    name = info.filename
    parts = name.removesuffix("/").split("/")
    if info.orig_filename != name or "\\" in name or re.match("[A-Za-z]:", name) or {"", ".", ".."} & set(parts):
        return "points out of the archive"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that torch does not read"
    return "is a name of our own" if parts[0] == reserved else None


def _too_much(members: list[zipfile.ZipInfo], packed: int, free: int, folder: Path) -> str | None:
    total = sum(info.file_size for info in members)
    if (problem := _grows(members, packed)) or total <= free:
        return problem
    return f"it needs {_mib(total)} in {folder}, {_mib(free)} are free (XDG_CACHE_HOME chooses another place)"


def _grows(members: list[zipfile.ZipInfo], packed: int) -> str | None:
    # Not by the compressed sizes in the directory: members may overlap, and share one compressed block.
    total = sum(info.file_size for info in members)
    if len(members) > _MOST_MEMBERS:
        return f"it holds {len(members)} members, the limit is {_MOST_MEMBERS}"
    if total > _HARMLESS and total > _HIGHEST_RATIO * packed:
        return f"it would grow from {_mib(packed)} to {_mib(total)}, more than {_HIGHEST_RATIO} times"
    return None


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
