"""How far an output is from what is expected of it. Both have one shape and finite values."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aoti_serve.signature.golden.arrays import Array, float64, is_float

TINY: Final = float(np.finfo(np.float32).tiny)


def absolute_error(output: Array, expected: Array) -> float:
    """The largest |a-b|; exact for integers, also where a float64 cannot tell them apart."""
    return float(_differences(output, expected).max(initial=0))


def relative_error(output: Array, expected: Array) -> float:
    """The largest |a-b|/|b|, or |a-b|/TINY where b is smaller."""
    sizes = np.maximum(np.abs(float64(expected)), TINY)
    return float((_differences(output, expected) / sizes).max(initial=0))


def least_cosine(output: Array, expected: Array) -> float:
    """The least cosine of a row: what belongs to one index of the first of several dimensions."""
    one, other = _rows(output), _rows(expected)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.divide((one * other).sum(axis=1), lengths, out=np.zeros(len(one)), where=lengths > 0)
    cosines[(one == other).all(axis=1)] = 1.0  # zeros too
    return float(cosines.min(initial=1))


def top1_share(output: Array, expected: Array) -> float:
    """The share of rows in which the largest value of the last dimension is at the same place."""
    if not output.size:
        return 1.0
    best, wanted = (np.atleast_1d(float64(array)).argmax(axis=-1) for array in (output, expected))
    return float(np.mean(best == wanted))


def _differences(output: Array, expected: Array) -> NDArray[Any]:
    if output.dtype != expected.dtype or is_float(output):
        return np.abs(float64(output) - float64(expected))
    larger, smaller = np.maximum(output, expected), np.minimum(output, expected)
    return larger.astype(np.uint64) - smaller.astype(np.uint64)  # right modulo 2**64, and so right


def _rows(array: Array) -> NDArray[np.float64]:
    """Rows of which no length overflows."""
    rows = float64(array).reshape(1 if array.ndim < 2 else array.shape[0], -1 if array.size else 0)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    scaled: NDArray[np.float64] = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    return scaled
