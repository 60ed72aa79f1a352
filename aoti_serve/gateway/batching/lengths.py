"""Rows of different lengths: which of them wait together, how they are joined and cut apart, and who joins whom."""

from __future__ import annotations

from functools import reduce
from itertools import count
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.gateway.batching.measured.cost import Cost
from aoti_serve.gateway.batching.work_item import Arrays, Shape, WorkItem
from aoti_serve.signature.padding import Lengths, fill_value, lengths_of
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec

WORTH_JOINING = 0.95  # of the time apart: a smaller gain may be an error of measurement
APART_EVERY = 64  # occasions
MOST_PADDING = 8  # times the elements that were sent
MOST_SHAPES = 256  # of which costs are kept


class RowPadding:
    """How the rows of one model are padded; None for a model whose signature says nothing of it."""

    def __init__(self, signature: Signature | None) -> None:
        self._signature = signature
        names = signature.lengths if signature and signature.batch else ()
        self.padded = bool(names)
        self._names = frozenset(names)

    def of(self, arrays: Arrays) -> tuple[Shape, Lengths]:
        """The shape with whose rows these wait, and their own lengths."""
        if not self.padded:
            return (arrays[0].shape[1:],) if len(arrays) == 1 else tuple([array.shape[1:] for array in arrays]), {}
        assert self._signature is not None
        specs, padding = self._signature.inputs, self._signature.padding
        assert padding is not None
        found = lengths_of(specs, [array.shape for array in arrays])
        own = {name: length for name, length in found.items() if name in self._names}
        fitting = {
            name: size if name in padding.sizes else _about(size) for name, size in padding.compiled(own).items()
        }
        return tuple([spec.shape_at(array.shape, fitting)[1:] for spec, array in zip(specs, arrays, strict=True)]), own

    def joined(self, pieces: list[WorkItem]) -> Arrays:
        """The rows of all pieces, each filled up to the longest."""
        if len(pieces) == 1:
            return pieces[0].arrays
        parts = zip(*[piece.arrays for piece in pieces], strict=True)
        if not self.padded or all(piece.lengths == pieces[0].lengths for piece in pieces):
            return [np.concatenate(each) for each in parts]
        assert self._signature is not None
        lengths = {name: max(piece.lengths[name] for piece in pieces) for name in self._names}
        return [self._padded(spec, each, lengths) for spec, each in zip(self._signature.inputs, parts, strict=True)]

    def cut(self, outputs: Arrays, piece: WorkItem) -> Arrays:
        """The outputs of a piece at its own lengths."""
        if not self.padded:
            return outputs
        assert self._signature is not None
        return [_cut(spec, array, piece.lengths) for spec, array in zip(self._signature.outputs, outputs, strict=True)]

    def _padded(self, spec: TensorSpec, arrays: tuple[NDArray[Any], ...], lengths: Lengths) -> NDArray[Any]:
        assert self._signature is not None
        assert self._signature.padding is not None
        rows = sum(array.shape[0] for array in arrays)
        shape = spec.shape_at((rows, *arrays[0].shape[1:]), lengths)
        found = np.full(shape, fill_value(spec, self._signature.padding.values.get(spec.name, 0)), arrays[0].dtype)
        start = 0
        for array in arrays:
            stop = start + array.shape[0]
            found[(slice(start, stop), *map(slice, array.shape[1:]))] = array
            start = stop
        return found


class Company:
    """Decides whether rows of another length join a batch, by what batches cost.

    What batches of these rows and this length took counts; where none of them ran, what batches of about as many
    elements took: most of them never run, and time mostly goes by the elements.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._by_shape: dict[Shape, Cost] = {}
        self._by_elements = Cost()
        self._occasions = count(1)

    def learn(self, pieces: list[WorkItem], rows: int, seconds: float) -> None:
        """Note a batch of these pieces that left for a free runner."""
        self.note(rows, reduce(longest, [piece.shape for piece in pieces]), seconds)

    def note(self, rows: int, shape: Shape, seconds: float) -> None:
        """Note a batch of rows that were padded to this shape."""
        if shape not in self._by_shape and len(self._by_shape) == MOST_SHAPES:
            del self._by_shape[next(iter(self._by_shape))]
        self._by_shape.setdefault(shape, Cost()).note(rows, seconds)
        self._by_elements.note(rows * _elements(shape), seconds)

    def may_join(self) -> bool:
        """False now and then, so that rows are measured apart again."""
        return next(self._occasions) % APART_EVERY != 0

    def joins(self, rows: int, shape: Shape, others: int, other: Shape) -> bool:
        """Whether `others` rows of the shape `other` run sooner with these than after them."""
        both = longest(shape, other)
        if (rows + others) * _elements(both) > MOST_PADDING * (rows * _elements(shape) + others * _elements(other)):
            return False
        apart = self._seconds(rows, shape) + self._seconds(others, other)
        return self._seconds(rows + others, both) < WORTH_JOINING * apart

    def _seconds(self, rows: int, shape: Shape) -> float:
        own = self._by_shape.get(shape)
        if own and own.knows(rows):
            return own.seconds(rows)
        return self._by_elements.guess(rows * _elements(shape))


def longest(one: Shape, other: Shape) -> Shape:
    """The least shape that holds rows of both."""
    if one == other:
        return one
    return tuple([tuple(map(max, first, second)) for first, second in zip(one, other, strict=True)])


def _cut(spec: TensorSpec, array: NDArray[Any], lengths: Lengths) -> NDArray[Any]:
    shape = spec.shape_at(array.shape[: len(spec.shape)], lengths)
    return np.ascontiguousarray(array[tuple(map(slice, shape))])


def _about(length: int) -> int:
    """The length, rounded up: above 8 there are four between one power of two and the next."""
    step = max(1, 2 ** (length.bit_length() - 3)) if length > 8 else 1
    return -(-length // step) * step


def _elements(shape: Shape) -> int:
    return sum([prod(each) for each in shape])
