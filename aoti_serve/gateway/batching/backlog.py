"""The backlog: all waiting rows, their order, and their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from aoti_serve.gateway.batching.lengths import Company, longest
from aoti_serve.gateway.batching.work_item import Shape, Split, WorkItem
from aoti_serve.protocol.messages import LEAST_URGENT

Entry = tuple[float, int, WorkItem]  # by rank, then by number
FEW_ENTRIES = 64  # entries that are not worth a clean-up
MANY_WAITING = 64  # requests: to read and to answer them takes about as long as to run them


@dataclass(slots=True)
class ShapeQueue:
    """The waiting pieces of one shape, as a heap. A piece that leaves out of turn stays in it until it is skipped.

    `rows` and `live` count the pieces that still wait; `since` is the arrival of the first of them.
    """

    since: float
    heap: list[Entry] = field(default_factory=list)
    rows: int = 0
    live: int = 0

    def tidy(self) -> None:
        """Drop withdrawn entries from the front; rebuild the heap once they outnumber the live ones."""
        while self.heap[0][2].queue is not self:
            heappop(self.heap)
        if len(self.heap) > 2 * self.live + FEW_ENTRIES:
            self.heap = [entry for entry in self.heap if entry[2].queue is self]
            heapify(self.heap)


class BatcherLoad(NamedTuple):
    """What a batcher has in hand: rows that wait, their bytes, batches that have left; and runners for them."""

    rows: int
    nbytes: int
    batches: int
    runners: int


class Backlog:
    """The queues of all shapes. Lives in the gateway's event loop.

    Of a large request one piece waits. `later` counts the rows of the pieces that follow; their bytes are in `nbytes`
    already. A piece without rows counts as one row. `ample` counts the shapes of which more than half a batch waits, or
    more than `MANY_WAITING` requests.

    Costs: O(log n) for a piece that enters or leaves, O(shapes) to choose a batch.
    """

    def __init__(self, largest: int, delay: float) -> None:
        self.rows = 0
        self.later = 0
        self.nbytes = 0
        self.ample = 0
        self._largest = largest
        self._half = largest // 2
        self._delay = delay
        self._queues: dict[Shape, ShapeQueue] = {}
        self._rows_at = [0] * (LEAST_URGENT + 1)
        self._counted_at = [0] * (LEAST_URGENT + 1)

    @property
    def shapes(self) -> int:
        return len(self._queues)

    def rows_before(self, level: int) -> int:
        """The rows of this level of priority, and of more urgent levels."""
        return sum(self._rows_at[: level + 1])

    def counted_before(self, level: int) -> int:
        """As `rows_before`, but of a large request only the first piece counts."""
        return sum(self._counted_at[: level + 1])

    def waiting(self) -> Iterator[WorkItem]:
        """All pieces that wait, in no order; O(n)."""
        for queue in self._queues.values():
            for _, _, piece in queue.heap:
                if piece.queue is queue:
                    yield piece

    def enter(self, piece: WorkItem) -> None:
        queue = self._queues.get(piece.shape)
        if queue is None:
            queue = self._queues[piece.shape] = ShapeQueue(piece.arrival)
        heappush(queue.heap, (piece.rank, piece.number, piece))
        piece.queue = queue
        queue.since = min(queue.since, piece.arrival)
        self._count(queue, [piece], 1)

    def enter_split(self, split: Split, rank: float) -> None:
        """Enter the first piece of a request that is larger than a batch, or that must run again in parts."""
        self.later += split.rest
        self.nbytes += split.rest * split.row_bytes
        self.follow(split, rank)

    def follow(self, split: Split, rank: float) -> None:
        """Enter the next piece, if there is one."""
        piece = split.next(rank)
        if piece is not None:
            self.later -= piece.rows
            self.nbytes -= piece.nbytes
            self.enter(piece)

    def withdraw_all(self, split: Split) -> list[WorkItem]:
        """Withdraw the waiting piece, and all that follow it."""
        while split.rest:
            self.follow(split, 0.0)
        waiting = [piece for piece in split.pieces if piece.queue]
        for piece in waiting:
            self.withdraw(piece)
        return waiting

    def drop(self, split: Split) -> None:
        """Forget the pieces of this request that have not entered yet."""
        self.later -= split.rest
        self.nbytes -= split.rest * split.row_bytes
        split.dissolve()

    def withdraw(self, piece: WorkItem) -> None:
        """Withdraw a waiting piece, wherever it stands."""
        queue = self._queues[piece.shape]
        assert piece.queue is queue, "it does not wait"
        self._leave(queue, [piece])
        self._close(queue, piece.shape)

    def take(self, now: float, company: Company | None = None) -> list[WorkItem]:
        """Take the next batch; empty if all rows may still wait for company, see `due`.

        `company` says which rows of other shapes, with which they can be padded, join it.
        """
        batch: list[WorkItem] = []
        while not batch and (queue := self._next(now)) is not None:
            taken = self._take_from(queue, self._largest, whole=True)
            if company is not None and self._queues and company.may_join():
                taken += self._joining(taken, company)
            # A caller that has gone may not have been able to say so yet.
            batch = [piece for piece in taken if not piece.future.done()]
        return batch

    def due(self) -> float:
        """The earliest time at which a queue has waited for company long enough."""
        return min(queue.since for queue in self._queues.values()) + self._delay

    def _next(self, now: float) -> ShapeQueue | None:
        """The queue that is due and whose first piece goes before those of all other queues that are due."""
        queues: Any = self._queues.values()
        if self._delay:
            queues = [queue for queue in queues if queue.rows >= self._largest or queue.since + self._delay <= now]
        return min(queues, key=lambda queue: queue.heap[0], default=None)

    def _joining(self, taken: list[WorkItem], company: Company) -> list[WorkItem]:
        """Take those who go along, of the other queues in their order."""
        shape, room = taken[0].shape, self._largest - sum([piece.rows or 1 for piece in taken])
        joining: list[WorkItem] = []
        for other in sorted(self._queues, key=lambda other: self._queues[other].heap[0]):
            queue = self._queues[other]
            rows = min(queue.rows, room)
            if rows and other != shape and company.joins(self._largest - room, shape, rows, other):
                found = self._take_from(queue, room)
                room -= sum([piece.rows or 1 for piece in found])
                shape = longest(shape, other) if found else shape
                joining += found
        return joining

    def _take_from(self, queue: ShapeQueue, room: int, *, whole: bool = False) -> list[WorkItem]:
        """Take what leaves of one queue: so many rows at most, but a first piece that is larger if `whole`."""
        shape = queue.heap[0][2].shape
        taken = self._fill(queue, room, whole)
        self._leave(queue, taken)
        self._close(queue, shape)
        if queue.live:
            queue.since = queue.heap[0][2].arrival
        return taken

    def _fill(self, queue: ShapeQueue, room: int, whole: bool) -> list[WorkItem]:
        heap = queue.heap
        taken: list[WorkItem] = []
        rows = 0
        while heap:
            piece = heap[0][2]
            if piece.queue is queue:
                rows += piece.rows or 1
                if rows > room and (taken or not whole):
                    break
                taken.append(piece)
            heappop(heap)
        return taken

    def _ample(self, queue: ShapeQueue) -> bool:
        return queue.rows > self._half or queue.live > MANY_WAITING

    def _leave(self, queue: ShapeQueue, pieces: list[WorkItem]) -> None:
        self._count(queue, pieces, -1)
        for piece in pieces:
            piece.queue = None

    def _count(self, queue: ShapeQueue, pieces: list[WorkItem], sign: int) -> None:
        """Count pieces that enter (`sign` 1) or leave (-1)."""
        was_ample = self._ample(queue)
        for piece in pieces:
            rows = sign * (piece.rows or 1)
            queue.live += sign
            queue.rows += rows
            self.rows += rows
            self.nbytes += sign * piece.nbytes
            self._rows_at[piece.level] += rows
            self._counted_at[piece.level] += sign * piece.counted
        self.ample += self._ample(queue) - was_ample

    def _close(self, queue: ShapeQueue, shape: Shape) -> None:
        if queue.live:
            queue.tidy()
        else:
            del self._queues[shape]
