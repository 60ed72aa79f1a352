"""The unit of work: the rows of one request, or some of the rows of a request that is larger than a batch.

A large request is cut into pieces, which run in any order and are joined again. One version computes all of them.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import RuntimeFailed, VersionsDiffer
from aoti_serve.gateway.batching.cuts import Cut, Cuts

Arrays = list[NDArray[Any]]
Shape = tuple[tuple[int, ...], ...]

# Triton's: a request that says nothing, or 0, has the default.
MOST_URGENT, DEFAULT_PRIORITY, LEAST_URGENT = 1, 5, 9

ROUNDS = 5  # swaps that may come in between, one after the other

_numbers = count()


def shape_of(arrays: Arrays) -> Shape:
    """The shapes of one row of each array."""
    return (arrays[0].shape[1:],) if len(arrays) == 1 else tuple([array.shape[1:] for array in arrays])


class Answered(Protocol):
    """The result of a run: outputs in order, the version that computed them, and the epoch since which it answers."""

    @property
    def version(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    @property
    def outputs(self) -> Arrays: ...


class Cancellable(Protocol):
    """The batch in which a piece leaves, as far as the piece uses it."""

    def cancel_if_unwanted(self) -> None: ...


class Rows(NamedTuple):
    """The part of an answer that belongs to one request."""

    version: int
    outputs: Arrays


class WorkItem:
    """Rows that stay together, in the gateway's event loop.

    `future` is the request's, one for all its pieces. It is done when the pieces are not needed any more: answered,
    failed, expired, or the caller has gone. A lower `rank` goes first, and of equal ones the lower `number`. `queue`
    and `batch` say where it is. `died` says that a replica has died with it. `counted` is its number of rows for the
    limit on waiting rows. Times are the loop's.
    """

    __slots__ = (
        "arrays",
        "arrival",
        "batch",
        "counted",
        "deadline",
        "died",
        "future",
        "level",
        "nbytes",
        "number",
        "queue",
        "rank",
        "rows",
        "shape",
        "split",
    )

    def __init__(
        self,
        arrays: Arrays,
        shape: Shape,
        rows: int,
        nbytes: int,
        level: int,
        arrival: float,
        rank: float,
        deadline: float | None,
        future: Future[Rows],
        split: Split | None = None,
    ) -> None:
        self.arrays = arrays
        self.shape = shape
        self.rows = rows
        self.counted = rows or 1  # so that there is an end to those without rows
        self.nbytes = nbytes
        self.level = level
        self.arrival = arrival
        self.rank = rank
        self.number = next(_numbers)
        self.deadline = deadline
        self.future = future
        self.split = split
        self.queue: object | None = None
        self.batch: Cancellable | None = None
        self.died = False

    @property
    def family(self) -> list[WorkItem]:
        """All pieces of its request."""
        return self.split.pieces if self.split else [self]


class Split:
    """One request in pieces, which are views of its arrays.

    The pieces are made one at a time: the first enters the queue with the request, each further one when the piece
    before has left. `rest` counts the rows of the pieces that follow, and of those that wait to run again.
    """

    def __init__(self, whole: WorkItem, model: str, largest: int, smallest: int) -> None:
        self.pieces: list[WorkItem] = []
        self.row_bytes = whole.nbytes // whole.rows
        self._whole = whole
        self._model = model
        self._cuts = Cuts(whole.rows, largest, smallest)
        self.rest = self._cuts.total
        self._waits_for = self._cuts.count
        self._following: Iterator[WorkItem] = (self._make_piece(index) for index in range(self._waits_for))
        self._cut_of: dict[WorkItem, Cut] = {}
        self._versions: dict[WorkItem, int] = {}
        self._outputs: Arrays = []
        self._newest = (-1, -1)  # epoch and version: numbers of versions fall again in a rollback, epochs never do
        self._rounds = 0

    def next(self, rank: float) -> WorkItem | None:
        """The piece that enters the queue now, with this rank; None if no piece follows."""
        piece = next(self._following, None)
        if piece is not None:
            piece.rank = rank
            self.rest -= piece.rows
        return piece

    def _make_piece(self, index: int) -> WorkItem:
        whole, cut = self._whole, self._cuts.cut(index)
        arrays = [array[cut.start : cut.stop] for array in whole.arrays]
        rows = cut.stop - cut.start
        facts = whole.level, whole.arrival, whole.rank, whole.deadline, whole.future
        piece = WorkItem(arrays, whole.shape, rows, rows * self.row_bytes, *facts, self)
        if index:
            piece.counted = 0  # the first one counts for all of them
        self.pieces.append(piece)
        self._cut_of[piece] = cut
        return piece

    def place(self, piece: WorkItem, answer: Answered, rows: Rows) -> bool:
        """Store the rows of a piece; the last piece answers the request. Returns true if pieces must run again."""
        self._versions[piece] = rows.version
        self._keep(self._cut_of[piece], rows.outputs)
        if answer.epoch >= self._newest[0]:
            self._newest = (answer.epoch, answer.version)
        self._waits_for -= 1
        return not self._waits_for and self._complete()

    def _complete(self) -> bool:
        future, version = self._whole.future, self._newest[1]
        late = [piece for piece in self.pieces if self._versions[piece] != version]
        if not late:
            future.set_result(Rows(version, self._outputs))
            self.dissolve()
        elif self._rounds == ROUNDS:
            future.set_exception(VersionsDiffer(model=self._model, rounds=self._rounds))
            self.dissolve()
        else:
            self._run_again(late)
            return True
        return False

    def _run_again(self, late: list[WorkItem]) -> None:
        self._rounds += 1
        self._waits_for = len(late)
        self._following = iter(late)
        self.rest = sum([piece.rows for piece in late])
        for piece in late:
            piece.died = False

    def dissolve(self) -> None:
        """Drop the references to the pieces, so that their memory does not wait for the garbage collector."""
        self._whole.arrays = []
        self._following = iter(())
        self.pieces = []
        self._cut_of, self._versions = {}, {}
        self._outputs = []
        self.rest = 0

    def _keep(self, cut: Cut, outputs: Arrays) -> None:
        """Copy the rows of a piece to their place, while other pieces run."""
        if not self._outputs:
            rows = self._whole.rows
            self._outputs = [np.empty((rows, *array.shape[1:]), array.dtype) for array in outputs]
        for whole, array in zip(self._outputs, outputs, strict=True):
            if array.shape[1:] != whole.shape[1:]:
                shapes = [list(each.shape[1:]) for each in (whole, array)]
                raise RuntimeFailed(
                    call="run", detail=f"rows of one request have the shapes {shapes[0]} and {shapes[1]}"
                )
            whole[cut.start : cut.stop] = array
