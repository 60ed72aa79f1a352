"""The digests of a file's blocks: by them a store at a URI finds what is stored, and fetches none of it.

A tensor is cut into blocks from its first byte on, so that tensors of one name and size can be compared wherever they
lie. `blocks.bin` of a version has the digests of what lies in its own parts; those of the rest stand with the others.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aoti_serve.signature.tensors import Span
from aoti_serve.weights.store.layout import ByteRange, Layout, number_of, part_of
from aoti_serve.weights.store.sharing import BLOCK_BYTES, regions_of

DIGEST_BYTES = 16  # of a sha256
OWN_BLOCK = np.dtype([("part", "<u4"), ("length", "<u4"), ("digest", "<u8", 2)])
OwnBlocks: TypeAlias = "NDArray[np.void]"  # of OWN_BLOCK, in the order of the parts
Digests: TypeAlias = "NDArray[np.uint64]"  # two numbers a block
Edges: TypeAlias = "NDArray[np.int64]"  # where blocks begin, and where the last one ends


class FileBlocks(NamedTuple):
    """The blocks of a file: of each tensor from which to which, and of each block its edges and its digest."""

    regions: Mapping[str, ByteRange]
    edges: Edges
    digests: Digests


def digest_blocks(path: Path, index: Mapping[str, Span], nbytes: int) -> FileBlocks:
    """Those of a file on this machine, which is read once."""
    regions, edges = _cut(index, nbytes)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = memoryview(mapped)
        found = b"".join(sha256(content[a:b]).digest()[:DIGEST_BYTES] for a, b in pairwise(edges.tolist()))
        content.release()
    return FileBlocks(regions, edges, np.frombuffer(found, "<u8").reshape(-1, 2))


def stored_blocks(
    layout: Layout, index: Mapping[str, Span], own_blocks: Callable[[int], OwnBlocks | None]
) -> FileBlocks | None:
    """Those of a stored version; `own_blocks` has what is in the parts of a version. None if digests are missing."""
    regions, edges = _cut(index, layout.nbytes)
    tables = dict[str, tuple[Edges, Digests]]()
    for number in {number_of(file) for file in layout.files}:
        own = own_blocks(number)
        if own is None:
            return None
        tables |= _tables({file: part_of(file) for file in layout.files if number_of(file) == number}, own)
    digests = [_digests(*tables[piece.file], piece.begin, piece.end) for piece in layout.pieces]
    found = np.concatenate(digests) if digests else np.empty((0, 2), "<u8")
    return FileBlocks(regions, edges, found) if len(found) == len(edges) - 1 else None


def parse_own_blocks(content: bytes) -> OwnBlocks:
    """Read a blocks.bin. Raises ValueError."""
    return np.frombuffer(content, OWN_BLOCK)


def _cut(index: Mapping[str, Span], nbytes: int) -> tuple[dict[str, ByteRange], Edges]:
    places = regions_of(index, nbytes)
    begins = [np.arange(begin, end, BLOCK_BYTES, dtype=np.int64) for begin, end in places.values()]
    ends = list(accumulate((len(each) for each in begins), initial=0))
    return dict(zip(places, pairwise(ends), strict=True)), np.concatenate([*begins, np.array([nbytes])])


def _tables(parts: Mapping[str, int | None], own: OwnBlocks) -> dict[str, tuple[Edges, Digests]]:
    found = {}
    for file, part in parts.items():
        rows: Any = own[own["part"] == part]
        found[file] = (np.concatenate([[0], np.cumsum(rows["length"], dtype=np.int64)]), rows["digest"])
    return found


def _digests(edges: Edges, digests: Digests, begin: int, end: int) -> Digests:
    """Of the blocks from `begin` to `end`; none if these are no edges."""
    first, last = np.searchsorted(edges, (begin, end))
    whole = last < len(edges) and edges[first] == begin and edges[last] == end
    return digests[first : last if whole else first]
