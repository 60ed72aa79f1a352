"""Writes the objects of a store at a URI, by way of fsspec."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from upath import UPath

from aoti_serve.errors import StoreFailed
from aoti_serve.folders import make_private
from aoti_serve.weights.files.index import file_digest
from aoti_serve.weights.free_space import check_room
from aoti_serve.weights.sources.uri import scrubbed, shown_uri
from aoti_serve.weights.store.disk import Disk
from aoti_serve.weights.store.layout import ByteRange, record_name
from aoti_serve.weights.store.objects.objects import Objects

TAKEN = "taken"


class Remote(Objects):
    """Does the same as `Disk` with objects. A small put is one step there, and other processes cannot be locked out.

    Files come and go through a private folder on this host. Raises StoreFailed, whatever the other side raises.
    """

    writes_late = True  # a put that has failed here may still be under way

    def __init__(self, root: UPath, uri: str) -> None:
        super().__init__(root, uri)
        self.incoming = _spool(uri)
        self._lock = threading.Lock()

    def prepare(self) -> None:
        with self._asking():
            self._files.makedirs(self._path("versions"), exist_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a lock against the threads of this process; others cannot be kept out."""
        with self._lock:
            yield

    def write(self, name: str, content: bytes) -> None:
        with self._asking():
            self._files.pipe_file(self._path(name), content)

    write_vital = write

    def write_term(self, content: bytes) -> None:
        self.write("TERM", content)

    def sync(self, folder: str) -> None:
        """A put that has returned is durable."""

    def take(self, number: int) -> None:
        """Claim a number by an object, which stays when the version goes."""
        with self._asking():
            self._files.makedirs(self._path(f"versions/{number}"), exist_ok=True)
            self._files.pipe_file(self._path(f"versions/{number}/{TAKEN}"), b"")

    def burn(self, number: int) -> None:
        """Claim the number, and never use it: an earlier Store may be about to take the same."""
        self.take(number)

    def bring(self, source: Path, name: str) -> str:
        """Store a file, by way of a copy that no other process changes; returns the sha256 of what was sent."""
        with self.held(source, name) as path:
            digest = file_digest(path)
            self.keep(path, name)
        return digest

    @contextmanager
    def held(self, source: Path, name: str) -> Iterator[Path]:
        """A file for reading before it is kept, which no other process changes; it is gone after that."""
        path = source
        if source.parent != self.incoming:
            check_room(source.stat().st_size, self.incoming)
            path = Path(shutil.copyfile(source, self.incoming / f"sent-{os.getpid()}-{name.replace('/', '-')}"))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, held: Path, name: str) -> None:
        """Store what is held under this name."""
        with self._asking():
            self._files.put_file(str(held), self._path(name))

    def keep_parts(self, held: Path, parts: Mapping[str, Sequence[ByteRange]]) -> None:
        """Store the parts of what is held, several at once: of each these bytes, one range behind the other."""
        with held.open("rb") as file:
            self.together(lambda part: self.write(part[0], _joined_ranges(file.fileno(), part[1])), parts.items())

    def erase(self, name: str) -> None:
        """Remove an object, if there is one."""
        with self._asking(), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def clear(self, number: int, spared: Collection[str] = ()) -> None:
        """Remove a version's objects, but for the spared ones; its number stays taken."""
        self.erase(record_name(number))  # without it, the rest is a leftover
        left = set(self.listed(number)) - {f"versions/{number}/{TAKEN}", *spared}
        with self._asking(), suppress(FileNotFoundError):
            self._files.rm([self._path(name) for name in left] if left else [])

    def forget(self, number: int, spared: Collection[str] = ()) -> None:
        """Remove a version and its number; the number stays taken if a file of it is spared."""
        self.clear(number, spared)
        if any(name.startswith(f"versions/{number}/") for name in spared):
            return
        self.erase(f"versions/{number}/{TAKEN}")
        with suppress(Exception):  # there is a folder only where there are folders
            self._files.rmdir(self._path(f"versions/{number}"))


def place_of(root: str | Path | UPath) -> Disk | Remote:
    """The files of a store in a folder, or the objects of one at a URI. Raises StoreFailed."""
    if isinstance(root, Path):
        return Disk(root)
    path = _uri_path(root) if isinstance(root, str) else root
    return Disk(Path(path.path)) if path.protocol in ("", "file", "local") else Remote(path, str(root))


def _uri_path(root: str) -> UPath:
    try:
        if "::" in root:
            raise ValueError("it is a chain of URIs")
        return UPath(root)
    except (ValueError, ImportError) as error:
        raise StoreFailed(path=shown_uri(root), detail=scrubbed(str(error), root)) from None


def _spool(uri: str) -> Path:
    """A private folder on this host for one store. It is always the same, so that the next Store can clean it."""
    parent = Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir())
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    folder = parent / f"aoti-serve-{os.getuid()}" / name
    parent.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        if not make_private(path):
            raise StoreFailed(path=path, detail="it is not a private folder of this user; remove it")
    return folder


def _joined_ranges(descriptor: int, ranges: Sequence[ByteRange]) -> bytes:
    return b"".join(os.pread(descriptor, end - begin, begin) for begin, end in ranges)
