"""The example call that a module is exported with, and which of its sizes `dynamic_shapes` lets vary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection

from aoti_serve.model.program.describe import input_names
from aoti_serve.model.program.torch_errors import torch_message
from aoti_serve.signature.torch_private import declared_shapes, ordered_kwargs, pytree


class Axis(NamedTuple):
    """A dimension that may vary; `wanted` is a torch.export.Dim, or Dim.AUTO or Dim.DYNAMIC, with bounds or without."""

    tensor: torch.Tensor
    place: int
    wanted: Any

    @property
    def hinted(self) -> bool:
        """True for Dim.AUTO and Dim.DYNAMIC: torch is to find the range."""
        return not isinstance(self.wanted, Dim)

    @property
    def derived(self) -> bool:
        """True for a Dim that is made of another: `2 * Dim("half")`."""
        return hasattr(self.wanted, "root")


class Input(NamedTuple):
    """An example input, its name, and its shape in an exported program."""

    tensor: torch.Tensor
    name: str
    shape: Sequence[Any]


@dataclass(frozen=True)
class Example:
    """A module, the arguments of a call, each a tensor of its own, and `dynamic_shapes` for torch.export."""

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: Any

    @classmethod
    def of(cls, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> Example:
        if hasattr(shapes, "dynamic_shapes"):  # torch's own classes, which know tensors by identity
            shapes = torch_message("export", lambda: shapes.dynamic_shapes(module, args, kwargs))
        args, kwargs = pytree.tree_map_only(torch.Tensor, _own_copy, (args, kwargs))
        return cls(module, args, kwargs, shapes)

    def export(self, hint: str = "") -> ExportedProgram:
        """Raises ExportFailed with what torch said, and `hint`."""
        export = torch.export.export

        def exported() -> ExportedProgram:
            with torch.no_grad():
                return export(self.module, self.args, self.kwargs, dynamic_shapes=self.shapes)

        return torch_message("export", exported, hint)

    def axes(self) -> list[Axis]:
        """What may vary; nothing if `dynamic_shapes` does not fit the arguments, as export() will say."""
        try:
            declared = declared_shapes(self.module, self.args, self.kwargs, self.shapes) if self.shapes else []
        except Exception:  # torch raises a dozen kinds
            return []
        return [
            Axis(leaf, place, wanted)
            for leaf, said in declared
            if isinstance(leaf, torch.Tensor)
            for place, wanted in _by_axis(said).items()
            if _varies(wanted)
        ]

    def doubled(self) -> Example:
        """With twice what is there once along a dimension that may vary, which torch would fix (upstream #151582)."""
        roots = {axis.wanted.root.__name__ for axis in self.axes() if axis.derived}  # others depend on these
        single: defaultdict[int, list[int]] = defaultdict(list)
        for axis in self.axes():
            free = axis.hinted or not (axis.derived or axis.wanted.__name__ in roots)
            if free and axis.tensor.shape[axis.place] == 1 and _most(axis.wanted) >= 2:
                single[id(axis.tensor)].append(axis.place)
        return self.mapped(lambda tensor: _twice(tensor, single[id(tensor)]))

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Example:
        """The same call with other tensors."""
        args, kwargs = pytree.tree_map_only(torch.Tensor, change, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)

    def with_dims(self, dims: Iterable[tuple[Axis, Dim]]) -> Example:
        """The same call with these dimensions, and no others."""
        shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
        for axis, dim in dims:
            shapes[axis.tensor][axis.place] = dim
        return replace(self, shapes=shapes.dynamic_shapes(self.module, self.args, self.kwargs))

    def inputs(self, program: ExportedProgram) -> list[Input]:
        """The example inputs, as they are in the program that was exported with them."""
        kwargs = ordered_kwargs(self.kwargs, program.call_spec.in_spec)
        tensors = [leaf for leaf in pytree.tree_leaves((self.args, kwargs)) if isinstance(leaf, torch.Tensor)]
        nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
        names = input_names(program).items()
        return [Input(tensor, name, nodes[node].shape) for tensor, (node, name) in zip(tensors, names, strict=True)]


def _by_axis(said: Any) -> dict[int, Any]:
    if isinstance(said, Mapping):
        return dict(said)
    return dict(enumerate(said)) if isinstance(said, tuple | list) else {}


def _varies(wanted: Any) -> bool:
    hint = getattr(getattr(wanted, "type", None), "name", "")  # torch's class of hints is private
    return isinstance(wanted, Dim) or hint in ("AUTO", "DYNAMIC")


def _most(wanted: Any) -> float:
    return float("inf") if wanted.max is None else wanted.max


def _twice(tensor: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    for axis in axes:
        tensor = torch.cat([tensor, tensor], axis)
    return tensor


def _own_copy(example: torch.Tensor) -> torch.Tensor:
    """Contiguous, as requests come: strides are compiled in. A copy: of one tensor for two inputs torch makes one."""
    return example.detach().clone(memory_format=torch.contiguous_format)
