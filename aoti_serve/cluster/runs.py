"""On which thread a replica's batches run."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aoti_serve.link.messages import Answer, Batch

SHORT_S = 10e-3
SMALL_BYTES = 2**20
RECENT = 16


class Runs:
    """Each runner has a thread, so that the event loop goes on while it runs, with the GIL released.

    But to wake a thread and be woken by it takes some 0.2 ms, and the two fight for the GIL: a third of the throughput
    of a small model. So a replica with one runner, whose recent runs were short, runs small batches on the event loop
    itself: nothing else there could have run meanwhile but what keeps, and for no longer than a short run.
    """

    def __init__(self, num_runners: int, run: Callable[[Batch, float | None], Answer]) -> None:
        self._run = run
        self._threads = ThreadPoolExecutor(num_runners, "runner")
        self._alone = num_runners == 1
        self._elsewhere = 0
        self._recent: deque[float] = deque([SHORT_S] * RECENT, maxlen=RECENT)

    async def answer(self, batch: Batch, deadline: float | None) -> Answer:
        """What `run` answers; `deadline` is of time.monotonic()."""
        if self._may_stay(batch):
            return self._timed(batch, deadline)
        self._elsewhere += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._timed, batch, deadline)
        finally:
            self._elsewhere -= 1

    def _may_stay(self, batch: Batch) -> bool:
        """Whether it may run on the event loop: nobody holds the runner, and it is small and probably short."""
        quick = self._alone and not self._elsewhere and max(self._recent) < SHORT_S
        return quick and sum([array.nbytes for array in batch.arrays]) <= SMALL_BYTES

    def _timed(self, batch: Batch, deadline: float | None) -> Answer:
        began = time.monotonic()
        try:
            return self._run(batch, deadline)
        finally:
            self._recent.append(time.monotonic() - began)
