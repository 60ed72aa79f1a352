"""The measurements of a batcher, taken from answered batches."""

from __future__ import annotations

from aoti_serve.gateway.batching.batch import Batch
from aoti_serve.gateway.batching.measured.cost import Cost
from aoti_serve.gateway.batching.measured.returns import Returns
from aoti_serve.gateway.batching.measured.throughput import Throughput

QUICK_S = 0.1e-3


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
