"""Work that would hold up the event loop, done in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
LONGEST_REST_S = 0.2


class Offload:
    """One thread of a gateway, which does one thing after the other: several would only fight for the GIL.

    What is done there may hold the GIL for long, again and again: so after each work it rests for as long as that took,
    and the loop has half of the time to itself. Who is cancelled while it waits for its turn costs nothing.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="offload")
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Raises what `work` raises."""
        loop = asyncio.get_running_loop()
        await self._turn.acquire()
        began = loop.time()
        try:
            return await loop.run_in_executor(self._thread, work, *arguments)
        finally:
            loop.call_later(min(loop.time() - began, LONGEST_REST_S), self._turn.release)
