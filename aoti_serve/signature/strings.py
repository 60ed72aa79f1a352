"""BYTES in memory: an array of `bytes` objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def strings_of(elements: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor of `shape`, read-only, of as many elements. Raises ValueError for another number."""
    array = np.empty(len(elements), object)
    array[:] = elements
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def strings_nbytes(array: NDArray[Any]) -> int:
    """The bytes of any tensor; of strings also what they point to."""
    return array.nbytes if array.dtype != object else array.nbytes + sum(map(len, array.reshape(-1).tolist()))
