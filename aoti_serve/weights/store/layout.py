"""Where the bytes of a version lie in a store.

A version is one file, `versions/<n>/weights.safetensors`, unless it shares much with others that are stored. Then its
`versions/<n>/pieces.json` names the pieces that its file is made of: bytes in the files of others, and those that none
of them has, in `versions/<n>/own.bin`. A file that a piece lies in stays when its own version goes. At a
URI those bytes are in `versions/<n>/part-<k>.bin`, which are objects of a fitting size.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import BinaryIO, NamedTuple, TypeAlias, cast

from pydantic import NonNegativeInt, PositiveInt, TypeAdapter

WEIGHTS, OWN, PIECES, RECORD = "weights.safetensors", "own.bin", "pieces.json", "version.json"
GOLDEN, ASSETS = "golden.safetensors", "assets.safetensors"
STAGED, BLOCKS = "staged", "blocks.bin"
HOMES = (WEIGHTS, OWN)  # what pieces lie in
WINDOW_BYTES = 2**20  # read at a time of a file of which small pieces are wanted
ByteRange: TypeAlias = "tuple[int, int]"  # from and to
_FILES = TypeAdapter(tuple[str, ...])
_PLACES = TypeAdapter(tuple[tuple[NonNegativeInt, NonNegativeInt, PositiveInt], ...])
_PART = re.compile(r"versions/[1-9][0-9]*/part-(0|[1-9][0-9]*)\.bin")
_HOME = re.compile(rf"versions/[1-9][0-9]*/({'|'.join(map(re.escape, HOMES))})|{_PART.pattern}")


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
        content = self._content(self._at, end) if end > self._at else b""
        self._at = max(self._at, end)
        return content

    def close(self) -> None:
        for file in self._opened.values():
            file.close()
        super().close()

    def _content(self, begin: int, end: int) -> bytes:
        parts = [self._read(piece) for piece in self._layout.cut(begin, end)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

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


def part_file_name(number: int, part: int) -> str:
    """A part of the bytes of a version that were in no other's objects."""
    return f"versions/{number}/part-{part}.bin"


def part_of(file: str) -> int | None:
    """Which part a file is; None if it is none."""
    found = _PART.fullmatch(file)
    return int(found[1]) if found else None


def blocks_name(number: int) -> str:
    """The digests of what lies in a version's parts."""
    return f"versions/{number}/{BLOCKS}"


def staged_name(number: int) -> str:
    """The mark of a version that was not committed yet."""
    return f"versions/{number}/{STAGED}"
