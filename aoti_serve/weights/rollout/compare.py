"""Compares the outputs of two versions for one request, as arrays; and looks at those of one.

Nothing here warns or divides by zero, whatever the arrays hold. All is computed in float64, but for which integers are
equal, and how far apart they are.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from aoti_serve.signature.tensors import DTYPES, Dim, TensorSpec

Doubles = NDArray[np.float64]
_LARGEST = sys.float_info.max
_SUMMABLE = 1e200  # sums of squares up to here stay finite however many there are
_SAFE = 1e100  # squares of what is below, and above its reciprocal, are neither infinite nor zero


class PairComparison(NamedTuple):
    """Of one output: `top1` is the share of its `rows` that agree, `cosine` their mean; None where there is no such.

    Rows in which the active version itself is not finite are left out of both. Those in which only the candidate is
    not are `spoilt`, and count as a disagreement, and as a cosine of 0.
    """

    rows: int
    top1: float | None
    cosine: float | None
    largest_difference: float
    spoilt: int = 0


class ValueSums(NamedTuple):
    """Of the values of one output: how many they are, their sum, and that of their squares."""

    finite: bool
    size: int
    total: float
    squares: float


class OutputReader:
    """Reads one output's arrays as numbers. The arrays are as `DTYPES` says: a raw type is held as unsigned integers.

    A row is the last axis, if its size is fixed and at least 2; else the whole array is one row, which has no top-1.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.is_float = "float" in spec.dtype
        self._raw = np.dtype(getattr(ml_dtypes, spec.dtype)) if DTYPES[spec.dtype].raw else None
        self._wide = spec.dtype == "float64"
        last = spec.shape[-1] if spec.shape else 1
        self._row = 0 if isinstance(last, Dim) or last < 2 else last

    def sums(self, array: NDArray[Any]) -> ValueSums:
        """Whether all values are finite, and their sums, which are 0 if they are not, or beyond any use."""
        with np.errstate(all="ignore"):
            flat = self._doubles(array).reshape(-1)
            squares = float(np.einsum("i,i->", flat, flat))  # unlike dot, no threads of BLAS in an event loop
            if squares <= _SUMMABLE:
                return ValueSums(True, flat.size, float(np.add.reduce(flat)), squares)
            return ValueSums(bool(np.isfinite(flat).all()), 0, 0.0, 0.0)

    def compare(self, active: NDArray[Any], candidate: NDArray[Any]) -> PairComparison:
        """Compare both versions' arrays. Those of different shapes agree in nothing."""
        if active.shape != candidate.shape:
            return PairComparison(0, 0.0 if self._ranks else None, 0.0 if self.is_float else None, 0.0)
        with np.errstate(all="ignore"):
            if not active.size:
                return PairComparison(0, None, None, 0.0)
            if not self.is_float:
                return self._compare_integers(active, candidate)
            return self._compare_floats(self._rows(active), self._rows(candidate))

    @property
    def _ranks(self) -> bool:
        return self._row > 0 or not self.is_float

    def _compare_integers(self, one: NDArray[Any], other: NDArray[Any]) -> PairComparison:
        """As they are: float64 does not tell large ones apart."""
        rows = one.size // self._row if self._row else 1
        unsigned = f"u{one.itemsize}"  # holds the difference of any two
        apart = np.maximum(one, other).view(unsigned) - np.minimum(one, other).view(unsigned)
        return PairComparison(rows, float(np.mean(one == other)), None, float(apart.max()))

    def _compare_floats(self, one: Doubles, other: Doubles) -> PairComparison:
        judged = len(one)
        if not (_all_finite(one) and _all_finite(other)):
            of_active = np.isfinite(one).all(axis=1)
            both = of_active & np.isfinite(other).all(axis=1)
            judged, one, other = int(np.count_nonzero(of_active)), one[both], other[both]
        if not judged:
            return PairComparison(0, None, None, 0.0)
        top1 = np.count_nonzero(one.argmax(axis=1) == other.argmax(axis=1)) / judged if self._row else None
        largest = _largest(one, other)
        if self._wide:
            one, other = _scaled(one), _scaled(other)
        cosine = float(_cosines(one, other).sum()) / judged
        return PairComparison(judged, top1, cosine, largest, judged - len(one))

    def _rows(self, array: NDArray[Any]) -> Doubles:
        numbers = self._doubles(array)
        return numbers.reshape(-1, self._row) if self._row else numbers.reshape(1, -1)

    def _doubles(self, array: NDArray[Any]) -> Doubles:
        if self._raw is not None:
            # By way of float32: ml_dtypes' own loop to float64 is the slower one.
            array = np.ascontiguousarray(array).view(self._raw).astype(np.float32)
        doubles: Doubles = array.astype(np.float64)
        return doubles


def _all_finite(rows: Doubles) -> bool:
    return math.isfinite(float(np.add.reduce(rows, axis=None))) or bool(np.isfinite(rows).all())


def _largest(one: Doubles, other: Doubles) -> float:
    return min(float(np.abs(one - other).max(initial=0.0)), _LARGEST)


def _scaled(rows: Doubles) -> Doubles:
    peak = float(np.abs(rows).max(initial=0.0))
    return rows if peak == 0 or 1 / _SAFE < peak < _SAFE else rows / peak


def _cosines(one: Doubles, other: Doubles) -> Doubles:
    """Two rows of zeros are alike; to one row of zeros the cosine is 0."""
    dots = np.einsum("ij,ij->i", one, other)
    ones, others = np.einsum("ij,ij->i", one, one), np.einsum("ij,ij->i", other, other)
    lengths = np.sqrt(ones) * np.sqrt(others)
    cosines = np.where(ones + others > 0, 0.0, 1.0)
    np.divide(dots, lengths, out=cosines, where=lengths > 0)
    clipped: Doubles = np.clip(cosines, -1.0, 1.0)
    return clipped
