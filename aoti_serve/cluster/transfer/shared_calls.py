"""Calls that many wait for, and that are made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedCalls(Generic[K, V]):
    """Results of `call` by key, in an event loop: each key is called once for all who await it at any time.

    A failure goes to all who await it now, and is not kept: the next one calls again.
    """

    def __init__(self, call: Callable[[K], Awaitable[V]]) -> None:
        self._call = call
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.get_running_loop().create_task(self._made(key))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # also if nobody waits any more
        return await asyncio.shield(task)

    def drop(self, is_wanted: Callable[[K], bool] = lambda _: False) -> None:
        """Let go of the results that are not wanted any more; calls under way go on."""
        for key, task in list(self._tasks.items()):
            if task.done() and not is_wanted(key):
                del self._tasks[key]

    async def _made(self, key: K) -> V:
        try:
            return await self._call(key)
        except BaseException:
            self._tasks.pop(key, None)
            raise
