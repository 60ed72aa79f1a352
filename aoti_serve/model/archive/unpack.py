"""Unpacking a `.pt2` archive once per node, into a cache that all processes of this user share, and only they."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from aoti_serve.errors import UnreadablePackage, quantity
from aoti_serve.folders import make_private
from aoti_serve.model.archive import reading
from aoti_serve.signature.tensors import Frozen

_STAMP = ".unpacked.json"
_SCRATCH = ".unpack-"
_KEPT_SECONDS = 30 * 24 * 3600
_LONGEST_WAIT_SECONDS = 600
_in_use: dict[Path, int] = {}
_verified: set[Path] = set()


class _Stamp(Frozen):
    """The list of an unpacked entry, written last: the archive's top folder, and each file's size and sha256."""

    root: str
    files: dict[str, tuple[int, str]]


def extract(path: Path, digest: str, *, verify: bool = False) -> Path:
    """The unpacked archive's top folder, in this node's cache under `digest`, the sha256 of the file.

    Runs in any process: the first unpacks under a lock, the others wait and use the result. torch's loader unpacks each
    time, which takes most of its load time (upstream #169154, #194163). With `verify` the content of the files is
    compared as well, once in each process; files that have changed are unpacked again. Raises UnreadablePackage if the
    archive is damaged or not to be trusted, or if the cache cannot hold it or is not private.
    """
    cache = cache_folder()
    entry = cache / digest
    with _writing(path, cache):
        cache.parent.parent.mkdir(parents=True, exist_ok=True)
        for folder in (cache.parent, cache):
            if not make_private(folder):  # its files are loaded as code
                detail = f"its cache {folder} is not a private folder of this user; remove it"
                raise UnreadablePackage(path=path, detail=f"{detail} (XDG_CACHE_HOME chooses another place)")
        with FileLock(cache.with_suffix(".lock"), timeout=_LONGEST_WAIT_SECONDS):
            stamp = _intact(entry, verify and entry not in _verified)
            if stamp is None:
                _clean(cache, digest)
                stamp = _unpack(path, digest, entry)
            _mark_used(entry)
            if verify:
                _verified.add(entry)
    return entry / stamp.root


def cache_folder() -> Path:
    """The folder in which this user's packages are unpacked on this node."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aoti-serve" / "packages"


@contextmanager
def _writing(path: Path, cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        detail = f"cannot be unpacked into {cache}: {error} (XDG_CACHE_HOME chooses another place)"
        raise UnreadablePackage(path=path, detail=detail) from error


def _unpack(path: Path, digest: str, entry: Path) -> _Stamp:
    with (
        reading.open_archive(path) as packed,
        tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=entry.parent) as scratch,
    ):
        _check_digest(path, packed, digest)
        root, _ = reading.models_in(path, packed)
        members = reading.unpackable(path, packed, entry.parent, _STAMP)
        whole = Path(scratch, "whole")
        files = {info.filename: _write(path, packed, info, whole) for info in members}
        stamp = _Stamp(root=root, files=files)
        (whole / _STAMP).write_text(stamp.model_dump_json())
        shutil.rmtree(entry, ignore_errors=True)
        whole.rename(entry)
    return stamp


def _check_digest(path: Path, packed: zipfile.ZipFile, digest: str) -> None:
    """The file may have been exchanged since it was hashed; the cache would then answer wrongly for good."""
    assert packed.fp is not None
    packed.fp.seek(0)
    with reading.reading_archive(path):
        found = hashlib.file_digest(packed.fp, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != digest:
        raise UnreadablePackage(path=path, detail=f"its sha256 is {found}, not {digest}: it has changed meanwhile")


def _write(path: Path, packed: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> tuple[int, str]:
    target = folder / info.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    written, digest = 0, hashlib.sha256()
    with target.open("xb") as file:
        for piece in reading.member_chunks(path, packed, info):
            written += file.write(piece)
            digest.update(piece)
    # zipfile gives no more than the directory says, which is what was checked; but it may give less.
    if written != info.file_size:
        detail = f"{info.filename} has {quantity(written, 'bytes')}, not {info.file_size}"
        raise UnreadablePackage(path=path, detail=detail)
    return written, digest.hexdigest()


def _intact(entry: Path, verify: bool) -> _Stamp | None:
    """The entry's stamp, if each file is there in its size and no other is; with `verify` also in its content."""
    try:
        stamp = _Stamp.model_validate_json((entry / _STAMP).read_bytes())
        whole = dict(_sizes(entry)) == {name: size for name, (size, _) in stamp.files.items()}
        if whole and verify:
            whole = all(_sha256(entry / name) == digest for name, (_, digest) in stamp.files.items())
        return stamp if whole else None
    except (OSError, ValueError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sizes(entry: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(entry):
        for file in (Path(folder, name) for name in names):
            status = file.lstat()
            if file != entry / _STAMP:
                yield file.relative_to(entry).as_posix(), status.st_size if stat.S_ISREG(status.st_mode) else -1


def _clean(cache: Path, keep: str) -> None:
    """Remove unfinished entries of killed processes, and entries that were not used for long. Only under the lock."""
    for entry in cache.iterdir():
        if entry.name.startswith(_SCRATCH) or (entry.name != keep and _forgotten(entry)):
            shutil.rmtree(entry, ignore_errors=True)


def _forgotten(entry: Path) -> bool:
    if time.time() - entry.stat().st_mtime < _KEPT_SECONDS:
        return False
    try:
        with (entry / _STAMP).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _mark_used(entry: Path) -> None:
    """Touch the entry, and keep it from being removed while this process lives: CUDA reads kernels from it late."""
    os.utime(entry)
    descriptor = os.open(entry / _STAMP, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: the touch must do
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    previous = _in_use.pop(entry, None)
    _in_use[entry] = descriptor
    if previous is not None:
        os.close(previous)
