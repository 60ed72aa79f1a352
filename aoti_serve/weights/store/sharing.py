"""What a file of weights shares with versions that are stored: found by comparing bytes, tensor by tensor.

A tensor is compared with the one of its name, in blocks, so that a few changed rows cost a few blocks. Comparing costs
less than a digest would, and most of what a training has changed is seen by a few blocks of each tensor. It also finds
no piece in a file that is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import numpy as np

from aoti_serve.signature.tensors import Span
from aoti_serve.weights.store.layout import ByteRange, Layout, Piece

BLOCK_BYTES = 4096  # as of most disks
COMPARED_BYTES = 256 * BLOCK_BYTES
PROBES = 8  # blocks of a tensor that are compared first; if none is equal, the tensor counts as changed
MOST_MISSES = 32  # tensors without an equal block, after which another version than the first is not looked at further
MOST_PIECES = 2**17  # more would take longer to read than one file
LEAST_SAVED = 32 * 2**10
LEAST_SHARE = 1 / 16  # of the file
HEADER_REGION = "__metadata__"  # which the format lets no tensor be called


class SharedRun(NamedTuple):
    """Bytes of a file, from `begin` on, that lie in a stored `piece`."""

    begin: int
    piece: Piece

    @property
    def end(self) -> int:
        return self.begin + self.piece.length


class SharedLayout(NamedTuple):
    """The layout of a file, and the bytes of it, from and to, that make up `own_file` one behind the other."""

    layout: Layout
    own: list[ByteRange]


class StoredFile:
    """The open file of a stored version, for comparing."""

    def __init__(self, layout: Layout, index: Mapping[str, Span], file: BinaryIO) -> None:
        self._layout = layout
        self._regions = regions_of(index, layout.nbytes)
        self._file = file
        self.misses = 0

    def place(self, name: str, length: int) -> int | None:
        """Where the tensor begins, if it is there with so many bytes."""
        begin, end = self._regions.get(name, (0, -1))
        return begin if end - begin == length else None

    def read(self, begin: int, length: int) -> bytes:
        """The bytes, or fewer where they cannot be read."""
        with suppress(OSError):
            self._file.seek(begin)
            return self._file.read(length)
        return b""

    def runs(self, at: int, begin: int, length: int) -> Iterator[SharedRun]:
        """Where its `length` bytes from `begin` on lie, as those of a file from `at` on."""
        for piece in self._layout.cut(begin, begin + length):
            yield SharedRun(at, piece)
            at += piece.length


def regions_of(index: Mapping[str, Span], nbytes: int) -> dict[str, ByteRange]:
    """From and to of the header and of each tensor, in the order of their bytes, of which none is left out."""
    spans = sorted((span.begin, span.end, name) for name, span in index.items() if span.end > span.begin)
    header = {HEADER_REGION: (0, spans[0][0] if spans else nbytes)}
    return header | {name: (begin, end) for begin, end, name in spans}


def shared_layout(
    file: BinaryIO, index: Mapping[str, Span], nbytes: int, own_file: str, stored: Sequence[StoredFile]
) -> SharedLayout | None:
    """The layout of a file of `nbytes` that keeps in `own_file` what is in none of the stored ones.

    None if that saves too little, or the file would lie in too many pieces.
    """
    found = (run for region in regions_of(index, nbytes).items() for run in _region_runs(file, *region, stored))
    runs = [run for run in joined_runs(found) if run.piece.length >= BLOCK_BYTES]
    saved = sum(run.piece.length for run in runs)
    if saved < max(LEAST_SAVED, nbytes * LEAST_SHARE) or 2 * len(runs) > MOST_PIECES:
        return None
    own = _gaps(runs, nbytes)
    return SharedLayout(Layout(_in_order(runs, own, own_file)), own)


def _region_runs(file: BinaryIO, name: str, region: ByteRange, stored: Sequence[StoredFile]) -> Iterator[SharedRun]:
    begin, length = region[0], region[1] - region[0]
    found = _most_alike(file, name, begin, length, stored)
    if found is not None:
        other, start = found
        for offset, same in _equal(file, begin, other, start, length):
            yield from other.runs(begin + offset, start + offset, same)


def _most_alike(
    file: BinaryIO, name: str, begin: int, length: int, stored: Sequence[StoredFile]
) -> tuple[StoredFile, int] | None:
    """The stored file of whose tensor most probes are equal, and where that begins; the first of those alike."""
    probes = [(offset, _read(file, begin + offset, BLOCK_BYTES, length - offset)) for offset in _probes(length)]
    best, most = None, 0
    for other in stored:
        start = other.place(name, length) if other is stored[0] or other.misses < MOST_MISSES else None
        hits = 0 if start is None else sum(other.read(start + at, len(probe)) == probe for at, probe in probes)
        other.misses = 0 if hits else other.misses + 1
        if start is not None and hits > most:
            best, most = (other, start), hits
        if most == len(probes):
            break
    return best


def _probes(length: int) -> list[int]:
    blocks = -(-length // BLOCK_BYTES)
    return sorted({BLOCK_BYTES * (number * (blocks - 1) // (PROBES - 1)) for number in range(PROBES)})


def _equal(file: BinaryIO, begin: int, other: StoredFile, start: int, length: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of what is equal in both, in whole blocks."""
    for offset in range(0, length, COMPARED_BYTES):
        one = _read(file, begin + offset, COMPARED_BYTES, length - offset)
        two = other.read(start + offset, len(one))
        if one == two:
            yield offset, len(one)
        elif len(one) == len(two):
            for first, last in _equal_blocks(one, two):
                yield offset + first, min(last, len(one)) - first


def _equal_blocks(one: bytes, two: bytes) -> list[ByteRange]:
    blocks = -(-len(one) // BLOCK_BYTES)
    same = np.zeros(blocks + 2, np.int8)
    whole = len(one) // BLOCK_BYTES
    rows = [
        np.frombuffer(side, np.int64, whole * BLOCK_BYTES // 8).reshape(whole, BLOCK_BYTES // 8) for side in (one, two)
    ]
    same[1 : whole + 1] = (rows[0] == rows[1]).all(axis=1)
    if whole < blocks:
        same[blocks] = one[whole * BLOCK_BYTES :] == two[whole * BLOCK_BYTES :]
    edges = np.flatnonzero(np.diff(same)).reshape(-1, 2) * BLOCK_BYTES
    return [(int(first), int(last)) for first, last in edges]


def joined_runs(runs: Iterable[SharedRun]) -> Iterator[SharedRun]:
    """The runs, with those that go on where the one before ends as one."""
    before: SharedRun | None = None
    for run in runs:
        if before is None:
            before = run
        elif before.end == run.begin and (before.piece.file, before.piece.end) == (run.piece.file, run.piece.begin):
            before = SharedRun(before.begin, before.piece._replace(length=before.piece.length + run.piece.length))
        else:
            yield before
            before = run
    if before is not None:
        yield before


def _gaps(runs: Sequence[SharedRun], nbytes: int) -> list[ByteRange]:
    edges = [0, *(edge for run in runs for edge in (run.begin, run.end)), nbytes]
    return [(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True) if end > begin]


def _in_order(runs: Sequence[SharedRun], own: Sequence[ByteRange], own_file: str) -> Iterator[Piece]:
    pieces = {run.begin: run.piece for run in runs}
    written = 0
    for begin, end in own:
        pieces[begin] = Piece(own_file, written, end - begin)
        written += end - begin
    return (pieces[begin] for begin in sorted(pieces))


def _read(file: BinaryIO, begin: int, most: int, left: int) -> bytes:
    file.seek(begin)
    return file.read(min(most, left))
