"""What a batcher has learned from the batches that were answered."""

from __future__ import annotations

from aoti_serve.gateway.batch import Batch
from aoti_serve.gateway.cost import Cost
from aoti_serve.gateway.pace import Pace
from aoti_serve.gateway.returns import Returns

QUICK_S = 0.1e-3


class Measures:
    """In the gateway's event loop. Without `holds` nobody asks how soon callers return, and it is not measured."""

    def __init__(self, *, holds: bool) -> None:
        self.pace = Pace()
        self.cost = Cost()
        self.returns = Returns()
        self._holds = holds

    def learn(self, batch: Batch, seconds: float) -> None:
        """It has been answered so long after it had left."""
        if batch.prompt:
            self.cost.note(batch.rows, seconds)
        if batch.share:
            self.pace.note(batch.rows, seconds * batch.share)

    def answered(self, batch: Batch, now: float, *, alone: bool) -> None:
        """Its callers may ask again. Of no use `alone`, or if a hold saves less than it takes to think of it."""
        if self._holds and not alone and now - batch.left > QUICK_S:
            self.returns.answered(batch.wanted, now, now - batch.left)
        else:
            self.returns.strangers = 0

    def seconds(self, rows: int, runners: int) -> float:
        """In which so many rows leave while others wait; 0 while that is not known."""
        pace = self.pace.rows_per_second(runners)
        return rows / pace if pace else self.cost.seconds(rows) / max(1, runners)
