"""Admission control: refuses requests that would wait too long, or for which there is no room."""

from __future__ import annotations

import math

from aoti_serve.config import BatchingConfig
from aoti_serve.errors import QueueFull, WaitTooLong, quantity
from aoti_serve.gateway.batching.backlog import Backlog
from aoti_serve.gateway.batching.measured.throughput import Throughput

MB = 2**20


class AdmissionControl:
    """Decides whether a request may wait, by the measured throughput and by the rows that wait already."""

    def __init__(self, model: str, config: BatchingConfig, largest: int, backlog: Backlog, pace: Throughput) -> None:
        self._model = model
        self._config = config
        self._largest = largest
        self._backlog = backlog
        self._pace = pace
        self._longest_wait = config.longest_wait_s

    def check(self, rows: int, nbytes: int, level: int, runners: int) -> None:
        """Raise QueueFull if a request of this size and level of priority may not wait behind those before it."""
        config, backlog = self._config, self._backlog
        counted = backlog.counted_before(level)
        if counted + min(rows or 1, self._largest) > config.max_queued_rows:
            raise self._full(quantity(counted, "rows"), str(config.max_queued_rows), "max_queued_rows", runners)
        if backlog.nbytes + nbytes > config.max_queued_bytes:
            waiting, limit = (f"{size / MB:.3g} MB" for size in (backlog.nbytes, config.max_queued_bytes))
            raise self._full(waiting, limit, "max_queued_bytes", runners)
        if backlog.rows > runners * self._largest:
            self._check_wait(backlog.rows_before(level), runners)

    def _check_wait(self, before: int, runners: int) -> None:
        pace = self._pace.rows_per_second(runners)
        if pace is None or before <= max(runners * self._largest, pace * self._longest_wait):
            return
        waiting, limit = (f"{1e3 * seconds:.3g} ms" for seconds in (before / pace, self._longest_wait))
        raise self._full(waiting, limit, "max_queue_wait_ms", runners, WaitTooLong)

    def _full(
        self, waiting: str, limit: str, setting: str, runners: int, error: type[QueueFull] = QueueFull
    ) -> QueueFull:
        pace = self._pace.rows_per_second(runners)
        retry_after = math.ceil(self._backlog.rows / pace) if pace else 1
        facts = {"waiting": waiting, "limit": limit, "setting": f"batching.{setting}"}
        return error(model=self._model, retry_after=max(1, retry_after), **facts)
