"""A version's bytes as they arrive at a replica."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from ray.exceptions import RayActorError
from upath import UPath

from aoti_serve.cluster.calls import result_of
from aoti_serve.cluster.transfer.actor import TransferHandle
from aoti_serve.cluster.transfer.broadcast import Chunk
from aoti_serve.errors import Unavailable
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.store.catalog import damaged_version
from aoti_serve.weights.version import Version

CHUNK_S = 60.0  # a slow disk, the slowest of all readers


class ChunkSource(NamedTuple):
    """Who hands out a version's bytes, and by which name."""

    freight: TransferHandle
    path: Path | UPath


class ChunkReader:
    """An iterator for the thread that copies them into a buffer; the next chunk is asked for while one is copied.

    At its end it raises StoreDamaged unless the bytes that arrived are the version's.
    """

    def __init__(self, source: ChunkSource, reader: str, version: Version) -> None:
        self._freight, self._path = source
        self._reader = reader
        self._version = version
        self._loop = asyncio.get_running_loop()

    async def index(self) -> dict[str, Span]:
        """Where each tensor lies in them."""
        found: dict[str, Span] = await self._answer(self._freight.index.remote(self._path, self._version.nbytes))
        return found

    def __iter__(self) -> Iterator[Chunk]:
        digest = hashlib.sha256()
        number, asked = 0, self._ask(0)
        while (piece := asked.result()) is not None:
            number += 1
            asked = self._ask(number)
            digest.update(piece.data)
            yield piece
            del piece  # else it is held in the object store while the next one is waited for
        if digest.hexdigest() != self._version.digest:
            raise damaged_version(self._path, self._version, f"its sha256 is {digest.hexdigest()}")

    def _ask(self, number: int) -> Future[Chunk | None]:
        return asyncio.run_coroutine_threadsafe(self._pull(number), self._loop)

    async def _pull(self, number: int) -> Chunk | None:
        asked: Any = self._freight.chunk.remote(self._path, self._version.nbytes, self._reader, number)
        refs = await self._answer(asked)
        piece: Chunk | None = await self._answer(refs[0]) if refs else None
        return piece

    async def _answer(self, call: Awaitable[Any]) -> Any:
        try:
            return await result_of(call, CHUNK_S)
        except RayActorError as error:
            raise Unavailable(detail="what moves the weights has died and is started again; try again") from error
