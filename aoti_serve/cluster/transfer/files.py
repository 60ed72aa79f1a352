"""The files that readers are reading now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from upath import UPath

from aoti_serve.cluster.transfer.broadcast import ChunkBroadcast
from aoti_serve.cluster.transfer.chunks import ChunkPlan
from aoti_serve.cluster.transfer.shared_calls import SharedCalls
from aoti_serve.signature.tensors import Span

IDLE_S = 5.0
FilePath: TypeAlias = Path | UPath


class FileTransfer:
    """One file under way. `index` says where its tensors lie in it; `received` counts bytes, by node and replica."""

    def __init__(
        self,
        plan: ChunkPlan,
        broadcast: ChunkBroadcast,
        index: Callable[[], Awaitable[dict[str, Span]]],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.broadcast = broadcast
        self.received: dict[str, dict[str, int]] = {}
        self.users = 0
        self._index: SharedCalls[None, dict[str, Span]] = SharedCalls(lambda _: index())
        self._close = close

    async def index(self) -> dict[str, Span]:
        return await self._index.get(None)

    def close(self) -> None:
        self.broadcast.close()
        self._close()


class FileTransfers:
    """Opens a file when a reader asks, and closes it when none has for `IDLE_S`. Runs in an event loop."""

    def __init__(self, open_file: Callable[[FilePath, ChunkPlan], Awaitable[FileTransfer]]) -> None:
        self._open_file = open_file
        self._open: dict[FilePath, FileTransfer] = {}
        self._opening = asyncio.Lock()
        self._timers: dict[FilePath, asyncio.TimerHandle] = {}

    @asynccontextmanager
    async def using(self, path: FilePath, nbytes: int) -> AsyncIterator[FileTransfer]:
        """The file of `nbytes` at `path`, which stays open for the length of the block."""
        async with self._opening:
            if path not in self._open:
                self._open[path] = await self._open_file(path, ChunkPlan.of(nbytes))
            file = self._open[path]
            file.users += 1
        try:
            yield file
        finally:
            file.users -= 1
            self._close_later(path)

    def find(self, path: FilePath) -> FileTransfer | None:
        """The file at `path` if it is under way."""
        return self._open.get(path)

    def _close_later(self, path: FilePath) -> None:
        if timer := self._timers.pop(path, None):
            timer.cancel()
        self._timers[path] = asyncio.get_running_loop().call_later(IDLE_S, self._close_idle, path)

    def _close_idle(self, path: FilePath) -> None:
        del self._timers[path]
        if not self._open[path].users:
            self._open.pop(path).close()
