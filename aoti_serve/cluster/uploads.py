"""Weights on their way in, piece by piece, from gateways and trainers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import ray

from aoti_serve.errors import BodyTooLarge, InvalidBody, Unavailable
from aoti_serve.weights.store import Store

IDLE_S = 600.0  # whoever has sent nothing for so long has gone


class Uploads:
    """The open ones, each a file beside the store. Runs in the coordinator's event loop."""

    def __init__(self, store: Store, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._paths: dict[str, Path] = {}
        self._touched: dict[str, float] = {}

    async def open(self) -> str:
        upload = uuid4().hex
        self._paths[upload] = await asyncio.to_thread(self._store.incoming)
        self._touched[upload] = time.monotonic()
        return upload

    async def append(self, upload: str, piece: object) -> None:
        """Add bytes; raises BodyTooLarge, and forgets the upload, when there are too many."""
        size = await asyncio.to_thread(self._store.append, self.path(upload), _flat(piece))
        self._touched[upload] = time.monotonic()
        if size > self._max_bytes:
            await self.drop(upload)
            raise BodyTooLarge(limit=self._max_bytes, setting="gateway.max_weights_bytes")

    async def append_objects(self, upload: str, refs: Sequence[ray.ObjectRef[object]]) -> None:
        """Add the flat bytes of objects that somebody has put into Ray's object store, in order."""
        for ref in refs:
            await self.append(upload, await ref)

    def path(self, upload: str) -> Path:
        """Raises Unavailable if it is not known: the coordinator has been restarted, or it was idle for too long."""
        if upload not in self._paths:
            raise Unavailable(detail="the upload was lost with the coordinator that took it; send it again")
        return self._paths[upload]

    async def drop(self, upload: str) -> None:
        await asyncio.to_thread(self.discard, upload)

    def discard(self, upload: str) -> None:
        """As `drop`, for threads."""
        path = self._paths.pop(upload, None)
        self._touched.pop(upload, None)
        if path is not None:
            self._store.discard(path)

    async def drop_idle(self) -> None:
        oldest = time.monotonic() - IDLE_S
        for upload in [upload for upload, touched in self._touched.items() if touched < oldest]:
            await self.drop(upload)


def _flat(piece: object) -> bytes | memoryview:
    """The bytes of a piece; raises InvalidBody for any object but bytes or a flat array of uint8."""
    if isinstance(piece, np.ndarray) and piece.dtype == np.uint8 and piece.ndim == 1:
        return np.ascontiguousarray(piece).data
    if isinstance(piece, bytes):
        return piece
    raise InvalidBody(detail=f"an object of {type(piece).__name__}, not the flat bytes of a safetensors file")
