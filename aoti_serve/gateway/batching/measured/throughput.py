"""How many rows runners get done."""

from __future__ import annotations

from aoti_serve.gateway.batching.measured.cost import PAUSE

RECENT_BATCHES = 0.1  # the weight of the latest


class Throughput:
    """Rows per second and runner, averaged over recent batches, the latest weighing most.

    By Little's law: if a batch was answered after D seconds, and L batches were under way all the while, then one was
    answered every D / L seconds, and each of R runners took R * D / L for one. This holds however long batches wait in
    the replicas, and when several gateways share the replicas. Means of rows and of seconds are kept apart, so that
    small batches weigh no more than they should.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._rows = 0.0
        self._seconds = 0.0

    def note(self, rows: int, runner_seconds: float) -> None:
        """Note a batch of `rows` and its share of a runner's time. Only for batches behind which others waited."""
        if self._batches:
            runner_seconds = min(runner_seconds, PAUSE * self._seconds)
        self._batches += 1
        weight = max(RECENT_BATCHES, 1 / self._batches)
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (runner_seconds - self._seconds)

    def rows_per_second(self, runners: int) -> float | None:
        """The throughput of `runners` together; None while it is not known."""
        if not runners or not self._seconds:
            return None
        return runners * self._rows / self._seconds
