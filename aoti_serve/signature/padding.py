"""How tensors are filled up: to a size that was compiled, or to the longest of the rows that share a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from pydantic import PositiveInt

from aoti_serve.signature.tensors import DTYPES, Dim, Frozen, Shaped, TensorSpec

Lengths = dict[str, int]


class Padding(Frozen):
    """A package's rule of padding.

    `values` has for each input that is filled up the number that it is filled with. Of these `masks` may be left out
    by clients: such a mask is 1 wherever a client has sent something. `sizes` are the compiled sizes by dimension, in
    ascending order; a dimension that is not there takes any size in its range.
    """

    values: dict[str, int | float]
    masks: tuple[str, ...] = ()
    sizes: dict[str, tuple[PositiveInt, ...]] = {}

    def compiled(self, lengths: Mapping[str, int]) -> Lengths:
        """The lengths to which a run fills these up by itself: of each the least size that was compiled."""
        return {symbol: self._fitting(symbol, length) for symbol, length in lengths.items()}

    def _fitting(self, symbol: str, length: int) -> int:
        return next((size for size in self.sizes.get(symbol, ()) if size >= length), length)


def fill_value(spec: TensorSpec, value: float) -> Any:
    """What fills an input up, as its arrays are held: raw types as unsigned integers."""
    dtype = DTYPES[spec.dtype]
    return np.array(value, getattr(ml_dtypes, spec.dtype)).view(dtype.numpy)[()] if dtype.raw else value


def lengths_of(specs: Iterable[TensorSpec], shapes: Iterable[Sequence[int] | None]) -> Lengths:
    """The values of all symbols in tensors of these shapes, which have been checked; None for one that is not there."""
    found: Lengths = {}
    for spec, shape in zip(specs, shapes, strict=True):
        for dim, size in zip(spec.shape, shape or (), strict=False):
            if isinstance(dim, Dim) and (value := dim.value_at(size)) is not None:
                found.setdefault(dim.symbol, value)
    return found


def with_masks(padding: Padding | None, specs: Iterable[TensorSpec], found: Mapping[str, Shaped]) -> dict[str, Shaped]:
    """The forms of the inputs, with those of the masks that were left out, as far as the others tell them."""
    missing = [spec for spec in specs if padding and spec.name in padding.masks and spec.name not in found]
    if not missing:
        return dict(found)
    known = [spec for spec in specs if spec.name in found]
    lengths = lengths_of(known, [found[spec.name].shape for spec in known])
    made = {spec.name: spec.at(lengths) for spec in missing}
    return dict(found) | {name: form for name, form in made.items() if form is not None}
