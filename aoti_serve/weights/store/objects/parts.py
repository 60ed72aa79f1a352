"""How a version is kept at a URI: what stored ones have of it stays there, the rest goes into parts of a fitting size.

An object cannot be changed, nor get holes. So a version shares nothing with an object of which it needs little: it
takes that into a part of its own, and the object goes with the versions that need more of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aoti_serve.weights.store.layout import ByteRange, Layout, Piece, part_file_name
from aoti_serve.weights.store.objects.blocks import OWN_BLOCK, FileBlocks
from aoti_serve.weights.store.sharing import BLOCK_BYTES, MOST_PIECES, SharedRun, joined_runs

LEAST_PART_BYTES, MOST_PART_BYTES = 8 * 2**20, 32 * 2**20
USUAL_PARTS = 256
LEAST_NEEDED = 1 / 4  # of an object, for a version to share with it
MOST_OBJECTS = 512  # with which a version shares, those first of which it needs most: each is a request when it is read


class LenderBlocks(NamedTuple):
    """A stored version from which a new one may borrow."""

    layout: Layout
    blocks: FileBlocks


class PartedLayout(NamedTuple):
    """`parts` are the bytes of the file, from and to, that make up each part; `own_blocks` the bytes of blocks.bin."""

    layout: Layout
    parts: dict[str, list[ByteRange]]
    own_blocks: bytes


def parted_layout(
    number: int, blocks: FileBlocks, lenders: Sequence[LenderBlocks], sizes: Mapping[str, int]
) -> PartedLayout:
    """The layout of a new version's file. `sizes` are those of the objects that are there."""
    runs = _worthwhile(joined_runs(_shared_runs(blocks, lenders)), sizes)
    own = _own(blocks, runs)
    lengths = np.diff(blocks.edges)[own]
    before = np.cumsum(lengths) - lengths
    part = before // part_bytes(int(blocks.edges[-1]))
    table = np.empty(len(own), OWN_BLOCK)
    table["part"], table["length"], table["digest"] = part, lengths, blocks.digests[own]
    pieces, parts = {run.begin: run.piece for run in runs}, dict[str, list[ByteRange]]()
    for begin, piece in _own_pieces(number, blocks, own, part, before):
        pieces[begin] = piece
        parts.setdefault(piece.file, []).append((begin, begin + piece.length))
    return PartedLayout(Layout(pieces[begin] for begin in sorted(pieces)), parts, table.tobytes())


def part_bytes(nbytes: int) -> int:
    """How large the parts of a file are: large enough for few requests, and small enough to be held in memory."""
    return min(max(nbytes // USUAL_PARTS, LEAST_PART_BYTES), MOST_PART_BYTES)


def _shared_runs(blocks: FileBlocks, lenders: Sequence[LenderBlocks]) -> Iterator[SharedRun]:
    for name, region in blocks.regions.items():
        found = [
            (lender, same) for lender in lenders if (same := _same(name, blocks, region, lender.blocks)) is not None
        ]
        if found:
            lender, same = max(found, key=lambda each: int(each[1].sum()))
            yield from _runs(blocks, region, lender, lender.blocks.regions[name], same)


def _same(name: str, blocks: FileBlocks, region: ByteRange, other: FileBlocks) -> NDArray[np.bool_] | None:
    """Which blocks of a tensor are equal in both; None if it is not there with so many bytes."""
    there = other.regions.get(name)
    if there is None or _nbytes(blocks, region) != _nbytes(other, there):
        return None
    same: NDArray[np.bool_] = (blocks.digests[slice(*region)] == other.digests[slice(*there)]).all(axis=1)
    return same


def _nbytes(blocks: FileBlocks, region: ByteRange) -> int:
    return int(blocks.edges[region[1]] - blocks.edges[region[0]])


def _runs(
    blocks: FileBlocks, region: ByteRange, lender: LenderBlocks, there: ByteRange, same: NDArray[np.bool_]
) -> Iterator[SharedRun]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        at = int(blocks.edges[region[0] + first])
        begin, end = (int(lender.blocks.edges[there[0] + block]) for block in (first, last))
        for piece in lender.layout.cut(begin, end):
            yield SharedRun(at, piece)
            at += piece.length


def _worthwhile(runs: Iterator[SharedRun], sizes: Mapping[str, int]) -> list[SharedRun]:
    """Those in objects that are there, and of which the file needs so much that they are worth to be kept for it."""
    kept = [run for run in runs if run.piece.end <= sizes.get(run.piece.file, 0) and run.piece.length >= BLOCK_BYTES]
    needed = Counter[str]()
    for run in kept:
        needed[run.piece.file] += run.piece.length
    most = needed.most_common(MOST_OBJECTS)
    files = {file for file, nbytes in most if nbytes >= sizes[file] * LEAST_NEEDED}
    kept = [run for run in kept if run.piece.file in files]
    return kept if 2 * len(kept) <= MOST_PIECES else []


def _own(blocks: FileBlocks, runs: Sequence[SharedRun]) -> NDArray[np.intp]:
    """The numbers of the blocks that are in no run."""
    own = np.ones(len(blocks.digests), bool)
    ends = np.array([(run.begin, run.end) for run in runs], np.int64).reshape(-1, 2)
    for first, last in np.searchsorted(blocks.edges, ends).tolist():
        own[first:last] = False
    return np.flatnonzero(own)


def _own_pieces(
    number: int, blocks: FileBlocks, own: NDArray[np.intp], part: NDArray[Any], before: NDArray[Any]
) -> Iterator[tuple[int, Piece]]:
    """Where each stretch of own blocks begins in the file, and the piece that it becomes."""
    cuts = np.flatnonzero((np.diff(own) != 1) | (np.diff(part) != 0)) + 1
    for first, last in pairwise([0, *cuts.tolist(), len(own)] if len(own) else []):
        begin, end = int(blocks.edges[own[first]]), int(blocks.edges[own[last - 1] + 1])
        offset = before[first] - before[np.searchsorted(part, part[first])]
        yield begin, Piece(part_file_name(number, int(part[first])), int(offset), end - begin)
