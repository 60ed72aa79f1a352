"""A version's bytes as they arrive at a replica."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import ray

from aoti_serve.cluster.transfer.actor import TransferHandle
from aoti_serve.cluster.transfer.chunks import Chunk
from aoti_serve.cluster.transfer.files import FilePath
from aoti_serve.cluster.transfer.node import transfer_answer
from aoti_serve.errors import StageWithdrawn
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.store.catalog import damaged_version
from aoti_serve.weights.version import Version


class ChunkSource(NamedTuple):
    """The actor that hands out a version's bytes, and the file that they are in."""

    transfer: TransferHandle
    path: FilePath


class ChunkReader:
    """Reads one version for one replica. Made in the replica's event loop; its iterator runs in another thread.

    First `open`, then iterate. While a chunk is copied into a buffer the next one is asked for. After `cancel` both
    raise StageWithdrawn. Both raise Unavailable if the other side dies, or gives no answer for long.
    """

    def __init__(self, replica: str, version: Version) -> None:
        self._replica = replica
        self._version = version
        self._loop = asyncio.get_running_loop()
        self._cancelled: asyncio.Future[None] = self._loop.create_future()
        self._node = ray.get_runtime_context().get_node_id()
        self._transfer: Any = None
        self._path: FilePath

    async def open(self, source: Awaitable[ChunkSource]) -> dict[str, Span]:
        """Find the bytes; returns where each tensor lies in them."""
        root, self._path = await self._answer(source)
        self._transfer = await self._answer(root.reader_of.remote(self._node, self._replica))
        index: dict[str, Span] = await self._answer(self._transfer.index.remote(self._path, self._version.nbytes))
        return index

    def cancel(self) -> None:
        """Let it end soon, also while it waits. May be called from any thread, and more than once."""
        self._loop.call_soon_threadsafe(self._cancel)

    def check_asked(self) -> None:
        """Raise StageWithdrawn after `cancel`."""
        if self._cancelled.done():
            raise StageWithdrawn(version=self._version.number)

    def __iter__(self) -> Iterator[Chunk]:
        """All chunks in order. At the end raises StoreDamaged unless the bytes that arrived are the version's."""
        digest = hashlib.sha256()
        number, asked = 0, self._ask(0)
        try:
            while (chunk := asked.result()) is not None:
                number += 1
                asked = self._ask(number)
                digest.update(chunk.data)
                yield chunk
                del chunk  # else it is held in the object store while the next one is waited for
        finally:
            asked.cancel()
        if digest.hexdigest() != self._version.digest:
            raise damaged_version(self._path, self._version, f"its sha256 is {digest.hexdigest()}")

    def _ask(self, number: int) -> Future[Chunk | None]:
        return asyncio.run_coroutine_threadsafe(self._pull(number), self._loop)

    async def _pull(self, number: int) -> Chunk | None:
        nbytes, node = self._version.nbytes, self._node
        refs = await self._answer(self._transfer.chunk.remote(self._path, nbytes, node, self._replica, number))
        chunk: Chunk | None = await self._answer(refs[0]) if refs else None
        return chunk

    async def _answer(self, call: Awaitable[Any]) -> Any:
        """The answer to a call, unless `cancel` comes first."""
        answer = asyncio.ensure_future(transfer_answer(call))
        try:
            await asyncio.wait({answer, self._cancelled}, return_when=asyncio.FIRST_COMPLETED)
            self.check_asked()
            return answer.result()
        finally:
            answer.cancel()

    def _cancel(self) -> None:
        if not self._cancelled.done():
            self._cancelled.set_result(None)
