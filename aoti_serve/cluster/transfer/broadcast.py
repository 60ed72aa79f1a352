"""A stored version's bytes on their way to the replicas: read once, put into Ray's object store once, pulled once per
node, and never more than a few chunks of them there at a time.

Flat bytes, since putting a tensor can take three times its size (upstream ray #59462).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import ray
from numpy.typing import NDArray

Chunk = NDArray[np.uint8]
SMALLEST, LARGEST = 4 * 2**20, 64 * 2**20
SHARE = 64  # of the file, that a chunk is: of a large one ten or so are in the object store at a time
PUTS = 10  # in one period of Ray's freeing
WINDOW = 3  # chunks; how far the fastest reader may be ahead of the slowest
PATIENCE_S = 2.0
# Ray frees what nobody holds any more once in so often. `aoti-serve up` has it do so at once; where it does not, a
# transfer is held back, lest a whole file piles up in between.
FREE_PERIOD_S = int(os.environ.get("RAY_free_objects_period_milliseconds", "1000")) / 1e3  # noqa: SIM112


class ChunkBroadcast:
    """One file, for any number of readers that go through it in step. Runs in an event loop.

    `read` is how many bytes each reader has received; `users` how many ask at this moment.
    """

    def __init__(self, file: BinaryIO, nbytes: int) -> None:
        self.read: dict[str, int] = {}
        self.users, self.idle_since = 0, time.monotonic()
        self.chunk_bytes = min(max(nbytes // SHARE, SMALLEST), LARGEST)
        self._nbytes = nbytes
        self._freed_after = FREE_PERIOD_S if nbytes > SHARE * SMALLEST else 0.0
        self._file = file
        self._refs: dict[int, ray.ObjectRef[Any]] = {}
        self._puts: deque[float] = deque(maxlen=PUTS)  # when
        self._next: dict[str, int] = {}
        self._moved = asyncio.Condition()
        self._reading = asyncio.Lock()

    async def chunk(self, reader: str, number: int) -> list[ray.ObjectRef[Any]]:
        """Chunk `number` as an object, in a list, else Ray would resolve it; nothing beyond the end."""
        await self._in_step(reader, number)
        if number * self.chunk_bytes >= self._nbytes:
            return []
        async with self._reading:
            ref = self._refs.get(number)
            if ref is None:  # also for a reader that was left behind: it is read again
                ref = self._refs[number] = await self._put(number)
                for old in list(self._refs)[:-WINDOW]:
                    del self._refs[old]
        return [ref]

    def close(self) -> None:
        self._refs.clear()
        self._file.close()

    async def _put(self, number: int) -> ray.ObjectRef[Any]:
        """Wait until the chunks before have been freed, as far as it takes to keep within the budget."""
        while len(self._puts) == PUTS and self._puts[0] + self._freed_after > time.monotonic():
            await asyncio.sleep(0.01)
        self._puts.append(time.monotonic())
        return ray.put(await asyncio.to_thread(self._cut, number))

    async def _in_step(self, reader: str, number: int) -> None:
        """Wait for slower readers, but not for ever: one that is stopped or dead is left behind."""
        self.read[reader] = min(number * self.chunk_bytes, self._nbytes)
        self._next[reader] = number
        async with self._moved:
            self._moved.notify_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._moved.wait_for(lambda: number - min(self._next.values(), default=number) < WINDOW)
        if self.read[reader] == self._nbytes:
            self._next.pop(reader, None)
        else:
            self._next = {name: at for name, at in self._next.items() if number - at < WINDOW}

    def _cut(self, number: int) -> Chunk:
        self._file.seek(number * self.chunk_bytes)
        return np.frombuffer(self._file.read(self.chunk_bytes), np.uint8)
