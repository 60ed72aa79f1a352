"""Padding, seen from the module: which outputs grow with which inputs, and whether padding changes an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import torch

from aoti_serve.errors import UnsupportedModule
from aoti_serve.model.program.sizes import Examples, tensors_in
from aoti_serve.model.variants import filled
from aoti_serve.signature.padding import Lengths, Padding
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.signature.torch_private import pytree

MASK = "mask"
Rules = Mapping[str, float | str]
CLOSE = 1e-3


class Grows(NamedTuple):
    """A dimension of an output: `factor` times a named dimension of the inputs, plus `offset`."""

    name: str
    factor: int
    offset: int

    def dim(self, low: int, high: int) -> Dim:
        first, last = (max(0, self.factor * value + self.offset) for value in (low, high))
        return Dim(symbol=self.name, min=first, max=last, factor=self.factor, offset=self.offset)


OutputAxes = list[dict[int, Grows]]


class PaddedModule:
    """A module, its examples at the sizes `at`, and how its outputs grow with those of the dimensions in `names`.

    With `inexact` an answer may depend on padding, and a module that only runs at one size has outputs of fixed sizes.
    """

    def __init__(
        self, module: torch.nn.Module, examples: Examples, at: Lengths, names: Iterable[str], *, inexact: bool = False
    ) -> None:
        self._module, self._examples, self._at, self._inexact = module, examples, at, inexact
        self.outputs: OutputAxes = [{} for _ in self._answers(at)]
        for name in names:
            self._measure(name)

    def check_rows(self, name: str) -> None:
        """Raise UnsupportedModule if a row would change the answers of the others, or an output has no rows."""
        rows = max(1, self._at[name] - 1)
        call = self._examples.call(self._at | {name: rows})
        more = pytree.tree_map_only(torch.Tensor, lambda each: torch.cat([each, *[each[:1]] * (rows + 1)]), call)
        for index, (one, other) in enumerate(zip(self._run(call), self._run(more), strict=True)):
            if not one.ndim or one.shape[0] != rows or other.shape[0] != 2 * rows + 1 or not _close(one, other):
                detail = f"output {index} of a batch depends on its other rows, or has none; compile without sizes"
                raise UnsupportedModule(detail=f"{detail} of '{name}'")

    def check_padding(self, name: str, padding: Padding, inputs: Sequence[TensorSpec]) -> None:
        """Raise UnsupportedModule if inputs that are filled up along this dimension are answered differently."""
        size = self._at[name]
        if size < 2 or self._inexact:
            return
        leaves, form = pytree.tree_flatten(self._examples.call(self._at | {name: size // 2}))
        places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        padded = list(leaves)
        for at, axes, spec in zip(places, self._examples.axes, inputs, strict=True):
            leaves[at] = torch.ones_like(leaves[at]) if spec.name in padding.masks else leaves[at]
            shape = [size if axes.get(axis) == name else old for axis, old in enumerate(leaves[at].shape)]
            padded[at] = filled(leaves[at], shape, padding.values.get(spec.name, 0))
        try:
            alone, beside = (self._run(pytree.tree_unflatten(each, form)) for each in (leaves, padded))
        except Exception as error:
            raise UnsupportedModule(detail=f"the module does not run where '{name}' is padded: {error}") from error
        for index, (one, other) in enumerate(zip(alone, beside, strict=True)):
            if not _close(one, other):
                raise UnsupportedModule(detail=f"output {index} changes where '{name}' is padded; {_ADVICE}")

    def _measure(self, name: str) -> None:
        size = self._at[name]
        others = (size - 1, size // 2) if size > 3 else (size + 1, size + 2)
        try:
            near, far = ([each.shape for each in self._answers(self._at | {name: other})] for other in others)
        except Exception as error:
            if self._inexact:
                return
            detail = f"the module itself does not run with '{name}' of {others[0]} or {others[1]}: {error}"
            raise UnsupportedModule(detail=detail) from error
        for index, shape in enumerate(each.shape for each in self._answers(self._at)):
            for axis, found in enumerate(zip(shape, near[index], far[index], strict=True)):
                grows = _line(name, (size, *others), found, f"dimension {axis} of output {index}")
                if grows is not None:
                    self._add(index, axis, grows)

    def _add(self, index: int, axis: int, grows: Grows) -> None:
        before = self.outputs[index].setdefault(axis, grows)
        if before != grows:
            what = f"dimension {axis} of output {index} depends on '{before.name}' and on '{grows.name}'"
            raise UnsupportedModule(detail=f"{what}; return it with a dimension for each")

    def _answers(self, lengths: Lengths) -> list[torch.Tensor]:
        return self._run(self._examples.call(lengths))

    def _run(self, call: tuple[tuple[object, ...], dict[str, object]]) -> list[torch.Tensor]:
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, call)
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}  # forward() may change them
        with torch.no_grad():
            return tensors_in(torch.func.functional_call(self._module, buffers, args, kwargs))


_ADVICE = (
    "padding must not count: give forward() a mask and let it use that, or package it with inexact_padding "
    "(--inexact-padding): its answers are then those for the padded inputs"
)


def padding_of(rules: Rules, signature: Signature, sizes: Mapping[str, Sequence[int]]) -> Padding | None:
    """The padding that these rules make; each is a number, or `mask`. Raises UnsupportedModule."""
    inputs = {spec.name: spec for spec in signature.inputs}
    for name in rules:
        if name not in inputs:
            raise UnsupportedModule(detail=f"pad {name}: the module has no such input; it has {', '.join(inputs)}")
    values = {name: _value(inputs[name], rule) for name, rule in rules.items()}
    masks = tuple(name for name, rule in rules.items() if rule == MASK)
    compiled = {name: tuple(sorted(set(each))) for name, each in sizes.items()}
    padding = Padding(values=values, masks=masks, sizes=compiled)
    batch = signature.batch.symbol if signature.batch else None
    for spec in signature.inputs:
        lengths = [dim.symbol for dim in spec.shape if isinstance(dim, Dim) and dim.symbol != batch]
        if lengths and spec.name not in values and (rules or set(lengths) & sizes.keys()):
            detail = f"input '{spec.name}' varies in '{lengths[0]}': say what it is padded with, pad {spec.name}=0"
            raise UnsupportedModule(detail=f"{detail} (--pad {spec.name}=0), or =mask for a mask")
        if spec.name in values and not lengths:
            raise UnsupportedModule(detail=f"pad {spec.name}: it has no dimension that varies but the batch")
    return padding if rules else None


def served_signature(
    variants: Sequence[tuple[Lengths, Signature]],
    inputs: Sequence[Mapping[int, str]],
    outputs: OutputAxes,
    batch: str | None,
) -> Signature:
    """One signature of those of all variants: each dimension that has sizes goes up to the largest of them.

    Raises UnsupportedModule if they differ in anything else.
    """
    ranges = {name: (int(name != batch), max(sizes[name] for sizes, _ in variants)) for name in variants[0][0]}
    takes = [{axis: Grows(name, 1, 0) for axis, name in axes.items() if name in ranges} for axes in inputs]
    first, *others = [
        signature.model_copy(
            update={
                "inputs": _varied(signature.inputs, takes, sizes, ranges),
                "outputs": _varied(signature.outputs, outputs, sizes, ranges),
            }
        )
        for sizes, signature in variants
    ]
    if any(other != first for other in others):
        raise UnsupportedModule(detail="the variants differ in more than the dimensions that have sizes")
    return first


def _varied(
    specs: Sequence[TensorSpec],
    axes: Sequence[Mapping[int, Grows]],
    sizes: Lengths,
    ranges: Mapping[str, tuple[int, int]],
) -> tuple[TensorSpec, ...]:
    found = []
    for spec, named in zip(specs, axes, strict=True):
        shape = list(spec.shape)
        for axis, grows in named.items():
            if grows.name in sizes:
                if shape[axis] != grows.factor * sizes[grows.name] + grows.offset:
                    where = f"where '{grows.name}' is {sizes[grows.name]}, and in the module itself it is another"
                    raise UnsupportedModule(detail=f"dimension {axis} of '{spec.name}' is {shape[axis]} {where}")
                shape[axis] = grows.dim(*ranges[grows.name])
        found.append(spec.model_copy(update={"shape": tuple(shape)}))
    return tuple(found)


def _value(spec: TensorSpec, rule: float | str) -> int | float:
    value = 0 if rule == MASK else rule
    dtype = getattr(torch, spec.dtype)
    if isinstance(value, str) or not isfinite(value) or not (dtype.is_floating_point or float(value).is_integer()):
        raise UnsupportedModule(detail=f"pad {spec.name}={rule}: write a number that {spec.dtype} has, or mask")
    low, high = (0, 1) if dtype == torch.bool else (_limits(dtype).min, _limits(dtype).max)
    if not low <= value <= high:
        raise UnsupportedModule(detail=f"pad {spec.name}={rule}: {spec.dtype} goes from {low} to {high}")
    return value if dtype.is_floating_point else int(value)


def _limits(dtype: torch.dtype) -> torch.finfo | torch.iinfo:
    return torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)


def _line(name: str, values: Sequence[int], sizes: Sequence[int], what: str) -> Grows | None:
    """How `sizes` grow with `values`; None if they do not. Raises UnsupportedModule if it is on no straight line."""
    factor, rest = divmod(sizes[1] - sizes[0], values[1] - values[0])
    if not any(size != sizes[0] for size in sizes):
        return None
    offset = sizes[0] - factor * values[0]
    if rest or factor < 1 or sizes[2] != factor * values[2] + offset:
        seen = ", ".join(f"{size} at {value}" for value, size in zip(values, sizes, strict=True))
        detail = f"{what} is no whole multiple of '{name}' ({seen}), so answers could not be cut back to it"
        raise UnsupportedModule(detail=detail)
    return Grows(name, factor, offset)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the second tensor, cut to the size of the first, is the same."""
    cut = other[tuple(map(slice, one.shape))]
    tolerance = CLOSE if one.is_floating_point() else 0
    return cut.shape == one.shape and torch.allclose(
        one.double(), cut.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )
