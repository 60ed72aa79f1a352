"""The compiled variants of one model: one library per static batch size, or one for all sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.aoti.stock import StockContainer

Runtime = NativeContainer | StockContainer


class BatchVariant(NamedTuple):
    """A loaded library and the one batch size it takes; None if it takes what the signature says."""

    rows: int | None
    runtime: Runtime


class Variants:
    """All variants as one runtime: a run goes to the smallest that fits, each step of the weights to all.

    `guarded`: the last output is the index guards' flags, and has no rows.
    """

    def __init__(self, variants: Sequence[BatchVariant], *, guarded: bool) -> None:
        self._guarded = guarded
        self._variants = sorted(variants, key=lambda variant: variant.rows or 0)

    @property
    def folds(self) -> bool:
        """True if staging computes something from the weights, which may fail."""
        return any(variant.runtime.folds for variant in self._variants)

    @property
    def folded_nbytes(self) -> int:
        """The bytes that folding adds to a buffer: each library makes its own."""
        return sum(variant.runtime.folded_nbytes for variant in self._variants)

    def run(self, inputs: list[torch.Tensor], stream: int | None) -> list[torch.Tensor | None]:
        """Run, and take the tensors out of the list: the runtime owns them then, and frees them as soon as it can."""
        rows = inputs[0].shape[0] if inputs[0].ndim else 0
        variant = next(variant for variant in self._variants if not variant.rows or variant.rows >= rows)
        if not variant.rows or variant.rows == rows:
            return variant.runtime.run(_drained(inputs), stream)
        inputs[:] = [_padded(tensor, variant.rows) for tensor in inputs]
        outputs = variant.runtime.run(_drained(inputs), stream)
        flags = [outputs.pop()] if self._guarded else []
        return [None if tensor is None else tensor[:rows] for tensor in outputs] + flags

    def extract(self) -> dict[str, torch.Tensor]:
        return self._variants[0].runtime.extract()

    def stage(self, tensors: Mapping[str, torch.Tensor], moved: bool) -> None:
        for variant in self._variants:
            variant.runtime.stage(tensors, moved)

    def refold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for variant in self._variants:
            variant.runtime.refold(tensors)

    def swap(self) -> None:
        for variant in self._variants:
            variant.runtime.swap()

    def free_inactive(self) -> None:
        for variant in self._variants:
            variant.runtime.free_inactive()

    def delete(self) -> None:
        for variant in self._variants:
            variant.runtime.delete()


def _drained(tensors: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    while tensors:
        yield tensors.pop(0)


def _padded(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """Append copies of the first row, which is known to be good; zeros if there is none."""
    missing = rows - tensor.shape[0]
    row = tensor[:1] if tensor.shape[0] else tensor.new_zeros(1, *tensor.shape[1:])
    return torch.cat([tensor, row.expand(missing, *tensor.shape[1:])])
