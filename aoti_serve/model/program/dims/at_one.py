"""Whether a program that torch has made for sizes of 2 and more is right for 1 as well.

torch assumes of each dimension that may vary that it is neither 0 nor 1, whatever its Dim says, and proves nothing of
the two: `if x.shape[0] == 1` is gone from the program.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from aoti_serve.model.program.dims.example import Example, Input
from aoti_serve.model.program.dims.symbols import Linear, size_of
from aoti_serve.signature.torch_private import pytree


class FailsAtOne(Exception):
    """forward() itself takes no such size."""


def right_at_one(example: Example, program: ExportedProgram, symbol: str) -> bool:
    """Whether the program answers as the module where the symbol is 1. Raises FailsAtOne if the module does not run."""
    single = _cut(example, example.inputs(program), symbol)
    try:
        expected = _answers(example.module, single)
    except Exception as error:  # whatever a module raises
        raise FailsAtOne(str(error)) from error
    compiled = program.module(check_guards=False)
    try:
        given = _answers(compiled, single)
    except Exception:
        return False
    # A module that draws numbers, or that has a faster way for itself, differs at any size.
    return _agree(expected, given) or not _agree(_answers(example.module, example), _answers(compiled, example))


def _cut(example: Example, inputs: Sequence[Input], symbol: str) -> Example:
    shapes = {id(given.tensor): given.shape for given in inputs}

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        for axis, size in enumerate(map(size_of, shapes[id(tensor)])):
            if isinstance(size, Linear) and size.symbol == symbol:
                tensor = tensor.narrow(axis, 0, size.factor + size.offset)
        return tensor

    return example.mapped(cut)


def _answers(module: torch.nn.Module, call: Example) -> list[torch.Tensor]:
    args, kwargs = copy.deepcopy((call.args, call.kwargs))  # forward() may change them, and its buffers
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        result: Any = torch.func.functional_call(module, buffers, args, kwargs)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _agree(expected: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> bool:
    return len(expected) == len(given) and all(map(_close, expected, given))


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    # squeeze() drops a dimension of 1, and the program keeps it: the same numbers, in the shape that is promised.
    if one.dtype != other.dtype or one.numel() != other.numel():
        return False
    tolerance = 1e-3 if one.is_floating_point() else 0
    first, second = one.double().flatten(), other.double().flatten()
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)
