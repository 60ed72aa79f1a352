"""Linear layers whose weights are packed when they are staged: what of a program becomes oneDNN's own operator.

The compiler does this itself for weights that it may freeze (torch/_inductor/fx_passes/mkldnn_fusion.py). Here the
weight stays a constant that can be swapped, and a recipe says that staging packs it. The activation or the sum behind a
layer the compiler still makes part of it.
"""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.preparation.recipe import PACKED_LINEAR, Recipe
from aoti_serve.model.program.dataflow import argument_named
from aoti_serve.model.program.layers.packing import is_of_one_dtype, weight_of, weights_of
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.torch_private import onednn_linear


def pack_linears(program: ExportedProgram, signature: Signature) -> tuple[Recipe, ...]:
    """Let oneDNN compute the linear layers where that pays, in place; returns the recipes of their weights.

    A weight is packed only if nothing reads it but linear layers, under none of its names.
    """
    values = dict(program.constants) | dict(program.state_dict)
    specs = {spec.name: spec for spec in signature.constants}
    recipes = []
    for names, linears in weights_of(program, values, weight_of("linear")):
        spec = specs[names[0]]
        if all(fits_onednn(linear, values[names[0]]) for linear in linears) and pays(spec.dtype, *spec.shape):
            for linear in linears:
                _replace(linear)
            recipes += [Recipe(source=name, constants=(specs[name],), by=PACKED_LINEAR) for name in names]
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

    A call of oneDNN costs 25 us more than one of BLAS: small layers of float32 lose by it (column_major.py is for
    them), and a single row of large ones a little. bfloat16 goes to oneDNN in any case.
    """
    return rows * columns >= _LEAST[dtype]


def fits_onednn(linear: Node, weight: torch.Tensor) -> bool:
    """Whether a linear layer with this weight is one that oneDNN computes."""
    rows = argument_named(linear, "input").meta["val"]
    return is_of_one_dtype(linear, weight) and weight.is_contiguous() and weight.dim() == 2 and rows.dim() >= 2


def _replace(linear: Node) -> None:
    """Make a node oneDNN's operator, under the name by which the program's outputs may know it."""
    taken, weight, bias = (argument_named(linear, name) for name in ("input", "weight", "bias"))
    linear.target, linear.args, linear.kwargs = onednn_linear(), (taken, weight, bias, "none", [], ""), {}
