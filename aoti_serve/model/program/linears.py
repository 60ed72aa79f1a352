"""Linear layers whose weights are packed when they are staged: what of a program becomes oneDNN's own operator.

The compiler does this itself for weights that it may freeze (torch/_inductor/fx_passes/mkldnn_fusion.py). Here the
weight stays a constant that can be swapped, and a recipe says that staging packs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.preparation.recipe import PACKED_LINEAR, Recipe
from aoti_serve.model.program.dataflow import argument_named, op_name
from aoti_serve.model.tensor_memory import memory_key
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.torch_private import changes_arguments, onednn_linear, onednn_linear_sum


class _Linear(NamedTuple):
    """A call of `aten.linear`, and what oneDNN computes with it: an activation of its result, or a sum with another."""

    node: Node
    last: Node
    activation: str = "none"
    algorithm: str = ""
    addend: Node | None = None


_ACTIVATIONS = {"relu": "relu", "silu": "swish", "tanh": "tanh", "sigmoid": "sigmoid", "gelu": "gelu"}


def pack_linears(program: ExportedProgram, signature: Signature) -> tuple[Recipe, ...]:
    """Let oneDNN compute the linear layers where that pays, in place; returns the recipes of their weights.

    A weight is packed only if nothing reads it but linear layers, under none of its names.
    """
    values = dict(program.constants) | dict(program.state_dict)
    specs = {spec.name: spec for spec in signature.constants}
    recipes = []
    for names, linears in linear_weights(program, values):
        spec = specs[names[0]]
        if all(fits_onednn(linear, values[names[0]]) for linear in linears) and pays(spec.dtype, *spec.shape):
            for linear in linears:
                _replace(_with_what_follows(linear))
            recipes += [Recipe(constant=specs[name], source=name, by=PACKED_LINEAR) for name in names]
    if recipes:
        program.graph_module.recompile()
    return tuple(recipes)


_LEAST = {"float32": 1 << 19, "bfloat16": 1 << 13}


def pays(dtype: str, rows: int, columns: int) -> bool:
    """Whether a weight of this form is faster packed, by a rule that is a measurement.

    One linear layer in a container, one thread, AVX-512 with AMX, torch 2.13; plain over packed, by rows of the input:

    | | 1 | 2 | 4 | 8 | 16 | 64 | 512 |
    |---|---|---|---|---|---|---|---|
    | float32, 512 x 512 | 0.74 | 0.74 | 0.86 | 0.89 | 1.16 | 1.11 | 1.02 |
    | 768 x 768 | 0.84 | 0.85 | 1.17 | 1.23 | 1.21 | 1.08 | 0.99 |
    | 1024 x 1024 | 0.85 | 0.88 | 1.43 | 1.61 | 1.44 | 1.16 | 1.00 |
    | 4096 x 4096 | 0.87 | 0.92 | 1.50 | 1.63 | 1.55 | 1.10 | 0.94 |
    | bfloat16, 64 x 64 | 0.51 | 1.35 | 1.36 | 1.34 | 1.34 | 1.35 | 1.32 |
    | 10 x 1024 | 1.34 | 1.36 | 1.35 | 1.35 | 1.36 | 1.35 | 1.31 |
    | 1024 x 1024 | 1.48 | 1.59 | 1.64 | 1.57 | 1.55 | 1.43 | 1.23 |
    | 4096 x 4096 | 1.20 | 1.16 | 1.09 | 1.17 | 1.15 | 1.19 | 1.04 |

    A call of oneDNN costs 25 us more than one of BLAS: small layers of float32 lose by it, and a single row of large
    ones a little. bfloat16 goes to oneDNN in any case.
    """
    return rows * columns >= _LEAST[dtype]


def linear_weights(
    program: ExportedProgram, values: Mapping[str, torch.Tensor]
) -> Iterator[tuple[list[str], list[Node]]]:
    """Constants that only linear layers read, as their weight: the names of each, and the calls."""
    nodes = {node.name: node for node in program.graph.nodes}
    groups: dict[object, list[str]] = {}
    placeholders = {}
    for spec in program.graph_signature.input_specs:
        if spec.target in values and nodes[spec.arg.name].users:
            placeholders[str(spec.target)] = nodes[spec.arg.name]
            groups.setdefault(memory_key(values[str(spec.target)]), []).append(str(spec.target))
    for names in groups.values():
        calls = [user for name in names for user in placeholders[name].users]
        if all(op_name(call) == "linear" for call in calls) and not any(
            placeholders[name] in (argument_named(call, "input"), argument_named(call, "bias"))
            for name in names
            for call in calls
        ):
            yield names, list(dict.fromkeys(calls))


def fits_onednn(linear: Node, weight: torch.Tensor) -> bool:
    taken, bias = argument_named(linear, "input").meta["val"], argument_named(linear, "bias")
    dtypes = {weight.dtype, taken.dtype, *([bias.meta["val"].dtype] if bias is not None else [])}
    return (
        dtypes in ({torch.float32}, {torch.bfloat16})
        and weight.is_contiguous()
        and weight.dim() == 2
        and taken.dim() >= 2
    )


def _with_what_follows(linear: Node) -> _Linear:
    """The linear layer with the one operator that uses its result, if oneDNN can do both at once."""
    alone = _Linear(linear, linear)
    if len(linear.users) != 1:
        return alone
    (user,) = linear.users
    name = op_name(user)
    if not _nothing_written_between(linear, user):  # the layer is computed where the user stands
        return alone
    if name == "add":
        return _sum(linear, user) or alone
    if name == "gelu":
        return _Linear(linear, user, "gelu", argument_named(user, "approximate"))
    return _Linear(linear, user, _ACTIVATIONS[name]) if name in _ACTIVATIONS else alone


def _sum(linear: Node, user: Node) -> _Linear | None:
    """Both terms must be tensors of one shape and dtype; the other one may not be what is written to."""
    first, second = argument_named(user, "self"), argument_named(user, "other")
    addend = second if first is linear else first
    if not isinstance(addend, Node) or addend is linear or argument_named(user, "alpha") != 1:
        return None
    mine, other = linear.meta["val"], addend.meta["val"]
    same = isinstance(other, torch.Tensor) and other.dtype == mine.dtype and _sizes(mine) == _sizes(other)
    kept = first is linear or not changes_arguments(user.target)
    return _Linear(linear, user, "add", addend=addend) if same and kept else None


def _sizes(value: torch.Tensor) -> list[str]:
    return [str(size) for size in value.shape]


def _nothing_written_between(first: Node, last: Node) -> bool:
    node = first.next
    while node is not last:
        if changes_arguments(node.target):
            return False
        node = node.next
    return True


def _replace(linear: _Linear) -> None:
    """Make the last node oneDNN's operator; it keeps its name, by which the program's outputs know it."""
    taken, weight, bias = (argument_named(linear.node, name) for name in ("input", "weight", "bias"))
    if linear.addend is None:
        linear.last.target = onednn_linear()
        linear.last.args = (taken, weight, bias, linear.activation, [], linear.algorithm)
    else:
        linear.last.target = onednn_linear_sum()
        linear.last.args = (taken, linear.addend, weight, bias, linear.activation)
    linear.last.kwargs = {}
    if linear.last is not linear.node:
        linear.node.graph.erase_node(linear.node)
