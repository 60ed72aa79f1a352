"""A stored file as chunks in Ray's object store.

Flat bytes, since putting a tensor can take three times its size (upstream ray #59462).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import BinaryIO

import numpy as np
import ray

from aoti_serve.cluster.transfer.chunks import SHARE, SMALLEST, Chunk, ChunkPlan, ChunkRef

PUTS = 10  # in one period of Ray's freeing
# Ray frees what nobody holds any more once in so often. `aoti-serve up` has it do so at once; where it does not, a
# transfer is held back, lest a whole file piles up in between.
FREE_PERIOD_S = int(os.environ.get("RAY_free_objects_period_milliseconds", "1000")) / 1e3  # noqa: SIM112


class ChunkFile:
    """Runs in an event loop; the disk is read in threads, one chunk at a time."""

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
