"""What a batcher has learned from the batches that were answered."""

from __future__ import annotations

from aoti_serve.gateway.batching.batch import Batch
from aoti_serve.gateway.batching.cost import Cost
from aoti_serve.gateway.batching.pace import Pace
from aoti_serve.gateway.batching.returns import Returns

QUICK_S = 0.1e-3


class Measures:
    """In the gateway's event loop. Without `holds` nobody asks how soon callers return, and it is not measured."""

    def __init__(self, *, holds: bool) -> None:
        self.pace = Pace()
        self.cost = Cost()
        self.returns = Returns()
        self._holds = holds

    def learn(self, batch: Batch, now: float, others: int) -> None:
        """It has been answered, while so many rows of others are in hand.

        Its callers may ask again: of no use if nobody else is there, or if a hold saves less than to think of it takes.
        """
        seconds = now - batch.left
        if batch.prompt:
            self.cost.note(batch.rows, seconds)
        if batch.share:
            self.pace.note(batch.rows, seconds * batch.share)
        if self._holds and seconds > QUICK_S and (others or len(batch.pieces) > 1):
            self.returns.answered(batch.wanted, now, seconds)
        else:
            self.returns.strangers = 0

    def seconds(self, rows: int, runners: int) -> float:
        """In which so many rows leave while others wait; 0 while that is not known."""
        pace = self.pace.rows_per_second(runners)
        return rows / pace if pace else self.cost.seconds(rows) / max(1, runners)
