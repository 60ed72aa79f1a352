"""Linear layers that are computed in int8: their weights become constants that staging quantises.

A trainer goes on sending the plain weights: those stay the constants of the signature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

from aoti_serve.model.preparation.recipe import INT8_LINEAR, Recipe
from aoti_serve.model.program.dataflow import fake_mode_of
from aoti_serve.model.program.layers.int8_layer import Numbers, compute_in_int8, numbers_of
from aoti_serve.model.program.layers.linears import fits_onednn
from aoti_serve.model.program.layers.packing import weight_of, weights_of
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature

_LEAST_ELEMENTS = {"float32": 1 << 17, "bfloat16": 1 << 19}
_MOST_COLUMNS = 1 << 17  # of products of int8 whose sum is an int32 for certain


class Quantized(NamedTuple):
    """The recipes of what was quantised, and the plain weights, which the program no longer has."""

    recipes: tuple[Recipe, ...] = ()
    plain: Mapping[str, torch.Tensor] = {}


def quantize_linears(program: ExportedProgram, signature: Signature) -> Quantized:
    """Compute the linear layers in int8 where that pays, in place.

    As with `pack_linears` a weight is left alone if anything else reads it, under any of its names.
    """
    values = dict(program.constants) | dict(program.state_dict)
    specs = {spec.name: spec for spec in signature.constants}
    recipes: list[Recipe] = []
    plain: dict[str, torch.Tensor] = {}
    numbers: Numbers | None = None
    for names, linears in weights_of(program, values, weight_of("linear")):
        spec = specs[names[0]]
        if all(fits_onednn(linear, values[names[0]]) for linear in linears) and int8_pays(spec.dtype, *spec.shape):
            recipe = _recipe(spec, values)
            weight, scales = (_added(program, made, linears[0]) for made in recipe.constants)
            numbers = numbers or numbers_of(scales)
            for linear in linears:
                compute_in_int8(linear, weight, scales, numbers)
            _forget(program, names)
            recipes.append(recipe)
            plain |= {name: values[name] for name in names}
    if recipes:
        program.graph_module.recompile()
    return Quantized(tuple(recipes), plain)


def int8_pays(dtype: str, rows: int, columns: int) -> bool:
    """Whether a weight of this form is faster in int8, by a rule that is a measurement.

    One linear layer in a container, one thread, AVX-512 with AMX, torch 2.13; what it takes otherwise, plain or packed
    as `pays` has it, over int8, by rows of the input:

    | | 1 | 4 | 16 | 64 | 512 |
    |---|---|---|---|---|---|
    | float32, 256 x 256 | 0.75 | 0.75 | 0.93 | 1.17 | 1.98 |
    | 384 x 384 | 0.80 | 0.84 | 1.10 | 1.46 | 2.75 |
    | 512 x 512 | 0.87 | 0.94 | 1.32 | 1.93 | 3.89 |
    | 1536 x 384 | 1.35 | 1.38 | 1.62 | 2.52 | 4.54 |
    | 1024 x 1024 | 1.57 | 1.53 | 1.95 | 3.29 | 4.67 |
    | 4096 x 4096 | 2.88 | 2.56 | 4.26 | 4.49 | 6.71 |
    | bfloat16, 384 x 384 | 0.88 | 0.86 | 0.86 | 0.79 | 0.60 |
    | 1536 x 384 | 1.05 | 1.05 | 1.02 | 0.96 | 0.93 |
    | 1024 x 1024 | 1.18 | 1.17 | 1.13 | 1.08 | 0.90 |
    | 2048 x 2048 | 1.28 | 1.27 | 1.24 | 1.23 | 1.46 |
    | 4096 x 4096 | 1.46 | 1.39 | 1.57 | 1.21 | 1.24 |

    Other kernels, as 1024 x 1024: `_int_mm` on plain int8 takes 10 to 20 % longer, and twice as long for 4096 x 4096,
    since it packs the weight in each run. `_weight_int8pack_mm`, which leaves inputs as they are, is quicker up to 2
    rows of bfloat16, takes 6 times as long for 64, and computes float32 one by one.
    """
    return rows * columns >= _LEAST_ELEMENTS[dtype] and columns <= _MOST_COLUMNS


def _recipe(source: ConstantSpec, taken: Collection[str]) -> Recipe:
    """How the two constants are made that stand for a weight, under names that are not `taken`."""
    rows, columns = source.shape
    weight, scales = (_free(f"{source.name}_{suffix}", taken) for suffix in ("int8", "scales"))
    packed = ConstantSpec(name=weight, dtype="int8", shape=(columns, rows), stride=(rows, 1))
    factors = ConstantSpec(name=scales, dtype="float32", shape=(rows,), stride=(1,))
    return Recipe(source=source.name, constants=(packed, factors), by=INT8_LINEAR)


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _added(program: ExportedProgram, spec: ConstantSpec, reader: Node) -> Node:
    """Give the program one more constant, before all others; returns its placeholder."""
    graph = program.graph
    dtype = getattr(torch, spec.dtype)
    value = torch.zeros(spec.shape, dtype=dtype)
    with graph.inserting_before(next(iter(graph.nodes))):
        node: Node = graph.placeholder(f"b_{spec.name.replace('.', '_')}")
    with fake_mode_of(reader):
        node.meta["val"] = torch.zeros(spec.shape, dtype=dtype)
    buffer = InputSpec(InputKind.BUFFER, TensorArgument(node.name), spec.name, persistent=True)
    program.graph_signature.input_specs.insert(0, buffer)
    program.state_dict[spec.name] = value
    return node


def _forget(program: ExportedProgram, names: Collection[str]) -> None:
    """Take constants from the program that nothing reads any more."""
    specs = program.graph_signature.input_specs
    gone = [spec for spec in specs if spec.target in names]
    specs[:] = [spec for spec in specs if spec.target not in names]
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    for spec in gone:
        program.graph.erase_node(placeholders[spec.arg.name])
    for name in names:
        program.state_dict.pop(name, None)
        program.constants.pop(name, None)
