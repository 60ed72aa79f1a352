"""Reads a place that may hang for ever, such as a file server that is gone, without hanging with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from aoti_serve.errors import UnreadableWeights

T = TypeVar("T")
PLACE_TIMEOUT_S = 60.0


class PlaceReader:
    """Runs one read at a time in a thread of its own, which does not keep the process from ending.

    `place` is the name that errors show. Raises UnreadableWeights if a read takes longer than `seconds`, and for all
    further ones until it has returned.
    """

    def __init__(self, place: str, seconds: float = PLACE_TIMEOUT_S) -> None:
        self._place = place
        self._seconds = seconds
        self.busy = False

    async def read(self, work: Callable[[], T]) -> T:
        """Do `work`, and return its result."""
        if self.busy:
            raise UnreadableWeights(detail=f"{self._place}: an earlier look at it has not returned yet")
        self.busy = True
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        threading.Thread(target=self._run, args=(work, loop, done), name="follow", daemon=True).start()
        try:
            async with asyncio.timeout(self._seconds):
                return await done
        except TimeoutError:
            raise UnreadableWeights(detail=f"{self._place}: no answer within {self._seconds:g} s") from None

    def _run(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop, done: asyncio.Future[T]) -> None:
        try:
            result = work()
        except BaseException as error:
            self._tell(loop, done, error=error)
        else:
            self._tell(loop, done, result=result)

    def _tell(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], **outcome: object) -> None:
        def tell() -> None:
            self.busy = False
            if done.done():  # nobody waits any more
                return
            if "error" in outcome:
                done.set_exception(outcome["error"])  # type: ignore[arg-type]
            else:
                done.set_result(outcome["result"])  # type: ignore[arg-type]

        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell)
