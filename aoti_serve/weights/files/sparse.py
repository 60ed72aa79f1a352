"""A tensor of which some rows, or some elements, are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import CHECK_CHUNK_BYTES
from aoti_serve.weights.files.merge import FilePart

MAX_UNIT_BYTES = 2**28  # a unit is in memory, and twice while it is copied
POSITION_BYTES = 8

Units = NDArray[Any]


@dataclass(frozen=True)
class SparseUpdate:
    """`old` with other bytes at some of its units, which are rows or elements of `unit` bytes, not 0.

    `positions`: int64 [k], the numbers of the units, which `wrong_position` has nothing against; `values`: k units. A
    few megabytes of each of the three are in memory at a time, or a unit, if that is more.
    """

    old: FilePart
    positions: FilePart
    values: FilePart
    unit: int

    @property
    def span(self) -> Span:
        return self.old.span

    def chunks(self) -> Iterator[bytes]:
        changes = self._changes()
        pending = next(changes, None)
        for begin, block in self._blocks():
            end = begin + len(block)
            while pending is not None and pending[0][0] < end:
                positions, values = pending
                cut = int(np.searchsorted(positions, end))
                block[positions[:cut] - begin] = values[:cut]
                pending = (positions[cut:], values[cut:]) if cut < len(positions) else next(changes, None)
            yield block.tobytes()

    def _blocks(self) -> Iterator[tuple[int, Units]]:
        """The old units, a block at a time, each with the number of its first."""
        for begin, end in _steps(self.old.span, self.unit, CHECK_CHUNK_BYTES // self.unit):
            yield begin, _units(self.old, begin, end, f"V{self.unit}")

    def _changes(self) -> Iterator[tuple[NDArray[np.int64], Units]]:
        step = CHECK_CHUNK_BYTES // max(self.unit, POSITION_BYTES)
        for begin, end in _steps(self.positions.span, POSITION_BYTES, step):
            values = _units(self.values, begin, end, f"V{self.unit}")
            yield _units(self.positions, begin, end, np.int64), values


def wrong_position(positions: FilePart, count: int) -> str | None:
    """What is wrong with the numbers of some of `count` units: they must increase, and be in range. None if nothing."""
    last = -1
    for begin, end in _steps(positions.span, POSITION_BYTES, CHECK_CHUNK_BYTES // POSITION_BYTES):
        found = _units(positions, begin, end, np.int64)
        before = np.concatenate([np.array([last]), found[:-1]])
        outside = (found < 0) | (found >= count)
        if outside.any():
            return f"{found[outside][0]} is none of the {count} that there are, from 0 on"
        if (unsorted := found <= before).any():
            at = int(unsorted.argmax())
            return f"{found[at]} comes after {before[at]}: sort them, each once"
        last = int(found[-1])
    return None


def _steps(span: Span, unit: int, step: int) -> Iterator[tuple[int, int]]:
    """The units of a tensor in steps: where each begins and ends."""
    count = (span.end - span.begin) // unit
    step = max(step, 1)
    return ((begin, min(begin + step, count)) for begin in range(0, count, step))


def _units(part: FilePart, begin: int, end: int, dtype: DTypeLike) -> Units:
    unit, start = np.dtype(dtype).itemsize, part.span.begin
    span = part.span._replace(begin=start + begin * unit, end=start + end * unit)
    return np.frombuffer(bytearray().join(part._replace(span=span).chunks()), dtype)
