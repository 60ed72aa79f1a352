"""Notices that this process was stopped for a while: what it knows of the others may be out of date then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PAUSE_TICK_S = 0.25
STOPPED_S = 1.5  # seconds between two ticks after which a process was not only busy


def boottime() -> float:
    """Seconds that go on while the machine is suspended, where those of `time.monotonic` stand still."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PauseDetector:
    """Notices gaps of `clock`, and calls `wake` at each. Runs in a member's event loop."""

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float] = boottime) -> None:
        self._wake = wake
        self._clock = clock
        self.woke = self._ticked = clock()
        self._fresh = asyncio.Event()

    async def tick(self) -> None:
        """Check again and again; for ever, as a task."""
        while True:
            self.check()
            await asyncio.sleep(PAUSE_TICK_S)

    def learn(self, asked: float) -> None:
        """The member follows the target that it asked for at `asked`, in seconds of the clock."""
        self.check()
        if asked >= self.woke:
            self._fresh.set()

    @property
    def fresh(self) -> bool:
        """Whether it has followed a target since it last woke up."""
        self.check()
        return self._fresh.is_set()

    async def refreshed(self) -> None:
        """Return when what this member knows is no older than its last awakening; nearly always at once."""
        self.check()
        await self._fresh.wait()

    def check(self) -> None:
        now = self._clock()
        if now - self._ticked > STOPPED_S:
            self.woke = now
            self._fresh.clear()
            self._wake()
        self._ticked = now
