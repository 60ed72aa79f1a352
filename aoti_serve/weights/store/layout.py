"""Where the bytes of a version lie in a store.

A version is one file, `versions/<n>/weights.safetensors`, unless it shares much with others that are stored. Then its
`versions/<n>/pieces.json` names the pieces that its file is made of: bytes in the files of others, and those that none
of them has, in `versions/<n>/own.bin`. A file that a piece lies in stays when its own version goes.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias, cast

from pydantic import NonNegativeInt, PositiveInt, TypeAdapter
from upath import UPath

from aoti_serve.errors import StoreDamaged
from aoti_serve.weights.sources.uri import shown_uri

WEIGHTS, OWN, PIECES, RECORD = "weights.safetensors", "own.bin", "pieces.json", "version.json"
GOLDEN, ASSETS, STAGED = "golden.safetensors", "assets.safetensors", "staged"
HOMES = (WEIGHTS, OWN)  # what pieces lie in
WINDOW_BYTES = 2**20  # read at a time of a file of which small pieces are wanted
ByteRange: TypeAlias = "tuple[int, int]"  # from and to
_FILES = TypeAdapter(tuple[str, ...])
_PLACES = TypeAdapter(tuple[tuple[NonNegativeInt, NonNegativeInt, PositiveInt], ...])
_HOME = re.compile(rf"versions/[1-9][0-9]*/({'|'.join(map(re.escape, HOMES))})")


class Piece(NamedTuple):
    """`length` bytes of a file of the store, from `begin` on. `file` is relative to the store."""

    file: str
    begin: int
    length: int

    @property
    def end(self) -> int:
        return self.begin + self.length


class Layout:
    """The pieces of one version's file, in order."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces = tuple(pieces)
        self._ends = list(accumulate(piece.length for piece in self.pieces))

    @classmethod
    def whole(cls, number: int, nbytes: int) -> Layout:
        """That of a version which is one file."""
        return cls([Piece(weights_name(number), 0, nbytes)] if nbytes else [])

    @classmethod
    def parse(cls, content: bytes) -> Layout:
        """Read what `content` has written. Raises ValueError."""
        files, pieces = files_in(content), _PLACES.validate_json(content.partition(b"\n")[2])
        if any(at >= len(files) for at, _, _ in pieces):
            raise ValueError("a piece lies in no file of a version")
        return cls(Piece(files[at], begin, length) for at, begin, length in pieces)

    @property
    def content(self) -> bytes:
        """The bytes of pieces.json: a line with the files, one with which of them, from where, how much, of each piece.

        Which files are needed is so read without the pieces, of which there may be many.
        """
        files = {file: at for at, file in enumerate(self.files)}
        pieces = tuple((files[file], begin, length) for file, begin, length in self.pieces)
        return _FILES.dump_json(tuple(files)) + b"\n" + _PLACES.dump_json(pieces)

    @property
    def nbytes(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def files(self) -> tuple[str, ...]:
        """The files that its pieces lie in, each once."""
        return tuple(dict.fromkeys(piece.file for piece in self.pieces))

    def cut(self, begin: int, end: int) -> Iterator[Piece]:
        """The pieces of the version's bytes from `begin` to `end`."""
        at = bisect_right(self._ends, begin)
        while begin < end and at < len(self.pieces):
            file, start, length = self.pieces[at]
            skipped = begin - (self._ends[at] - length)
            wanted = min(end - begin, length - skipped)
            yield Piece(file, start + skipped, wanted)
            begin, at = begin + wanted, at + 1


def files_in(content: bytes) -> tuple[str, ...]:
    """The files in which the pieces of a pieces.json lie. Raises ValueError."""
    files = _FILES.validate_json(content.partition(b"\n")[0])
    if not all(map(_HOME.fullmatch, files)):
        raise ValueError("a piece lies in no file of a version")
    return files


class PiecedFile(io.RawIOBase):
    """The file of a version that is kept in pieces, for reading; `open_file` opens what they lie in, once each.

    Raises OSError if a piece is not there.
    """

    def __init__(self, layout: Layout, open_file: Callable[[str], BinaryIO]) -> None:
        super().__init__()
        self._layout = layout
        self._open_file = open_file
        self._opened: dict[str, io.BufferedReader] = {}
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._layout.nbytes}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._layout.nbytes if size is None or size < 0 else min(self._at + size, self._layout.nbytes)
        parts = [self._read(piece) for piece in self._layout.cut(self._at, end)]
        self._at = max(self._at, end)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        for file in self._opened.values():
            file.close()
        super().close()

    def _read(self, piece: Piece) -> bytes:
        file = self._opened.get(piece.file)
        if file is None:
            raw = cast(io.RawIOBase, self._open_file(piece.file))
            file = self._opened[piece.file] = io.BufferedReader(raw, WINDOW_BYTES)
        file.seek(piece.begin)
        found = file.read(piece.length)
        if len(found) < piece.length:
            raise OSError(f"{piece.file} ends before byte {piece.end}, where a piece of it lies")
        return found


def open_stored(path: Path | UPath) -> BinaryIO:
    """A file of a store from its first byte, also that of a version that is kept in pieces.

    Raises OSError, and StoreDamaged if the record of the pieces is none.
    """
    layout = _layout_beside(path) if path.name == WEIGHTS else None
    if layout is None:
        return path.open("rb")
    root = path.parents[2]
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


def pieced(layout: Layout, open_file: Callable[[str], BinaryIO]) -> BinaryIO:
    """A PiecedFile, as what it is used for."""
    return cast(BinaryIO, PiecedFile(layout, open_file))


def number_of(name: str) -> int:
    """The version in whose folder a file lies."""
    return int(name.split("/")[1])


def weights_name(number: int) -> str:
    return f"versions/{number}/{WEIGHTS}"


def own_name(number: int) -> str:
    """The bytes of a version that lie in no other's file."""
    return f"versions/{number}/{OWN}"


def pieces_name(number: int) -> str:
    return f"versions/{number}/{PIECES}"


def record_name(number: int) -> str:
    return f"versions/{number}/{RECORD}"


def golden_name(number: int) -> str:
    """The golden requests that came with a version."""
    return f"versions/{number}/{GOLDEN}"


def assets_name(number: int) -> str:
    """The files that the processor reads with a version."""
    return f"versions/{number}/{ASSETS}"


def staged_name(number: int) -> str:
    """The mark of a version that was not committed yet."""
    return f"versions/{number}/{STAGED}"
