"""Example inputs, the named dimensions in them, and the same inputs at other sizes of these dimensions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch

from aoti_serve.errors import UnsupportedModule
from aoti_serve.signature.padding import Lengths
from aoti_serve.signature.torch_private import pytree

BATCH = "batch"  # the first dimension of every input, where none has a name
Axes = dict[int, str]
Visit = Callable[[torch.Tensor, Mapping[int, Any]], tuple[torch.Tensor, Any]]


def grid_of(sizes: Mapping[str, Sequence[int]]) -> list[Lengths]:
    """Every combination of the sizes, the smallest first. Raises UnsupportedModule."""
    for name, values in sizes.items():
        if not values or min(values) < 1:
            raise UnsupportedModule(detail=f"sizes of '{name}' are {list(values)}; name some that are 1 or more")
    each = [[(name, size) for size in sorted(set(values))] for name, values in sizes.items()]
    return [dict(chosen) for chosen in product(*each)]


class Examples:
    """The example inputs of a module. `axes` has, for each tensor in them, the names of its dimensions by place.

    Names are those of the `torch.export.Dim` in `dynamic_shapes`; where that is None the first dimension of every input
    is called `batch`. `lengths` are the sizes that the examples have, by name.
    """

    def __init__(self, module: torch.nn.Module, inputs: Any, dynamic_shapes: Any) -> None:
        if not isinstance(module, torch.nn.Module):
            raise UnsupportedModule(detail=f"a {type(module).__name__} instead of a torch.nn.Module")
        self._inputs = inputs
        self._arguments = inspect.signature(module.forward)
        self._named = dict(inputs) if isinstance(inputs, Mapping) else self._arguments.bind(*inputs).arguments
        self._shapes = dynamic_shapes
        self.axes: list[Axes] = []
        self.lengths: Lengths = {}
        self._walked(self._note)

    def at(self, lengths: Mapping[str, int]) -> tuple[Any, Any]:
        """The inputs with these sizes, and what is left of `dynamic_shapes`: None if nothing varies any more."""
        left: list[int] = []

        def visit(tensor: torch.Tensor, dims: Mapping[int, Any]) -> tuple[torch.Tensor, Any]:
            for axis, dim in dims.items():
                if (size := lengths.get(name_of(dim) or "")) is not None:
                    tensor = _resized(tensor, axis, size)
            rest = {axis: dim for axis, dim in dims.items() if name_of(dim) not in lengths}
            left.extend(rest)
            return tensor, rest or None

        named, shapes = self._walked(visit)
        return self._as_given(named), shapes if left else None

    def call(self, lengths: Mapping[str, int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these sizes, to call the module with."""
        inputs, _ = self.at(lengths)
        return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})

    def leads(self, name: str) -> bool:
        """Whether this dimension is the first of every input: the batch."""
        return all(axes.get(0) == name for axes in self.axes)

    def check_known(self, names: Sequence[str]) -> None:
        """Raise UnsupportedModule for sizes of a dimension that has no such name."""
        for name in names:
            if name not in self.lengths:
                known = f"its named dimensions are {', '.join(self.lengths)}" if self.lengths else "none has a name"
                what = f"no dimension of an input is called '{name}'; {known}"
                detail = f"{what}. Name it in dynamic_shapes: {{'x': {{1: torch.export.Dim('{name}')}}}}"
                raise UnsupportedModule(detail=detail)

    def _note(self, tensor: torch.Tensor, dims: Mapping[int, Any]) -> tuple[torch.Tensor, Any]:
        self.axes.append({axis: name for axis, dim in dims.items() if (name := name_of(dim))})
        for axis, name in self.axes[-1].items():
            if tensor.ndim <= axis or not tensor.shape[axis]:
                raise UnsupportedModule(detail=f"an input has no dimension {axis} ('{name}') with at least one element")
            self.lengths.setdefault(name, tensor.shape[axis])
        return tensor, None

    def _walked(self, visit: Visit) -> tuple[dict[str, Any], dict[str, Any]]:
        walked = _walked(self._named, self._shapes, visit if self._shapes is not None else _rows(visit))
        return walked[0], walked[1]

    def _as_given(self, named: dict[str, Any]) -> Any:
        return named if isinstance(self._inputs, Mapping) else inspect.BoundArguments(self._arguments, named).args


def name_of(dim: Any) -> str | None:
    """The name of a `torch.export.Dim`; None for one that is derived from another, and for what is none."""
    plain = isinstance(dim, torch.export.Dim) and not hasattr(dim, "root")
    return str(dim.__name__) if plain else None


def tensors_in(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _rows(visit: Visit) -> Visit:
    return lambda tensor, _: visit(tensor, {0: torch.export.Dim(BATCH)})


def _walked(value: Any, shapes: Any, visit: Visit) -> tuple[Any, Any]:
    """Visit every tensor with what `shapes` says of it; gives both anew, in the forms that they had."""
    if isinstance(value, torch.Tensor):
        return visit(value, _by_axis(shapes))
    if isinstance(value, Mapping):
        parts = {key: _walked(each, _part(shapes, key, at), visit) for at, (key, each) in enumerate(value.items())}
        return {key: part[0] for key, part in parts.items()}, {key: part[1] for key, part in parts.items()}
    if type(value) in (list, tuple):
        listed = [_walked(each, _part(shapes, at, at), visit) for at, each in enumerate(value)]
        return type(value)(part[0] for part in listed), type(value)(part[1] for part in listed)
    if tensors_in(value):
        raise UnsupportedModule(detail=f"sizes and padding need inputs in tuples, lists and dicts, not {type(value)}")
    return value, shapes


def _part(shapes: Any, key: Any, index: int) -> Any:
    if shapes is None:
        return None
    return shapes.get(key) if isinstance(shapes, Mapping) else shapes[index]


def _by_axis(shapes: Any) -> dict[int, Any]:
    dims = shapes if isinstance(shapes, Mapping) else dict(enumerate(shapes or ()))
    return {axis: dim for axis, dim in dims.items() if dim is not None}


def _resized(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Its own elements, repeated or cut."""
    index = torch.arange(size) % tensor.shape[axis]
    return tensor.index_select(axis, index.to(tensor.device))
