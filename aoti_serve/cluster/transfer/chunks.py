"""The chunks in which a file of weights travels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import ray

Chunk: TypeAlias = NDArray[np.uint8]
ChunkRef: TypeAlias = "ray.ObjectRef[Chunk]"
SMALLEST, LARGEST = 4 * 2**20, 64 * 2**20
SHARE = 64  # of the file, that a chunk is: of a large one ten or so are in the object store at a time


@dataclass(frozen=True)
class ChunkPlan:
    """How a file of `nbytes` is cut: into `count` chunks of `size` bytes, of which the last may be shorter."""

    nbytes: int
    size: int

    @classmethod
    def of(cls, nbytes: int) -> ChunkPlan:
        return cls(nbytes, min(max(nbytes // SHARE, SMALLEST), LARGEST))

    @property
    def count(self) -> int:
        return -(-self.nbytes // self.size)

    def bytes_before(self, number: int) -> int:
        """How many bytes a reader has that asks for chunk `number`."""
        return min(number * self.size, self.nbytes)
