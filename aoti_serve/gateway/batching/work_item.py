"""The unit of work: the rows of one request, or some of the rows of a request that is larger than a batch.

A large request is cut into pieces, which run in any order and are joined again. One version computes all of them.
"""

from __future__ import annotations

import math
from asyncio import Future
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import RuntimeFailed, VersionsDiffer
from aoti_serve.link.messages import AnswerMessage
from aoti_serve.signature.padding import Lengths

Arrays = list[NDArray[Any]]
Shape = tuple[tuple[int, ...], ...]

ROUNDS = 5  # swaps that may come in between, one after the other


class RunOutputs:
    """All that one run has computed, for whoever reads it once for all its requests. `finite` is None until then.

    `replica` is who has run it; None for rows of several runs.
    """

    __slots__ = ("arrays", "finite", "replica", "size")

    def __init__(self, arrays: Arrays, replica: str | None = None) -> None:
        self.arrays = arrays
        self.replica = replica
        self.size = sum([array.size for array in arrays])
        self.finite: bool | None = None


class Rows(NamedTuple):
    """The part of an answer that belongs to one request. `left` is the loop's time at which its first rows left.

    `run` is the whole of which it is a part; a request in pieces is one of its own.
    """

    version: int
    outputs: Arrays
    left: float
    run: RunOutputs


@dataclass(slots=True, eq=False)
class WorkItem:
    """Rows that stay together, in the gateway's event loop.

    `future` is the request's, one for all its pieces. It is done when the pieces are not needed any more: answered,
    failed, expired, or the caller has gone. A lower `rank` goes first, and of equal ones the lower `number`. `start`
    is the place of its first row in its request, `version` that of its answer. `queue` is where it waits. `unwanted`
    tells the batch in which it runs that no caller waits for it any more. `died` says that a replica has died with it.
    Rows of one `shape` wait together; `lengths` are their own, where they may be padded.
    Times are the loop's.
    """

    arrays: Arrays
    shape: Shape
    rows: int
    nbytes: int
    level: int
    arrival: float
    rank: float
    deadline: float | None
    future: Future[Rows]
    lengths: Lengths = field(default_factory=dict)
    split: Split | None = None
    start: int = 0
    version: int = 0
    number: int = field(default_factory=count().__next__)
    queue: object | None = None
    unwanted: Callable[[], None] | None = None
    died: bool = False

    @property
    def counted(self) -> int:
        """Its rows for the limit on waiting rows. Of a large request only the first piece counts."""
        return 0 if self.start else self.rows or 1

    @property
    def family(self) -> list[WorkItem]:
        """All pieces of its request."""
        return self.split.pieces if self.split else [self]


def cuts(rows: int, largest: int, smallest: int) -> list[slice]:
    """The fewest pieces of at most `largest` rows, of nearly equal size.

    If equal pieces would be below `smallest`, they have that size and the last one overlaps the one before. Then some
    rows are computed twice, but every model takes the pieces.
    """
    number = -(-rows // largest)
    if rows // number >= smallest:
        return [slice(rows * index // number, rows * (index + 1) // number) for index in range(number)]
    starts = [min(index * smallest, rows - smallest) for index in range(number)]
    return [slice(start, start + smallest) for start in starts]


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
        places = cuts(whole.rows, largest, smallest)
        self.rest = sum([place.stop - place.start for place in places])
        self._waits_for = len(places)
        self._following: Iterator[WorkItem] = map(self._make_piece, places)
        self._outputs: Arrays = []
        self._left = math.inf
        self._newest = (-1, -1)  # epoch and version: numbers of versions fall again in a rollback, epochs never do
        self._rounds = 0

    def next(self, rank: float) -> WorkItem | None:
        """The piece that enters the queue now, with this rank; None if no piece follows."""
        piece = next(self._following, None)
        if piece is not None:
            piece.rank = rank
            self.rest -= piece.rows
        return piece

    def _make_piece(self, place: slice) -> WorkItem:
        whole, rows = self._whole, place.stop - place.start
        arrays = [array[place] for array in whole.arrays]
        facts = whole.level, whole.arrival, whole.rank, whole.deadline, whole.future, whole.lengths
        piece = WorkItem(arrays, whole.shape, rows, rows * self.row_bytes, *facts, self, place.start)
        self.pieces.append(piece)
        return piece

    def place(self, piece: WorkItem, answer: AnswerMessage, rows: Rows) -> bool:
        """Store the rows of a piece; the last piece answers the request. Returns true if pieces must run again."""
        piece.version = rows.version
        self._keep(slice(piece.start, piece.start + piece.rows), rows.outputs)
        self._left = min(self._left, rows.left)
        self._newest = max(self._newest, (answer.epoch, answer.version))
        self._waits_for -= 1
        return not self._waits_for and self._complete()

    def _complete(self) -> bool:
        future, version = self._whole.future, self._newest[1]
        late = [piece for piece in self.pieces if piece.version != version]
        if late and self._rounds < ROUNDS:
            self._run_again(late)
            return True
        if late:
            future.set_exception(VersionsDiffer(model=self._model, rounds=self._rounds))
        else:
            future.set_result(Rows(version, self._outputs, self._left, RunOutputs(self._outputs)))
        self.dissolve()
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
        self._outputs = []
        self.rest = 0

    def _keep(self, place: slice, outputs: Arrays) -> None:
        """Copy the rows of a piece to their place, while other pieces run."""
        if not self._outputs:
            rows = self._whole.rows
            self._outputs = [np.empty((rows, *array.shape[1:]), array.dtype) for array in outputs]
        for whole, array in zip(self._outputs, outputs, strict=True):
            if array.shape[1:] != whole.shape[1:]:
                shapes = f"{list(whole.shape[1:])} and {list(array.shape[1:])}"
                raise RuntimeFailed(call="run", detail=f"rows of one request have the shapes {shapes}")
            whole[place] = array
