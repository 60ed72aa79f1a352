"""Where weights go in and out of the coordinator's node: a plain actor that moves bytes and decides nothing.

It is apart from the coordinator for two reasons. No disk and no reader keeps the coordinator waiting; and a Serve call
that may name objects in its answer makes the answering process wait, with all it does, for a caller that is stopped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from aoti_serve.cluster.transfer.broadcast import Chunk, ChunkBroadcast
from aoti_serve.errors import BodyTooLarge, InvalidBody, StoreFailed, Unavailable
from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files.index import index_in

IDLE_READER_S = 5.0
TransferHandle: TypeAlias = "ActorHandle[TransferActor]"


class TransferActor:
    """Ray actor, one per coordinator, on its node. `limit` is the size of an upload in bytes."""

    def __init__(self, limit: int, setting: str) -> None:
        self._limit = limit
        self._setting = setting
        self._feeds: dict[Path | UPath, ChunkBroadcast] = {}
        self._opening = asyncio.Lock()

    @classmethod
    def here(cls, limit: int, setting: str) -> TransferHandle:
        """A new one on this node; it ends with the process that has made it, and starts again if it alone dies."""
        place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote(cls)
        actor: TransferHandle = remote.options(num_cpus=0, max_restarts=-1, scheduling_strategy=place).remote(
            limit, setting
        )
        return actor

    async def append(self, path: Path | UPath, piece: bytes | Chunk) -> None:
        """Add bytes to an upload; raises BodyTooLarge when there are too many."""
        await asyncio.to_thread(self._append, path, _flat(piece))

    async def append_objects(self, path: Path | UPath, refs: Sequence[ray.ObjectRef[Any]]) -> None:
        """Add the flat bytes of objects that somebody has put into Ray's object store, in order."""
        for ref in refs:
            await self.append(path, await ref)

    async def index(self, path: Path | UPath, nbytes: int) -> dict[str, Span]:
        """Where the tensors of a file of `nbytes` lie in it."""
        return await asyncio.to_thread(_index, path, nbytes)

    async def chunk(self, path: Path | UPath, nbytes: int, reader: str, number: int) -> list[ray.ObjectRef[Any]]:
        """Chunk `number` of a file of `nbytes`, as an object; an empty list beyond the end. See `ChunkBroadcast`."""
        async with self._opening:
            if path not in self._feeds:
                self._close_idle()
                self._feeds[path] = ChunkBroadcast(await asyncio.to_thread(path.open, "rb"), nbytes)
        feed = self._feeds[path]
        feed.users += 1
        try:
            return await feed.chunk(reader, number)
        finally:
            feed.users -= 1
            feed.idle_since = time.monotonic()

    async def read(self, path: Path | UPath) -> dict[str, int]:
        """How many bytes of a file each reader has received; for the coordinator."""
        return dict(self._feeds[path].read) if path in self._feeds else {}

    async def close_idle(self) -> None:
        """Give back what nobody has asked for in a while; it would be opened again."""
        self._close_idle()

    def _close_idle(self) -> None:
        oldest = time.monotonic() - IDLE_READER_S
        for path in [path for path, feed in self._feeds.items() if not feed.users and feed.idle_since < oldest]:
            self._feeds.pop(path).close()

    def _append(self, path: Path | UPath, content: bytes | memoryview) -> None:
        try:
            with path.open("r+b") as file:  # not "ab", which would make a file anew that was thrown away
                file.seek(0, os.SEEK_END)
                file.write(content)
                size = file.tell()
        except FileNotFoundError as error:
            raise Unavailable(detail="the upload was given up; send it again") from error
        except OSError as error:
            raise StoreFailed(path=path.parent, detail=str(error)) from error
        if size > self._limit:
            raise BodyTooLarge(limit=self._limit, setting=self._setting)


def _index(path: Path | UPath, nbytes: int) -> dict[str, Span]:
    with path.open("rb") as file:
        return index_in(file, nbytes)


def _flat(piece: object) -> bytes | memoryview:
    """The bytes of a piece; raises InvalidBody for any object but bytes or a flat array of uint8."""
    if isinstance(piece, np.ndarray) and piece.dtype == np.uint8 and piece.ndim == 1:
        content: NDArray[Any] = np.ascontiguousarray(piece)
        return content.data
    if isinstance(piece, bytes):
        return piece
    raise InvalidBody(detail=f"an object of {type(piece).__name__}, not the flat bytes of a safetensors file")
