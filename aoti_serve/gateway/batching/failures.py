"""Failed runs, and requests that no caller waits for any more."""

from __future__ import annotations

from aoti_serve.errors import DeadlineExceeded, NoReplica, PoisonRequest, ReplicaDied, Unavailable, VersionNotResident
from aoti_serve.gateway.batching.backlog import Backlog
from aoti_serve.gateway.batching.batch import Batch
from aoti_serve.gateway.batching.work_item import WorkItem


class Failures:
    """Decides for one model what runs again and what fails. Lives in the gateway's event loop."""

    def __init__(self, model: str, backlog: Backlog) -> None:
        self._model = model
        self._backlog = backlog

    def handle(self, batch: Batch, error: BaseException) -> None:
        """Handle the error of a run. The batch keeps what must run again; the other requests fail."""
        if isinstance(error, ReplicaDied):
            # In company any request may be at fault; a second death alone is this request's fault.
            if batch.pieces[0].died:
                self.fail(batch.pieces, PoisonRequest(model=self._model).with_traceback(error.__traceback__))
            else:
                batch.scatter(self._kin(batch.pieces))
        elif isinstance(error, DeadlineExceeded):  # the longest timeout in the batch has passed, so all have
            for piece in batch.pieces:
                self.fail([piece], error if piece.deadline is None else self.late(piece.deadline - piece.arrival))
        elif len(batch.pieces) == 1 or isinstance(error, Unavailable | VersionNotResident):
            self.fail(batch.pieces, error)
        else:
            batch.halve()

    def fail(self, pieces: list[WorkItem], error: BaseException) -> None:
        for piece in pieces:
            if not piece.future.done():
                piece.future.set_exception(error)
                if piece.split:
                    self.withdraw(piece)

    def expire(self, piece: WorkItem) -> None:
        assert piece.deadline is not None
        if not piece.future.done():
            piece.future.set_exception(self.late(piece.deadline - piece.arrival))
            self.withdraw(piece)

    def give_up(self, piece: WorkItem, error: NoReplica) -> None:
        if not piece.future.done():
            piece.future.set_exception(error)
            self.withdraw(piece)

    def late(self, timeout: float) -> DeadlineExceeded:
        return DeadlineExceeded(model=self._model, timeout=timeout)

    def withdraw(self, piece: WorkItem) -> None:
        """Withdraw a request that no caller waits for."""
        for each in piece.family:
            if each.queue:
                self._backlog.withdraw(each)
                each.arrays = []  # the heap may hold the piece for a while
            elif each.unwanted:
                each.unwanted()
        if piece.split:
            self._backlog.drop(piece.split)

    def _kin(self, pieces: list[WorkItem]) -> list[WorkItem]:
        """The waiting pieces of requests over which a replica may have died. They should run without other requests."""
        splits = dict.fromkeys([piece.split for piece in pieces if piece.split])
        return [piece for split in splits for piece in self._backlog.withdraw_all(split)]
