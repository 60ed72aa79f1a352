"""Work that would hold up the event loop, done in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Offload:
    """One thread of a gateway, which does one thing after the other: several would only fight for the GIL.

    Who is cancelled while it waits for its turn costs nothing.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="offload")

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Raises what `work` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
