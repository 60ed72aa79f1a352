"""A stored version's bytes on their way to the replicas: read once, put into Ray's object store once, pulled once per
node, and never more than a few chunks of them there at a time.

Flat bytes, since putting a tensor can take three times its size (upstream ray #59462).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from aoti_serve.cluster.calls import unwrapped
from aoti_serve.errors import DigestMismatch
from aoti_serve.tensors import Span
from aoti_serve.weights.version import Version

Piece = NDArray[np.uint8]
SMALLEST, LARGEST = 4 * 2**20, 64 * 2**20
SHARE = 16  # of the file, that a chunk is: with WINDOW + 1 of them, a quarter of it is in the object store at most
WINDOW = 3  # chunks; how far the fastest reader may be ahead of the slowest
PATIENCE_S = 2.0


class Layout(NamedTuple):
    """What a reader must know before the first byte."""

    spans: dict[str, Span]
    nbytes: int


class Feed:
    """One version, for any number of readers that go through it in step. Runs in the coordinator's event loop."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self.layout = layout
        self.read: dict[str, int] = {}  # bytes, by reader
        self.chunk_bytes = min(max(layout.nbytes // SHARE, SMALLEST), LARGEST)
        self._file = file
        self._refs: dict[int, ray.ObjectRef[Any]] = {}
        self._next: dict[str, int] = {}
        self._moved = asyncio.Condition()
        self._reading = asyncio.Lock()

    async def chunk(self, reader: str, number: int) -> list[ray.ObjectRef[Any]]:
        """Chunk `number` as an object, in a list, else Ray would resolve it; nothing beyond the end."""
        await self._in_step(reader, number)
        if number * self.chunk_bytes >= self.layout.nbytes:
            return []
        async with self._reading:
            ref = self._refs.get(number)
            if ref is None:  # also for a reader that was left behind: it is read again
                ref = self._refs[number] = ray.put(await asyncio.to_thread(self._cut, number))
                for old in list(self._refs)[:-WINDOW]:
                    del self._refs[old]
        return [ref]

    def close(self) -> None:
        self._refs.clear()
        self._file.close()

    async def _in_step(self, reader: str, number: int) -> None:
        """Wait for slower readers, but not for ever: one that is stopped or dead is left behind."""
        self.read[reader] = min(number * self.chunk_bytes, self.layout.nbytes)
        self._next[reader] = number
        async with self._moved:
            self._moved.notify_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._moved.wait_for(lambda: number - min(self._next.values(), default=number) < WINDOW)
        if self.read[reader] == self.layout.nbytes:
            self._next.pop(reader, None)
        else:
            self._next = {name: at for name, at in self._next.items() if number - at < WINDOW}

    def _cut(self, number: int) -> Piece:
        self._file.seek(number * self.chunk_bytes)
        return np.frombuffer(self._file.read(self.chunk_bytes), np.uint8)


class Pieces:
    """A version's bytes as an iterator, for the thread that copies them into a buffer; runs in a replica.

    At its end it raises DigestMismatch unless the bytes that arrived are the version's. The next chunk is asked for
    while the last one is copied.
    """

    def __init__(self, coordinator: DeploymentHandle[Any], reader: str, version: Version) -> None:
        # By reference: over gRPC Serve pickles answers by itself, and an object that is named there is never freed.
        self._coordinator = coordinator.options(_by_reference=True)
        self._reader = reader
        self._version = version
        self._loop = asyncio.get_running_loop()

    async def index(self) -> dict[str, Span]:
        """Where each tensor lies in them."""
        found: dict[str, Span] = await unwrapped(self._coordinator.index.remote(self._version.number))
        return found

    def __iter__(self) -> Iterator[Piece]:
        digest = hashlib.sha256()
        number, asked = 0, self._ask(0)
        while (piece := asked.result()) is not None:
            number += 1
            asked = self._ask(number)
            digest.update(piece.data)
            yield piece
        if digest.hexdigest() != self._version.digest:
            raise DigestMismatch(got=digest.hexdigest(), expected=self._version.digest)

    def _ask(self, number: int) -> Future[Piece | None]:
        return asyncio.run_coroutine_threadsafe(self._pull(number), self._loop)

    async def _pull(self, number: int) -> Piece | None:
        refs = await unwrapped(self._coordinator.chunk.remote(self._version.number, self._reader, number))
        return await refs[0] if refs else None
