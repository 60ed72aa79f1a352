"""The files of a store in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from aoti_serve.errors import StoreFailed
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import file_chunks, file_digest
from aoti_serve.weights.free_space import check_room
from aoti_serve.weights.store.layout import ByteRange, Layout, pieced
from aoti_serve.weights.store.reserve import Reserve

LOCK_WAIT_S = 60.0
LOCK_POLL_S = 0.02
STAT_BLOCK_BYTES = 512  # whatever the disk's own blocks are
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Disk:
    """Reads and writes the files of one folder, by names in it. Every write is fsynced and renamed: a crash leaves old
    or new, whole. Raises OSError as it comes, and StoreFailed where there is more to say.
    """

    writes_late = False  # a write that has failed here is not done later

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.shown = str(self.root)
        self.incoming = self.root / "incoming"
        self._reserve = Reserve(self.root / "RESERVE")

    def prepare(self) -> None:
        """Make the folders. A root that is made here is open to its user only."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in ("versions", "incoming"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # a folder that we may pass through, but not read
            self.sync("..")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the store against all processes; the kernel takes it from one that has died."""
        path = self.root / "LOCK"
        # Its own flock, since filelock falls back to one that outlives its holder.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with suppress(OSError):  # of older stores: a process that can read the file can hold the lock
                os.fchmod(descriptor, 0o600)
            _lock(descriptor, path)
            yield
        finally:
            with suppress(OSError):  # what was done in here is done
                os.close(descriptor)

    def read(self, name: str) -> bytes | None:
        """None if there is no such file."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file in one step; `sync` its folder to have it survive a power cut."""
        path = self.root / name
        scratch = path.with_name(path.name + ".tmp")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise

    def write_vital(self, name: str, content: bytes) -> None:
        """As `write`, of a record of at most a block: if the disk is full, the reserve is given back for it."""
        try:
            self.write(name, content)
        except OSError as error:
            if error.errno not in DISK_FULL or not self._reserve.give_back():
                raise
            self.write(name, content)
        self._reserve.take()

    def write_term(self, content: bytes) -> None:
        """Replace TERM, in place if nothing else is left: a full disk must not keep a coordinator from coming back."""
        try:
            self.write_vital("TERM", content)
        except OSError as error:
            path = self.root / "TERM"
            if error.errno not in DISK_FULL or not path.exists():
                raise
            with path.open("r+b", buffering=0) as file:
                file.write(content)  # of the same length: a single write of a few bytes is made, or not
                os.fsync(file.fileno())

    def sync(self, folder: str) -> None:
        descriptor = os.open(self.root / folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def numbers(self, having: str = ".") -> list[int]:
        """The numbers that are taken; with `having`, those of versions with a file of that name."""
        folders = (path for path in (self.root / "versions").iterdir() if path.name.isdecimal())
        return [int(path.name) for path in folders if (path / having).exists()]

    def take(self, number: int) -> None:
        """Claim a number by an empty folder, which stays when the version goes: no number is given out twice."""
        (self.root / "versions" / str(number)).mkdir()

    def burn(self, number: int) -> None:
        """Do nothing: the lock keeps an earlier Store from taking a number."""

    def bring(self, source: Path, name: str) -> str:
        """Store a file, an upload by moving it; returns the sha256 of what then lies there."""
        with self.held(source, name) as path:
            self.keep(path, name)
            return file_digest(path)

    @contextmanager
    def held(self, source: Path, name: str) -> Iterator[Path]:
        """A file for reading before it is kept, which no other process changes: an upload is moved, others copied."""
        target = self.root / name
        if source.parent == self.incoming:
            source.rename(target)
        else:
            check_room(source.stat().st_size, target.parent)
            shutil.copyfile(source, target)
        yield target

    def keep(self, held: Path, name: str) -> None:
        """Store what is held under this name."""
        assert held == self.root / name
        with held.open("rb") as file:
            os.fsync(file.fileno())

    def keep_parts(self, held: Path, name: str, parts: Iterable[ByteRange]) -> None:
        """Store of what is held only these bytes, one part behind the other, and drop the rest."""
        _copy_parts(held, self.root / name, parts)
        held.unlink()

    def thin(self, name: str, parts: Iterable[ByteRange]) -> None:
        """Replace a file by one that holds these bytes where they were, and nothing, which takes no room, elsewhere."""
        path = self.root / name
        scratch = path.with_name(path.name + ".tmp")
        try:
            _copy_parts(path, scratch, parts, in_place=True)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        return {name: self.size(name) for name in names}

    def rooms(self, names: Collection[str]) -> dict[str, int]:
        """The room of each file, of those that are there."""
        found = {}
        for name in names:
            with suppress(OSError):
                found[name] = self.room(name)
        return found

    def room(self, name: str) -> int:
        """The bytes that a file takes on the disk; holes take none."""
        found = (self.root / name).stat()
        return min(found.st_size, found.st_blocks * STAT_BLOCK_BYTES)

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def pieced(self, layout: Layout) -> BinaryIO:
        """The file of a version that is kept in pieces."""
        return pieced(layout, self.open)

    def erase(self, name: str) -> None:
        """Remove a file, if there is one."""
        (self.root / name).unlink(missing_ok=True)

    def clear(self, number: int, spared: Collection[str] = ()) -> None:
        """Remove a version's files, but for the spared ones; its number stays taken."""
        folder = self.root / "versions" / str(number)
        (folder / "version.json").unlink(missing_ok=True)  # without it, the rest is a leftover
        for path in folder.iterdir():
            if f"versions/{number}/{path.name}" not in spared:
                path.unlink()

    def forget(self, number: int, spared: Collection[str] = ()) -> None:
        """Remove a version, and its number unless a file of it is spared."""
        self.clear(number, spared)
        folder = self.root / "versions" / str(number)
        if not any(folder.iterdir()):
            folder.rmdir()


def _copy_parts(source: Path, target: Path, parts: Iterable[ByteRange], *, in_place: bool = False) -> None:
    with source.open("rb") as file, target.open("wb") as copy:
        for begin, end in parts:
            copy.seek(begin if in_place else copy.tell())
            copy.writelines(file_chunks(file, Span("", (), begin, end)))
        copy.truncate(source.stat().st_size if in_place else copy.tell())
        copy.flush()
        os.fsync(copy.fileno())


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.monotonic() >= deadline:
            detail = f"{path} is locked for {LOCK_WAIT_S:g} s by another process, which is stopped; continue or end it"
            raise StoreFailed(path=path.parent, detail=detail)
        time.sleep(LOCK_POLL_S)
