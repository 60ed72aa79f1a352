"""An exported program whose dimensions are what they are said to be: those that torch was to find, too.

`Dim.AUTO` and `Dim.DYNAMIC` make a program that is right for some sizes only, and does not say for which: torch keeps
what it has assumed as guards of the program, and compiled code does not have them. So what torch found is declared to
it as Dims, which it must prove, with the fixes that it suggests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch.export import Dim, ExportedProgram
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

from aoti_serve.errors import ExportFailed, UnsupportedModule
from aoti_serve.model.program.dims.at_one import FailsAtOne, right_at_one
from aoti_serve.model.program.dims.example import Axis, Example, Input
from aoti_serve.model.program.dims.symbols import Linear, dim_names, lowest_assumed, range_of, size_of
from aoti_serve.model.program.torch_errors import PAGE, fixed_dims, suggested_fixes

_MOST_FIXES = 4


def exported_program(example: Example, noted: Callable[[str], object]) -> ExportedProgram:
    """Export the example's module.

    `noted` is told of each dimension that was left to torch and is narrower than that. Raises ExportFailed, or
    UnsupportedModule if a single row would be refused or get a wrong answer, and nobody has asked for that.
    """
    example = example.doubled()
    found = _Found(example, _first_export(example), example.axes())
    least = {symbol: found.least(symbol, noted) for symbol in found.symbols}
    if any(axis.hinted for axis in found.axes):
        found = found.proved(least)
    for axis in found.axes:
        if axis.hinted and not isinstance(found.size(axis), Linear):
            size = axis.tensor.shape[axis.place]
            noted(f"{found.place(axis)} is {size} in every request: torch has fixed it, see {PAGE}")
    return found.program


def _first_export(example: Example) -> ExportedProgram:
    try:
        return example.export()
    except ExportFailed as error:
        recurrent = {type(part).__name__ for part in example.module.modules() if isinstance(part, torch.nn.RNNBase)}
        steps = ", ".join(f"{name} is always {size}" for name, size in fixed_dims(error) if size > 1)
        if not recurrent or not steps:
            raise
        detail = (
            f"torch fixes the number of steps of {', '.join(sorted(recurrent))}: {steps}. Leave it out of "
            "dynamic_shapes, and the package takes sequences of that length alone, shorter ones padded to it; or have "
            f"forward() go one step and take and return the state. See {PAGE}"
        )
        raise UnsupportedModule(detail=detail) from error


@dataclass(frozen=True)
class _Found:
    """A program, and the example and the axes that it was exported with."""

    example: Example
    program: ExportedProgram
    axes: list[Axis]

    @cached_property
    def inputs(self) -> dict[int, Input]:
        """By the tensor's id."""
        return {id(given.tensor): given for given in self.example.inputs(self.program)}

    @cached_property
    def symbols(self) -> dict[str, list[Axis]]:
        """The symbols that are the whole size of some axis, with those axes."""
        found: dict[str, list[Axis]] = {}
        for axis in self.axes:
            match self.size(axis):
                case Linear(symbol, 1, 0):
                    found.setdefault(symbol, []).append(axis)
        return found

    def size(self, axis: Axis) -> int | Linear | None:
        return size_of(self.inputs[id(axis.tensor)].shape[axis.place])

    def place(self, axis: Axis) -> str:
        return f"dimension {axis.place} of '{self.inputs[id(axis.tensor)].name}'"

    def least(self, symbol: str, noted: Callable[[str], object]) -> int:
        """The least value of a symbol: 1 where torch only assumes 2, and the program is right for 1."""
        low, _ = range_of(self.program, symbol)
        axes = self.symbols[symbol]
        if any((axis.wanted.min or 0) > 1 for axis in axes):
            return low
        least = max(low, lowest_assumed(self.program, symbol, axes[0].tensor.shape[axes[0].place]))
        problem = self._problem_at_one(symbol, low) if least == 2 else "torch can compile it for no less."
        if not problem:
            return min(low, 1)
        if low < 2 or self._leads(symbol):
            name = self._name(symbol)
            line = f'{{{axes[0].place}: torch.export.Dim("{name}", min={least})}}'
            detail = (
                f"{self.place(axes[0])} may not be 1. {problem} Change it, or have less than {least} refused: {line}"
            )
            raise UnsupportedModule(detail=detail)
        noted(f"{self.place(axes[0])} is {least} or more in every request. {problem}")
        return least

    def _problem_at_one(self, symbol: str, low: int) -> str:
        try:
            if right_at_one(self.example, self.program, symbol):
                return ""
        except FailsAtOne as error:
            # If it was declared so, the compiled code will fail as forward() does.
            return f"forward() fails there: {error}" if low > 1 else ""
        return "forward() answers otherwise there than for 2 and more: an `if` on the size?"

    def proved(self, least: dict[str, int]) -> _Found:
        """The same with all dimensions declared as they were found, and proved."""
        dims = {symbol: self._dim(symbol, least) for symbol in self._roots()}
        sizes = [(axis, self.size(axis)) for axis in self.axes]
        if any(size is None for _, size in sizes):
            return self  # which cannot be described, and is refused for it
        declared = [(axis, _times(dims[size.symbol], size)) for axis, size in sizes if isinstance(size, Linear)]
        return replace(self, program=_with_fixes(self.example.with_dims(declared)))

    def _roots(self) -> Iterator[str]:
        for axis in self.axes:
            if isinstance(size := self.size(axis), Linear):
                yield size.symbol

    def _dim(self, symbol: str, least: dict[str, int]) -> Dim:
        low, high = range_of(self.program, symbol)
        return Dim(self._name(symbol), min=least.get(symbol, low), max=high)

    def _name(self, symbol: str) -> str:
        names = dim_names(self.program)
        if symbol in names:
            return names[symbol]
        if self._leads(symbol) and "batch" not in names.values():
            return "batch"
        axis = self.symbols[symbol][0] if symbol in self.symbols else self.axes[0]
        return f"{self.inputs[id(axis.tensor)].name.replace('.', '_')}_{axis.place}"

    def _leads(self, symbol: str) -> bool:
        first = next(iter(self.inputs.values()))
        return len(first.shape) > 0 and size_of(first.shape[0]) == Linear(symbol, 1, 0)


def _times(dim: Dim, size: Linear) -> Dim:
    scaled = dim if size.factor == 1 else size.factor * dim
    return scaled + size.offset if size.offset else scaled


def _with_fixes(example: Example) -> ExportedProgram:
    for _ in range(_MOST_FIXES):
        try:
            return example.export()
        except ExportFailed as error:
            fixes = suggested_fixes(error)
            if fixes is None:
                raise
            try:
                example = replace(example, shapes=refine_dynamic_shapes_from_suggested_fixes(fixes, example.shapes))
            except Exception:  # torch raises several kinds if it cannot read its own suggestion
                raise error from error.__cause__
    return example.export()
