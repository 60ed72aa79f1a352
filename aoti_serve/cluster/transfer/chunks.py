"""The chunks in which a file of weights travels."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray

Chunk: TypeAlias = NDArray[np.uint8]
ChunkRef: TypeAlias = "ray.ObjectRef[Chunk]"
SMALLEST, LARGEST = 4 * 2**20, 64 * 2**20
SHARE = 64  # of the file, that a chunk is: of a large one about six are in the object store at a time, twelve at most

PUTS = 10  # in one period of Ray's freeing
# Ray frees what nobody holds any more once in so often. `aoti-serve up` has it do so at once; where it does not, a
# transfer is held back, lest a whole file piles up in between.
FREE_PERIOD_S = int(os.environ.get("RAY_free_objects_period_milliseconds", "1000")) / 1e3  # noqa: SIM112


@dataclass(frozen=True)
class ChunkPlan:
    """Cuts a file of `nbytes` into `count` chunks of `size` bytes, of which the last may be shorter."""

    nbytes: int
    size: int

    @classmethod
    def of(cls, nbytes: int) -> ChunkPlan:
        return cls(nbytes, min(max(nbytes // SHARE, SMALLEST), LARGEST))

    @property
    def count(self) -> int:
        return -(-self.nbytes // self.size)

    def bytes_before(self, number: int) -> int:
        """The bytes that a reader has when it asks for chunk `number`."""
        return min(number * self.size, self.nbytes)


class ChunkFile:
    """A stored file as chunks in Ray's object store.

    Runs in an event loop; the disk is read in threads, one chunk at a time. Chunks are flat bytes, since putting a
    tensor can take three times its size (upstream ray #59462).
    """

    def __init__(self, file: BinaryIO, plan: ChunkPlan) -> None:
        self._file = file
        self._plan = plan
        self._freed_after = FREE_PERIOD_S if plan.nbytes > SHARE * SMALLEST else 0.0
        self._puts: deque[float] = deque(maxlen=PUTS)  # when
        self._reading = asyncio.Lock()

    async def put(self, number: int) -> ChunkRef:
        """Read chunk `number` and put it into the object store, once the ones before have been freed there."""
        async with self._reading:
            while len(self._puts) == PUTS and self._puts[0] + self._freed_after > time.monotonic():
                await asyncio.sleep(0.01)
            self._puts.append(time.monotonic())
            return ray.put(await asyncio.to_thread(self._read, number))

    def close(self) -> None:
        self._file.close()

    def _read(self, number: int) -> Chunk:
        self._file.seek(number * self._plan.size)
        return np.frombuffer(self._file.read(self._plan.size), np.uint8)
