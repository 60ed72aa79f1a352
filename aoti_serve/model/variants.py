"""The compiled variants of one model: a library for each set of static sizes, or one for all sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch

from aoti_serve.model.aoti.c_abi import NativeContainer
from aoti_serve.model.aoti.stock import StockContainer
from aoti_serve.signature.padding import Lengths, lengths_of
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import TensorSpec

Runtime = NativeContainer | StockContainer


class Variant(NamedTuple):
    """A loaded library, and the one size that it takes of each of these dimensions, by symbol."""

    sizes: Lengths
    runtime: Runtime

    def fits(self, lengths: Mapping[str, int]) -> bool:
        return all(size >= lengths[symbol] for symbol, size in self.sizes.items())


class Variants:
    """All variants as one runtime: a run goes to the smallest that fits, each step of the weights to all.

    Its inputs are filled up to that size, and its outputs cut back: rows with copies of the first one, other dimensions
    by the signature's rule.
    """

    def __init__(self, variants: Sequence[Variant], signature: Signature) -> None:
        self._variants = sorted(variants, key=lambda variant: prod(variant.sizes.values()))
        self._inputs = signature.inputs
        outputs = {spec.name: spec for spec in signature.outputs}
        self._outputs = [outputs.get(name or "") for name in signature.output_leaves]
        self._values = signature.padding.values if signature.padding else {}
        self._batch = signature.batch.symbol if signature.batch else None

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
        if not self._variants[0].sizes:
            return self._variants[0].runtime.run(_drained(inputs), stream)
        lengths = lengths_of(self._inputs, [tensor.shape for tensor in inputs])
        variant = next(variant for variant in self._variants if variant.fits(lengths))
        if all(lengths[symbol] == size for symbol, size in variant.sizes.items()):
            return variant.runtime.run(_drained(inputs), stream)
        inputs[:] = [self._filled(tensor, spec, variant) for tensor, spec in zip(inputs, self._inputs, strict=True)]
        outputs = variant.runtime.run(_drained(inputs), stream)
        # Behind those of the signature come the index guards' flags, which have no rows.
        flags = outputs[len(self._outputs) :]
        return [_cut(tensor, spec, lengths) for tensor, spec in zip(outputs, self._outputs, strict=False)] + flags

    def _filled(self, tensor: torch.Tensor, spec: TensorSpec, variant: Variant) -> torch.Tensor:
        lengths = {symbol: size for symbol, size in variant.sizes.items() if symbol != self._batch}
        tensor = filled(tensor, spec.shape_at(tensor.shape, lengths), self._values.get(spec.name, 0))
        return _with_rows(tensor, variant.sizes[self._batch]) if self._batch in variant.sizes else tensor

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


def filled(tensor: torch.Tensor, shape: Sequence[int], value: float) -> torch.Tensor:
    """The tensor in a larger one that is `value` everywhere else."""
    if tensor.shape == tuple(shape):
        return tensor
    larger = tensor.new_full(tuple(shape), value)
    larger[tuple(map(slice, tensor.shape))] = tensor
    return larger


def _with_rows(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """Append copies of the first row, which is known to be good; zeros if there is none."""
    missing = rows - tensor.shape[0]
    row = tensor[:1] if tensor.shape[0] else tensor.new_zeros(1, *tensor.shape[1:])
    return torch.cat([tensor, row.expand(missing, *tensor.shape[1:])]) if missing else tensor


def _cut(tensor: torch.Tensor | None, spec: TensorSpec | None, lengths: Lengths) -> torch.Tensor | None:
    if tensor is None or spec is None:
        return tensor
    return tensor[tuple(map(slice, spec.shape_at(tensor.shape, lengths)))].contiguous()
