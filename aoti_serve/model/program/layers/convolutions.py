"""Convolutions whose weights are packed when they are staged: what of a program becomes oneDNN's own operator.

Left to the compiler, a convolution takes its input with channels last, and the code turns the weight to that order in
every run, and oneDNN turns it once more to the order of its kernel: for large kernels over short inputs that is most of
the time. Packed, a weight is read as it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.preparation.recipe import PACKED_CONVOLUTION, Recipe, Window
from aoti_serve.model.program.dataflow import argument_named, inserted, op_name
from aoti_serve.model.program.layers.packing import (
    Layer,
    change_constant,
    is_of_one_dtype,
    weight_of,
    weights_of,
    with_activation,
)
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.torch_private import example_sizes, onednn_convolution

_DIMENSIONS = {"conv1d": 1, "conv2d": 2}
_ACROSS = 2  # where a dimension of length 1 is added, since oneDNN's operator has two beside the channels


def pack_convolutions(program: ExportedProgram, signature: Signature) -> tuple[Recipe, ...]:
    """Let oneDNN compute the convolutions where that pays, in place; returns the recipes of their weights.

    A weight is packed only if nothing reads it but convolutions, under none of its names; for the first one's input.
    """
    values = dict(program.constants) | dict(program.state_dict)
    specs = {spec.name: spec for spec in signature.constants}
    recipes: list[Recipe] = []
    for names, calls in weights_of(program, values, weight_of(*_DIMENSIONS)):
        windows = [window_of(call) for call in calls if _can_be_packed(call, values[names[0]])]
        known = [window for window in windows if window is not None]
        # In other groups the same numbers are another weight.
        if len(known) < len(calls) or len({window.groups for window in known}) > 1:
            continue
        if not is_faster_packed(specs[names[0]].shape, known[0].groups):
            continue
        wide = change_constant(program, names, lambda plain: plain.unsqueeze(_ACROSS) if plain.dim() == 3 else plain)
        recipes += [_recipe(specs[name], wide, known[0]) for name in names]
        for call, window in zip(calls, known, strict=True):
            _replace(with_activation(call), window)
    if recipes:
        program.graph_module.recompile()
    return tuple(recipes)


_NARROW = 16  # channels of a group
_LARGE = 1 << 20  # elements
_SHORT, _LONG = 5, 16  # elements along a kernel of one dimension


def is_faster_packed(shape: Sequence[int], groups: int) -> bool:
    """Whether a weight of this form, `[channels out, channels in of a group, *kernel]`, is faster packed, as measured.

    One layer, one thread, AVX-512 with AMX, torch 2.13; plain over packed, by batch. Of two dimensions the plain one is
    what the compiler makes, with channels last; of one dimension packed includes turning input and result, which
    compiled code often need not do:

    | | 1 | 4 | 8 | 32 |
    |---|---|---|---|---|
    | 64 to 64, 3 x 3 over 56 x 56 | 1.04 | 1.02 | 1.08 | 1.03 |
    | 512 to 512, 3 x 3 over 7 x 7 | 3.10 | 1.59 | 1.33 | 1.07 |
    | 256 to 512, 64 x 1 over 71 x 1 | 8.06 | 3.17 | 3.04 | 1.52 |
    | 576 to 96, 1 x 1 over 14 x 14 | 1.07 | 1.12 | 1.13 | 1.02 |
    | 576 depthwise, 3 x 3 over 14 x 14 | 1.42 | 1.18 | 1.13 | 0.92 |
    | 16 to 32, 3 x 3 over 16 x 16 | 0.96 | 1.29 | 1.18 | 1.04 |
    | bfloat16, 256 to 256, 3 x 3 over 14 x 14 | 3.07 | 1.65 | 1.38 | 1.10 |
    | 512 to 512, 3 over 800 | 0.94 | 0.89 | 0.86 | 0.80 |
    | 512 to 512, 5 over 100 | 1.36 | 1.17 | 1.11 | 1.11 |
    | 512 to 512, 7 over 1000 | 1.11 | 1.07 | 1.07 | 1.05 |
    | 512 depthwise, 7 over 1000 | 0.34 | 0.42 | 0.57 | 0.59 |
    | 256 depthwise, 31 over 100 | 5.16 | 6.22 | 7.20 | 7.80 |
    | 768 in 16 groups, 128 over 50 | 3.05 | 2.83 | 3.09 | 3.54 |

    Narrow groups are filled up with zeros, to up to 64 times their bytes.
    """
    out, channels, *kernel = shape
    depthwise = channels == 1 and out == groups
    if groups > 1 and channels < _NARROW and not depthwise:
        return False
    if len(kernel) == 2:
        return True
    return kernel[0] >= _LONG if groups > 1 else kernel[0] >= _SHORT and out * channels * kernel[0] >= _LARGE


def window_of(call: Node) -> Window | None:
    """How a convolution goes over its input; None if that is not known, or not the same at both ends."""
    kernel = argument_named(call, "weight").meta["val"].shape[2:]
    dilation = _each(argument_named(call, "dilation"), len(kernel))
    padding = _padding(argument_named(call, "padding"), kernel, dilation)
    taken = example_sizes(argument_named(call, "input").meta["val"].shape)
    if padding is None or taken is None:
        return None
    stride, groups = _each(argument_named(call, "stride"), len(kernel)), argument_named(call, "groups")
    if len(kernel) == 2:
        return Window(padding=padding, stride=stride, dilation=dilation, groups=groups, taken=taken)
    wide = (*taken[:_ACROSS], 1, *taken[_ACROSS:])
    return Window(padding=(0, *padding), stride=(1, *stride), dilation=(1, *dilation), groups=groups, taken=wide)


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    """A number for each dimension; torch takes one for all of them as well."""
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    return numbers * dimensions if len(numbers) == 1 else numbers


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...] | None:
    if value == "valid":
        return (0,) * len(kernel)
    if value != "same":
        return _each(value, len(kernel))
    whole = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    return None if any(size % 2 for size in whole) else tuple(size // 2 for size in whole)


def _can_be_packed(call: Node, weight: torch.Tensor) -> bool:
    """The compiler must know that the result has its channels last: not by strides alone, where sizes of 1 hide it."""
    taken = argument_named(call, "input").meta["val"]
    dimensions = _DIMENSIONS[op_name(call)]
    if not is_of_one_dtype(call, weight) or taken.dim() != dimensions + 2 or weight.numel() == 0:
        return False
    channels, *places = taken.shape[1:]
    return channels != 1 and not all(isinstance(size, int) and size == 1 for size in places)


def _replace(layer: Layer, window: Window) -> None:
    """Make the last node the result of oneDNN's operator; it keeps its name, by which the program's outputs know it.

    What follows was exported for a contiguous result, and may rest on that. The copy costs nothing where the compiler
    computes it with what follows.
    """
    taken, weight, bias = (argument_named(layer.node, name) for name in ("input", "weight", "bias"))
    aten, flat = torch.ops.aten, op_name(layer.node) == "conv1d"
    called = partial(inserted, layer.last)
    numbers: tuple[Any, ...] = (list(window.padding), list(window.stride), list(window.dilation), window.groups)
    numbers = (*numbers, layer.activation, [], layer.algorithm)
    taken = called(aten.unsqueeze.default, taken, _ACROSS) if flat else taken
    result = called(onednn_convolution(), taken, weight, bias, *numbers)
    result = called(aten.squeeze.dim, result, _ACROSS) if flat else result
    layer.last.target = aten.clone.default
    layer.last.args, layer.last.kwargs = (result,), {"memory_format": torch.contiguous_format}
    if layer.last is not layer.node:
        layer.node.graph.erase_node(layer.node)


def _recipe(spec: ConstantSpec, wide: torch.Tensor, window: Window) -> Recipe:
    made = spec.model_copy(update={"shape": tuple(wide.shape), "stride": wide.stride()})
    return Recipe(source=spec.name, constants=(made,), by=PACKED_CONVOLUTION, window=window)
