"""One linear layer in int8, as calls in a graph.

Inputs are quantised in each run, row by row, so that no row's answer depends on those that share its batch. Sums of
int8 are exact, so it does not depend on their number either.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.fx import Node

from aoti_serve.model.preparation.int8_linear import LEAST
from aoti_serve.model.program.dataflow import argument_named, inserted
from aoti_serve.signature.torch_private import onednn_int8_linear

_aten = torch.ops.aten


class Numbers(NamedTuple):
    """1.0, 128 and 0 as tensors: the scale and the zero point of quantised inputs, and the zero point of weights."""

    one: Node
    offset: Node
    zero: Node


def numbers_of(scales: Node) -> Numbers:
    """Compute the numbers from any scales; of plain ones the compiler would make constants that nobody fills."""
    emit = partial(inserted, next(node for node in scales.graph.nodes if node.op != "placeholder"))
    below = emit(_aten.lt.Scalar, emit(_aten.select.int, scales, 0, 0), -1.0)  # no scale is, nor NaN
    zero = emit(_aten.to.dtype, below, torch.int32)
    one = emit(_aten.add.Tensor, emit(_aten.to.dtype, zero, torch.float32), 1.0)
    return Numbers(one, emit(_aten.add.Tensor, zero, 128), zero)


def compute_in_int8(linear: Node, weight: Node, scales: Node, numbers: Numbers) -> None:
    """Compute a layer in int8; its node stays, the last of those that do it."""
    taken, bias = argument_named(linear, "input"), argument_named(linear, "bias")
    emit = partial(inserted, linear)
    given, given_scales = _quantized(emit, taken)
    one, offset, zero = numbers
    product = emit(
        onednn_int8_linear(), given, one, offset, weight, scales, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )
    answer = emit(_aten.mul.Tensor, product, given_scales)
    if bias is not None:
        answer = emit(_aten.add.Tensor, answer, bias)
    linear.target, linear.args, linear.kwargs = _aten.to.dtype, (answer, taken.meta["val"].dtype), {}


def _quantized(emit: Callable[..., Node], taken: Node) -> tuple[Node, Node]:
    """The rows of an input as uint8 around 128, and the scale of each, as `preparation.int8_linear` does it."""
    largest = emit(_aten.to.dtype, emit(_aten.amax.default, emit(_aten.abs.default, taken), [-1], True), torch.float32)
    scales = emit(_aten.div.Tensor, emit(_aten.clamp.default, largest, LEAST), 127.0)
    scales = emit(_aten.add.Tensor, scales, emit(_aten.sub.Tensor, largest, largest))
    rounded = emit(_aten.round.default, emit(_aten.mul.Tensor, taken, emit(_aten.reciprocal.default, scales)))
    return emit(_aten.to.dtype, emit(_aten.add.Tensor, rounded, 128.0), torch.uint8), scales
