"""Requests that are filled up before they run: rows of different lengths, and masks that were left out.

A client writes -1 for the dimension in which its rows differ, `"shape": [2, -1]`, and nests each row by itself:
`"data": [[1, 2, 3], [4]]`. Answers come in the same form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import InvalidInputData, shown_value
from aoti_serve.protocol.checks import checked_shape
from aoti_serve.protocol.elements import array_from_json
from aoti_serve.protocol.messages import InputHead
from aoti_serve.signature.padding import fill_value
from aoti_serve.signature.tensors import DTYPES, Dim, DType, TensorSpec

VARIES = -1
RowLengths = Mapping[str, tuple[int, ...]]


def is_ragged(shape: object) -> bool:
    """Whether this shape, as a client wrote it, says that rows differ."""
    return isinstance(shape, list) and shape[1:2] == [VARIES]


def ragged_input(name: str, dtype: DType, shape: list[Any], data: Any) -> InputHead:
    """An input of rows that differ in their second dimension. Raises an InvalidInput that names it."""
    rows, *rest = checked_shape(name, [shape[0], *shape[2:]])
    if not isinstance(data, list) or any(not isinstance(row, list) for row in data):
        detail = "rows of different lengths are sent as JSON, each in a list of its own; or send a request for each row"
        raise InvalidInputData(name=name, detail=detail)
    if len(data) != rows:
        raise InvalidInputData(
            name=name, detail=f"'data' has {len(data)} lists, shape {shape} is of {shown_value(rows)}"
        )
    lengths = tuple(map(len, data))
    arrays = [array_from_json(name, dtype, (len(row), *rest), row) for row in data]
    flat = np.concatenate([np.empty((0, *rest), dtype.numpy), *arrays])
    return InputHead(name, dtype.torch, (rows, max(lengths, default=0), *rest), None, flat, lengths)


class Filling(NamedTuple):
    """How the arrays of one request are filled up.

    `lengths` are those of its rows by dimension, where they differ; `masks` the shapes of the masks that are made.
    `values` are what fills inputs up.
    """

    lengths: RowLengths
    masks: Mapping[str, tuple[int, ...]]
    values: Mapping[str, float]

    def mask(self, spec: TensorSpec) -> NDArray[Any]:
        """A mask that is 1 where the client has sent something."""
        held, one = DTYPES[spec.dtype].numpy, fill_value(spec, 1)
        made = np.full(self.masks[spec.name], one, held)
        lengths = self._of(spec)
        if lengths is not None:
            made[~_present(made, lengths)] = 0
        return made

    def filled(self, spec: TensorSpec, flat: NDArray[Any]) -> NDArray[Any]:
        """The rows of a ragged input, filled up to the longest."""
        lengths = self._of(spec)
        if lengths is None:
            return flat
        value = fill_value(spec, self.values.get(spec.name, 0))
        found = np.full((len(lengths), max(lengths, default=0), *flat.shape[1:]), value, flat.dtype)
        found[_present(found, lengths)] = flat
        return found

    def _of(self, spec: TensorSpec) -> tuple[int, ...] | None:
        return self.lengths.get(spec.shape[1].symbol) if varies(spec) else None  # type: ignore[union-attr]


def varies(spec: TensorSpec) -> bool:
    """Whether the rows of an input or output may differ: in its second dimension."""
    return len(spec.shape) > 1 and isinstance(spec.shape[1], Dim)


def ragged_rows(spec: TensorSpec, array: NDArray[Any], lengths: RowLengths) -> Iterator[NDArray[Any]] | None:
    """The rows of an output, each at its own length; None if they do not differ."""
    dim = spec.shape[1] if len(spec.shape) > 1 else 0
    if not isinstance(dim, Dim) or dim.symbol not in lengths:
        return None
    sizes = map(dim.size_at, lengths[dim.symbol])
    return (np.ascontiguousarray(row[:size]) for row, size in zip(array, sizes, strict=True))


def _present(array: NDArray[Any], lengths: tuple[int, ...]) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = np.arange(array.shape[1]) < np.array(lengths, np.int64)[:, None]
    return present
