"""A check whose outcome is shared: what it costs must not grow with the number of those who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SharedCheck:
    """Runs `check` one at a time, in the event loop of those who ask."""

    def __init__(self, check: Callable[[], Awaitable[None]]) -> None:
        self._check = check
        self._last: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def passed(self) -> None:
        """Wait for a check that has begun after this call; raises what it raises. One check serves many calls."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run_after(self._last))
        await asyncio.shield(self._next)

    async def _run_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._last, self._next = self._next, None
        await self._check()
