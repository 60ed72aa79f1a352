"""Reads the objects of a store at a URI, by way of fsspec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from upath import UPath

from aoti_serve.errors import StoreDamaged, StoreFailed
from aoti_serve.weights.sources.uri import scrubbed, shown_uri
from aoti_serve.weights.store.layout import PIECES, WEIGHTS, Layout, Piece, pieced
from aoti_serve.weights.store.objects.reading import PartedFile

T = TypeVar("T")
Item = TypeVar("Item")
AT_ONCE = 8  # requests


class Objects:
    """Reads objects by their names in the store. Raises StoreFailed, whatever the other side raises."""

    def __init__(self, root: UPath, uri: str) -> None:
        """`uri` is how the root was written; UPath may write it in another way."""
        self.root = root
        self._uri = uri
        self.shown = shown_uri(self._uri)
        with self._asking():
            self._files, self._base = root.fs, root.path.rstrip("/")

    def read(self, name: str) -> bytes | None:
        with self._asking():
            try:
                return cast(bytes, self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def fetch(self, pieces: Collection[Piece]) -> list[bytes]:
        """The bytes of each piece, by one request each, several at once."""
        return self.together(self._fetch, pieces)

    def numbers(self, having: str | None = None) -> list[int]:
        found = [name.split("/")[1:3] for name in self.listed()]
        return list({int(number) for number, name in found if number.isdecimal() and having in (None, name)})

    def listed(self, number: int | None = None) -> dict[str, int]:
        """The objects of all versions, or of one, and the bytes of each."""
        with self._asking():
            self._files.invalidate_cache()
            folder = "versions" if number is None else f"versions/{number}"
            found = self._files.find(self._path(folder), detail=True)
            return {f"versions/{'/'.join(path.rstrip('/').split('/')[-2:])}": at["size"] for path, at in found.items()}

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """The bytes of each object, all of which must be there."""
        if len(names) <= 1:  # a listing may be long
            return {name: self.size(name) for name in names}
        listed = self.listed()
        if missing := [name for name in names if name not in listed]:
            raise StoreFailed(path=self.shown, detail=f"{missing[0]} is not there")
        return {name: listed[name] for name in names}

    def rooms(self, names: Collection[str]) -> dict[str, int]:
        """The bytes that each object takes, of those that are there."""
        listed = self.listed()
        return {name: listed[name] for name in names if name in listed}

    def size(self, name: str) -> int:
        with self._asking():
            self._files.invalidate_cache()
            return int(self._files.info(self._path(name))["size"])

    def open(self, name: str) -> BinaryIO:
        """Each read is one request; read much at a time."""
        with self._asking():
            return cast(BinaryIO, self._files.open(self._path(name), "rb", cache_type="none"))

    def pieced(self, layout: Layout) -> BinaryIO:
        """The file of a version that is kept in pieces."""
        return cast(BinaryIO, PartedFile(layout, self.fetch))

    def together(self, ask: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
        """Ask for each item, several at once; raises the first error, once all that began have ended."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(ask, items))

    def _fetch(self, piece: Piece) -> bytes:
        with self._asking():
            found = cast(bytes, self._files.cat_file(self._path(piece.file), start=piece.begin, end=piece.end))
        if len(found) < piece.length:
            detail = f"{piece.file} ends before byte {piece.end}, where a piece of it lies"
            raise StoreFailed(path=self.shown, detail=detail)
        return found

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


def open_stored(path: Path | UPath) -> BinaryIO:
    """A file of a store from its first byte, also that of a version that is kept in pieces.

    Raises OSError, StoreFailed, and StoreDamaged if the record of the pieces is none.
    """
    layout = _layout_beside(path) if path.name == WEIGHTS else None
    if layout is None:
        return path.open("rb")
    root = path.parents[2]
    if isinstance(root, UPath) and not isinstance(root, Path):
        return Objects(root, str(root)).pieced(layout)
    return pieced(layout, lambda name: (root / name).open("rb"))


def _layout_beside(path: Path | UPath) -> Layout | None:
    try:
        return Layout.parse(path.with_name(PIECES).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        name = f"versions/{path.parent.name}/{PIECES}"
        detail = "it is no record of pieces"
        raise StoreDamaged(path=shown_uri(str(path.parents[2])), file=name, detail=detail) from error
