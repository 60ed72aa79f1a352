"""How late an event loop is."""

from __future__ import annotations

import asyncio

LAG_TICK_S = 0.1


class LoopLag:
    """Measures by how much a timer is late: so long does whatever arrives wait for the loop."""

    def __init__(self) -> None:
        self._worst = 0.0

    async def run(self) -> None:
        """Measure again and again; for ever, as a task."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_TICK_S
            await asyncio.sleep(LAG_TICK_S)
            self._worst = max(self._worst, loop.time() - due)

    def take(self) -> float:
        """The longest in seconds since this was last asked."""
        worst, self._worst = self._worst, 0.0
        return worst
