"""A tensor to which the product of two small ones is added."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import CHECK_CHUNK_BYTES
from aoti_serve.weights.files.merge import FilePart

FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
MAX_FACTOR_ELEMENTS = 2**26  # of each: both are in memory, those of one tensor at a time


@dataclass(frozen=True)
class LowRankUpdate:
    """`old`, seen as a matrix, plus `scale` times `left` [rows, rank] times `right` [rank, columns].

    It is computed in float32, or in float64 for a float64, and rounded once, a few megabytes of rows at a time. All
    dtypes are in FLOATS. `transposed`: the factors lie in their file as [rank, rows] and [columns, rank].
    """

    old: FilePart
    left: FilePart
    right: FilePart
    rank: int
    scale: float
    transposed: bool

    @property
    def span(self) -> Span:
        return self.old.span

    def chunks(self) -> Iterator[bytes]:
        rows, columns = self.span.shape[0], math.prod(self.span.shape[1:])
        left, right = self._factor(self.left, rows, self.rank), self._factor(self.right, self.rank, columns)
        row_bytes = (self.span.end - self.span.begin) // max(rows, 1)
        step = max(CHECK_CHUNK_BYTES // max(row_bytes, 1), 1)
        for row in range(0, rows, step):
            end = min(row + step, rows)
            yield self._sum(self._rows(row * row_bytes, end * row_bytes), left[row:end], right)

    def _sum(self, old: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> bytes:
        with np.errstate(all="ignore"):  # what is not finite is let in, as in any weights
            new: NDArray[Any] = old + (left @ right * self.scale).ravel()
            return new.astype(FLOATS[self.span.dtype]).tobytes()

    def _rows(self, begin: int, end: int) -> NDArray[Any]:
        start = self.span.begin
        return self._wide(self.old._replace(span=self.span._replace(begin=start + begin, end=start + end)))

    def _factor(self, part: FilePart, rows: int, columns: int) -> NDArray[Any]:
        flat = self._wide(part)
        return np.ascontiguousarray(flat.reshape(columns, rows).T) if self.transposed else flat.reshape(rows, columns)

    def _wide(self, part: FilePart) -> NDArray[Any]:
        wide = np.float64 if self.span.dtype == "float64" else np.float32
        return np.frombuffer(b"".join(part.chunks()), FLOATS[part.span.dtype]).astype(wide)
