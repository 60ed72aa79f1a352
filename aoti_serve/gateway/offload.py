"""Work that would block an event loop, in a thread beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
LONGEST_REST_S = 0.2
LARGE_HEAD_BYTES = 256 * 2**10  # a larger head of a request is read in the thread


class Offload:
    """Runs work that would block the event loop in one thread; several threads would only compete for the GIL.

    Work may hold the GIL for long. So after each work the thread rests for as long as it took, which leaves half of the
    time to the event loop. A caller that is cancelled while it waits for its turn costs nothing.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="offload")
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Run `work` in the thread. Raises what `work` raises."""
        loop = asyncio.get_running_loop()
        await self._turn.acquire()
        began = loop.time()
        try:
            return await loop.run_in_executor(self._thread, work, *arguments)
        finally:
            loop.call_later(min(loop.time() - began, LONGEST_REST_S), self._turn.release)
