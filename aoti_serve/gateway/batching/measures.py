"""The measurements of a batcher, taken from answered batches."""

from __future__ import annotations

from aoti_serve.gateway.batching.batch import Batch
from aoti_serve.gateway.batching.cost import PAUSE, Cost
from aoti_serve.gateway.batching.returns import Returns

QUICK_S = 0.1e-3
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


class Measures:
    """Throughput, cost and returns of one model, in the gateway's event loop. Returns only if `holds` is true."""

    def __init__(self, *, holds: bool) -> None:
        self.pace = Throughput()
        self.cost = Cost()
        self.returns = Returns()
        self._holds = holds

    def learn(self, batch: Batch, now: float, others: int) -> None:
        """Note an answered batch, while `others` rows of other requests are in hand.

        The return of its clients matters only if others are there, and if a hold saves more than the estimate costs.
        """
        seconds = now - batch.left
        if batch.prompt:
            self.cost.note(batch.rows, seconds)
        if batch.share:
            self.pace.note(batch.rows, seconds * batch.share)
        if self._holds and seconds > QUICK_S and (others or len(batch.pieces) > 1):
            self.returns.note_answered(batch.wanted, now, seconds)
        else:
            self.returns.strangers = 0

    def seconds(self, rows: int, runners: int) -> float:
        """The time in which `rows` leave while others wait; 0 while it is not known."""
        pace = self.pace.rows_per_second(runners)
        return rows / pace if pace else self.cost.seconds(rows) / max(1, runners)
