"""What a replica measures of its runs."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from time import monotonic

from aoti_serve.cluster.metrics.definitions import BUSY, REPLICA_METRICS, RUNNERS
from aoti_serve.cluster.metrics.export import REPORT_S, MetricExport
from aoti_serve.link.messages import BatchArrays, RunFacts
from aoti_serve.model.package import Package

RunTimes = tuple[float, float, float, float, float]


class ReplicaFigures:
    """How busy the runners of one replica are, for Prometheus, and what each run took, for the gateway."""

    def __init__(self, model: str, package: Package, num_runners: int) -> None:
        self._model = model
        self._runners = num_runners
        batch = package.signature.batch
        sizes = {sizes.get(batch.symbol, 0) for sizes, _ in package.variants} if batch else set()
        self._sizes = sorted(sizes - {0})
        self._lock = threading.Lock()
        self._busy_s = 0.0

    def note_run(self, times: RunTimes, arrays: BatchArrays) -> RunFacts:
        """Note a run; called in the runner's thread. Returns what its gateway is told.

        `times` are those at which the batch arrived, a runner took it, its tensors were there, it had run, and its
        outputs were there, in seconds.
        """
        with self._lock:
            self._busy_s += times[-1] - times[1]
        waited, given, ran, gave = (int((after - before) * 1e9) for before, after in pairwise(times))
        return RunFacts(waited, given, ran, gave, self._padding(arrays))

    def _padding(self, arrays: BatchArrays) -> int:
        if not self._sizes:
            return 0
        rows = int(arrays[0].shape[0])
        return next((size for size in self._sizes if size >= rows), rows) - rows

    async def report(self) -> None:
        """Export again and again; for ever, as a task."""
        export, since, before = MetricExport(REPLICA_METRICS), monotonic(), 0.0
        while True:
            await asyncio.sleep(REPORT_S)
            now, busy = monotonic(), self._busy_s
            export.gauge(RUNNERS, self._runners, self._model)
            export.gauge(BUSY, (busy - before) / (now - since), self._model)
            since, before = now, busy
