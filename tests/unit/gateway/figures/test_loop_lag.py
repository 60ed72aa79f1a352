"""The lag of an event loop."""

from __future__ import annotations

import asyncio
import time

from aoti_serve.gateway.figures.loop_lag import LAG_TICK_S, LoopLag


async def test_the_longest_lag_is_told_once() -> None:
    lag = LoopLag()
    measuring = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    time.sleep(2 * LAG_TICK_S)  # what holds up the loop
    while not (worst := lag.take()):
        await asyncio.sleep(0)
    assert worst >= LAG_TICK_S / 2
    measuring.cancel()
