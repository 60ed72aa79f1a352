"""Whether this process was stopped for a while: what it knows of the others may be history then."""

from __future__ import annotations

import asyncio
import time

PAUSE_TICK_S = 0.25
STOPPED_S = 1.5  # seconds between two ticks after which a process was not only busy


class PauseDetector:
    """A clock that notices its own gaps. Runs in a member's event loop."""

    def __init__(self) -> None:
        self.woke = self._ticked = time.monotonic()
        self._fresh = asyncio.Event()

    async def tick(self) -> None:
        """For ever; as a task."""
        while True:
            self._look()
            await asyncio.sleep(PAUSE_TICK_S)

    def learnt(self, asked: float) -> None:
        """News has come, to a question that was put at `asked`, in seconds of time.monotonic()."""
        self._look()
        if asked >= self.woke:
            self._fresh.set()

    @property
    def fresh(self) -> bool:
        """Whether there was news since it last woke up."""
        self._look()
        return self._fresh.is_set()

    async def refreshed(self) -> None:
        """Return at once, but for a process that has just woken up: then, when it knows what stands."""
        self._look()
        await self._fresh.wait()

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._ticked > STOPPED_S:
            self.woke = now
            self._fresh.clear()
        self._ticked = now
