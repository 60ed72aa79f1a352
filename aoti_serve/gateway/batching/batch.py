"""A batch: requests that run together, and the parts of it that must run again."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aoti_serve.errors import RuntimeFailed, quantity
from aoti_serve.gateway.batching.lengths import RowPadding
from aoti_serve.gateway.batching.work_item import Arrays, Rows, RunOutputs, WorkItem
from aoti_serve.link.messages import AnswerMessage

RunBatch = Callable[[Arrays, float | None], Coroutine[Any, Any, AnswerMessage]]


@dataclass(slots=True)
class Batch:
    """The work for which one runner is held: `pieces` run together; if that fails, parts of them run again.

    Lives in the gateway's event loop. `left` is the time at which it left, `rows` how many rows it had then. `prompt`
    says that a runner was free for it. `share` is the part of a runner that was its own: runners divided by batches
    under way; 0 if it is not to be measured. `lengths` pads rows where they differ.
    """

    pieces: list[WorkItem]
    left: float
    rows: int
    prompt: bool
    share: float
    lengths: RowPadding
    task: Task[AnswerMessage] | None = None
    _again: list[list[WorkItem]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for piece in self.pieces:
            piece.unwanted = self.cancel_if_unwanted

    @property
    def wanted(self) -> int:
        """The rows of whole requests that still wait for this answer."""
        return sum([piece.rows for piece in self.pieces if piece.split is None and not piece.future.done()])

    async def answer(self, run: RunBatch, now: float) -> AnswerMessage:
        """Run once. The arrays are joined here: if that fails, only this batch fails."""
        return await run(self.lengths.joined(self.pieces), self._longest_timeout(now))

    def _longest_timeout(self, now: float) -> float | None:
        """The longest time in seconds that one of its requests still has; None if one has no deadline."""
        latest = now
        for piece in self.pieces:
            if piece.deadline is None:
                return None
            latest = max(latest, piece.deadline)
        return latest - now

    def wrong_rows(self, answer: AnswerMessage) -> RuntimeFailed | None:
        """The error of an answer in which an output has not one row for each row of the inputs."""
        if len(self.pieces) == 1 and self.pieces[0].split is None:
            return None
        rows = sum(piece.rows for piece in self.pieces)
        for index, array in enumerate(answer.outputs):
            if array.shape[:1] != (rows,):
                detail = f"output {index} of a batch of {quantity(rows, 'rows')} has the shape {list(array.shape)}"
                return RuntimeFailed(call="run", detail=detail)
        return None

    def halve(self) -> None:
        """Run each half again, the first half first."""
        middle = len(self.pieces) // 2
        self._again += [self.pieces[middle:], self.pieces[:middle]]

    def scatter(self, others: list[WorkItem]) -> None:
        """Run each piece again, alone; after it `others`, which belong to the same requests."""
        alone = [*self.pieces, *others]
        for piece in alone:
            piece.died = True
            piece.unwanted = self.cancel_if_unwanted
        self._again += [[piece] for piece in reversed(alone)]

    def advance(self) -> bool:
        """Turn to the next part that must run again and is still wanted. Returns false if none is left."""
        self.pieces = []
        self.prompt, self.share = False, 0.0  # what runs again says nothing of the pace
        while self._again and not self.pieces:
            self.pieces = [piece for piece in self._again.pop() if not piece.future.done()]
        return bool(self.pieces)

    def cancel_if_unwanted(self) -> None:
        """Cancel the run if no request waits for it any more; the replica then need not begin it."""
        if self.task is not None and all(piece.future.done() for piece in self.pieces):
            self.task.cancel()


def deliver(pieces: list[WorkItem], answer: AnswerMessage, left: float, lengths: RowPadding) -> list[WorkItem]:
    """Give every request its rows, which left at the time `left`, at their own lengths.

    Returns the pieces of requests of which some pieces must run again.
    """
    version, outputs, late = answer.version, answer.outputs, list[WorkItem]()
    run, start = RunOutputs(outputs, answer.replica), 0
    for piece in pieces:
        stop = start + piece.rows
        if not piece.future.done():
            whole = len(pieces) == 1
            own = list(outputs) if whole else lengths.cut([array[start:stop] for array in outputs], piece)
            rows = Rows(version, own, left, run)
            if piece.split is None:
                piece.future.set_result(rows)
            elif piece.split.place(piece, answer, rows):
                late.append(piece)
        start = stop
    return late
