"""Hands one file's chunks to its readers, as objects in Ray's object store.

The rules are those of `ChunkWindow`; here are the event loop, its timer, and the objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from aoti_serve.cluster.transfer.chunks import ChunkRef
from aoti_serve.cluster.transfer.shared_calls import SharedCalls
from aoti_serve.cluster.transfer.window import ChunkWindow, Grant


class ChunkBroadcast:
    """Runs in an event loop. `fetch` gets a chunk; it is called once for all readers that are granted it.

    `left_behind` is called with every reader that is left behind.
    """

    def __init__(
        self,
        window: ChunkWindow,
        fetch: Callable[[int], Awaitable[ChunkRef]],
        left_behind: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._window = window
        self._chunks = SharedCalls(fetch)
        self._left_behind = left_behind
        self._loop = asyncio.get_running_loop()
        self._turns: dict[Grant, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def chunk(self, reader: str, number: int) -> list[ChunkRef]:
        """Chunk `number` for a reader that has all before it, in a list, else Ray would resolve it.

        Beyond the last chunk the reader has the whole file, and the list is empty. Waits until it is the reader's turn.
        Raises what `fetch` raises.
        """
        if number >= self._window.chunks:
            self._admit(self._window.ask(reader, number, self._loop.time()))
            return []
        turn = self._turns.setdefault(Grant(reader, number), self._loop.create_future())
        self._admit(self._window.ask(reader, number, self._loop.time()))
        try:
            await asyncio.shield(turn)
            ref = await self._chunks.get(number)
        except BaseException:  # it failed, or the caller has given up
            self._admit(self._window.leave(reader))
            raise
        self._window.hand(reader, number, self._loop.time())
        self._after_event()
        return [ref]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._chunks.drop()

    def _admit(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            if turn := self._turns.pop(grant, None):
                turn.set_result(None)
        self._after_event()

    def _after_event(self) -> None:
        self._chunks.drop(self._window.keeps)
        deadline = self._window.deadline()
        if self._timer is None and deadline is not None:
            self._timer = self._loop.call_at(deadline, self._leave_overdue)

    def _leave_overdue(self) -> None:
        self._timer = None
        while reader := self._window.overdue(self._loop.time()):
            self._left_behind(reader)
            self._admit(self._window.leave(reader))
        self._after_event()
