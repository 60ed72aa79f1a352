"""A request larger than a batch: cut into pieces, run in any order, rejoined, and all of one version."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aoti_serve.errors import VersionsDiffer
from aoti_serve.gateway.piece import Answered, Arrays, Piece, Rows

ROUNDS = 5  # swaps that may come in between, one after the other


class Cut(NamedTuple):
    """Rows `start` to `stop` of a request; the first `known` of them are in the piece before, too."""

    start: int
    stop: int
    known: int = 0


def cuts(rows: int, largest: int, smallest: int) -> list[Cut]:
    """The fewest pieces of at most `largest` rows, nearly equal.

    Where equal ones would be below `smallest`, they are of that size and the last overlaps the one before: some rows
    are computed twice, and every model takes them.
    """
    count = -(-rows // largest)
    if rows // count >= smallest:
        return [Cut(rows * index // count, rows * (index + 1) // count) for index in range(count)]
    last = rows - smallest
    found = [Cut(index * smallest, (index + 1) * smallest) for index in range(count - 1)]
    return [*found, Cut(last, rows, (count - 1) * smallest - last)]


def divided(whole: Piece, model: str, largest: int, smallest: int) -> list[Piece]:
    """A request in pieces that know of each other, in order; the first one counts for all of them."""
    parts = cuts(whole.rows, largest, smallest)
    split = Split(model, parts)
    for start, stop, _ in parts:
        arrays = [array[start:stop] for array in whole.arrays]
        nbytes = sum([array.nbytes for array in arrays])
        facts = whole.level, whole.arrival, whole.rank, whole.deadline, whole.future
        split.pieces.append(Piece(arrays, whole.shape, stop - start, nbytes, *facts, split))
    for piece in split.pieces[1:]:
        piece.counted = 0
    return split.pieces


class Split:
    """One request in pieces, which are views of its arrays."""

    def __init__(self, model: str, parts: list[Cut]) -> None:
        self.pieces: list[Piece] = []
        self._model = model
        self._known = [part.known for part in parts]
        self._answers: dict[Piece, Rows] = {}
        self._waits_for = len(parts)
        self._newest = (-1, -1)  # epoch and version: numbers of versions fall again in a rollback, epochs never do
        self._rounds = 0

    def place(self, piece: Piece, answer: Answered, rows: Rows) -> list[Piece]:
        """Take a piece's rows; with the last of them answer the request, or name the pieces to be run again."""
        self._answers[piece] = rows
        if answer.epoch >= self._newest[0]:
            self._newest = (answer.epoch, answer.version)
        self._waits_for -= 1
        return [] if self._waits_for else self._complete(piece)

    def _complete(self, last: Piece) -> list[Piece]:
        version = self._newest[1]
        late = [piece for piece in self.pieces if self._answers[piece].version != version]
        if not late:
            last.future.set_result(Rows(version, self._joined()))
            self.dissolve()
        elif self._rounds == ROUNDS:
            last.future.set_exception(VersionsDiffer(model=self._model, rounds=self._rounds))
            self.dissolve()
        else:
            self._rounds += 1
            self._waits_for = len(late)
            return late
        return []

    def dissolve(self) -> None:
        """Let go of the pieces, so that their memory does not wait for the garbage collector."""
        self.pieces = []
        self._answers = {}

    def _joined(self) -> Arrays:
        answers = [self._answers[piece].outputs for piece in self.pieces]
        return [
            np.concatenate([array[known:] for array, known in zip(arrays, self._known, strict=True)])
            for arrays in zip(*answers, strict=True)
        ]
