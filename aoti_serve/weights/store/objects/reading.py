"""Reads the file of a version that lies in objects: large ranges, several at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from aoti_serve.weights.store.layout import Layout, Piece, PiecedFile

AHEAD_BYTES = 32 * 2**20  # read at once of a file that is read from one end to the other
LEAST_BYTES = 2**20  # read at once: less would take as long
GAP_BYTES = 2**20  # that nobody wants, and that still cost less than another request
REQUEST_BYTES = 8 * 2**20


class PartedFile(PiecedFile):
    """The file of a version that lies in objects, for reading. `fetch` brings ranges of them, and raises StoreFailed.

    Holds up to 32 MiB that were read ahead.
    """

    def __init__(self, layout: Layout, fetch: Callable[[Sequence[Piece]], list[bytes]]) -> None:
        super().__init__(layout, _never)
        self._fetch = fetch
        self._begin, self._ahead = 0, b""

    def _content(self, begin: int, end: int) -> bytes:
        held_end = self._begin + len(self._ahead)
        if not self._begin <= begin <= end <= held_end:
            goes_on = self._begin <= begin <= held_end and end - begin >= LEAST_BYTES
            until = max(end, min(begin + (AHEAD_BYTES if goes_on else LEAST_BYTES), self._layout.nbytes))
            self._begin, self._ahead = begin, self._fetched(begin, until)
        return self._ahead[begin - self._begin : end - self._begin]

    def _fetched(self, begin: int, end: int) -> bytes:
        pieces = [short for piece in self._layout.cut(begin, end) for short in _shortened(piece)]
        requests = ranges_for(pieces)
        answers = defaultdict[str, list[tuple[Piece, memoryview]]](list)
        for asked, content in zip(requests, self._fetch(requests), strict=True):
            answers[asked.file].append((asked, memoryview(content)))
        return b"".join(_bytes_of(piece, answers[piece.file]) for piece in pieces)


def ranges_for(pieces: Iterable[Piece]) -> list[Piece]:
    """The ranges of objects to ask for: those of pieces, joined where they lie close together, and none too long."""
    ranges = list[Piece]()
    for file, begin, length in sorted(pieces):
        last = ranges[-1] if ranges else None
        end = begin + length
        if last and last.file == file and begin <= last.end + GAP_BYTES and end - last.begin <= REQUEST_BYTES:
            ranges[-1] = Piece(file, last.begin, max(end, last.end) - last.begin)
        else:
            ranges.append(Piece(file, begin, length))
    return ranges


def _shortened(piece: Piece) -> Iterator[Piece]:
    for begin in range(piece.begin, piece.end, REQUEST_BYTES):
        yield Piece(piece.file, begin, min(REQUEST_BYTES, piece.end - begin))


def _bytes_of(piece: Piece, answers: Sequence[tuple[Piece, memoryview]]) -> memoryview:
    asked, content = next(each for each in answers if each[0].begin <= piece.begin and piece.end <= each[0].end)
    return content[piece.begin - asked.begin : piece.end - asked.begin]


def _never(name: str) -> BinaryIO:
    raise AssertionError(f"{name} is read by ranges")
