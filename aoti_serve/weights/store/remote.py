"""The objects of a store at a URI, by way of fsspec."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from upath import UPath

from aoti_serve.errors import StoreFailed
from aoti_serve.weights.files.index import file_digest
from aoti_serve.weights.sources.uri import scrubbed, shown_uri
from aoti_serve.weights.store.disk import Disk, check_room
from aoti_serve.weights.store.layout import ASSETS, GOLDEN, OWN, PIECES, RECORD, STAGED, WEIGHTS


class Remote:
    """Does the same as `Disk` with objects. A small put is one step there, and other processes cannot be locked out.

    Files come and go through a private folder on this host. Raises StoreFailed, whatever the other side raises.
    """

    writes_late = True  # a put that has failed here may still be under way

    def __init__(self, root: UPath, uri: str) -> None:
        """`uri` is how the root was written; UPath may write it in another way."""
        self.root = root
        self._uri = uri
        self.shown = shown_uri(self._uri)
        with self._asking():
            self._files, self._base = root.fs, root.path.rstrip("/")
        self.incoming = _spool(self._uri)
        self._lock = threading.Lock()

    def prepare(self) -> None:
        with self._asking():
            self._files.makedirs(self._path("versions"), exist_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a lock against the threads of this process; others cannot be kept out."""
        with self._lock:
            yield

    def read(self, name: str) -> bytes | None:
        with self._asking():
            try:
                return cast(bytes, self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        with self._asking():
            self._files.pipe_file(self._path(name), content)

    write_vital = write

    def write_term(self, content: bytes) -> None:
        self.write("TERM", content)

    def sync(self, folder: str) -> None:
        """A put that has returned is durable."""

    def numbers(self, having: str | None = None) -> list[int]:
        with self._asking():
            self._files.invalidate_cache()
            found = [path.rstrip("/").split("/")[-2:] for path in self._files.find(self._path("versions"))]
        return list({int(number) for number, name in found if number.isdecimal() and having in (None, name)})

    def take(self, number: int) -> None:
        """Claim a number by an object, which stays when the version goes."""
        with self._asking():
            self._files.makedirs(self._path(f"versions/{number}"), exist_ok=True)
            self._files.pipe_file(self._path(f"versions/{number}/taken"), b"")

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

    def room(self, name: str) -> int:
        """The bytes that an object takes."""
        return self.size(name)

    def size(self, name: str) -> int:
        with self._asking():
            self._files.invalidate_cache()
            return int(self._files.info(self._path(name))["size"])

    def open(self, name: str) -> BinaryIO:
        """Each read is one request; read much at a time."""
        with self._asking():
            return cast(BinaryIO, self._files.open(self._path(name), "rb", cache_type="none"))

    def erase(self, name: str) -> None:
        """Remove an object, if there is one."""
        with self._asking(), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def clear(self, number: int, spared: Collection[str] = ()) -> None:
        """Remove a version's files, but for the spared ones; its number stays taken."""
        for name in (RECORD, WEIGHTS, OWN, PIECES, GOLDEN, ASSETS, STAGED):  # without the first, it is a leftover
            if f"versions/{number}/{name}" not in spared:
                self.erase(f"versions/{number}/{name}")

    def forget(self, number: int, spared: Collection[str] = ()) -> None:
        """Remove a version and its number; the number stays taken if a file of it is spared."""
        self.clear(number, spared)
        if any(name.startswith(f"versions/{number}/") for name in spared):
            return
        self.erase(f"versions/{number}/taken")
        with suppress(Exception):  # there is a folder only where there are folders
            self._files.rmdir(self._path(f"versions/{number}"))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn whatever a backend raises into StoreFailed: no credentials, no network, no bucket, a missing package."""
        try:
            yield
        except Exception as error:
            detail = scrubbed(f"{type(error).__name__}: {error}", self._uri)
            raise StoreFailed(path=self.shown, detail=detail) from None


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
    for path in (folder.parent, folder):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=path is folder.parent)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise StoreFailed(path=path, detail="it is not a private folder of this user; remove it")
    return folder
