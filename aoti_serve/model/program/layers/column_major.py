"""Small weights of linear layers and GRUs, turned when they are staged: columns first, as BLAS reads them faster.

The program stays as it is; only the strides of such a constant change, and a recipe says that staging turns it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.export import ExportedProgram
from torch.fx import Node

from aoti_serve.model.preparation.recipe import COLUMN_MAJOR, Recipe
from aoti_serve.model.program.dataflow import argument_named, op_name
from aoti_serve.model.program.layers.packing import change_constant, weight_of, weights_of
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.signature import Signature

_FEWER = 1 << 20  # elements


def turn_weights(program: ExportedProgram, signature: Signature) -> tuple[Recipe, ...]:
    """Change the order of weights where that pays, in place; returns their recipes."""
    values = dict(program.constants) | dict(program.state_dict)
    specs = {spec.name: spec for spec in signature.constants}
    recipes = []
    for names, _ in weights_of(program, values, _reads):
        value = values[names[0]]
        if value.is_contiguous() and is_faster_turned(specs[names[0]].dtype, value.shape):
            turned = change_constant(program, names, lambda plain: plain.t().contiguous().t())
            recipes += [_recipe(specs[name], turned.stride()) for name in names]
    return tuple(recipes)


def is_faster_turned(dtype: str, shape: Sequence[int]) -> bool:
    """Whether a weight of this form is faster with its columns first, by a rule that is a measurement.

    One product of float32, one thread, AVX-512, torch 2.13 with MKL; plain over turned, by rows of the input:

    | | 1 | 2 | 4 | 8 | 16 | 64 | 512 |
    |---|---|---|---|---|---|---|---|
    | 10 x 64 | 1.41 | 1.33 | 1.46 | 1.45 | 1.45 | 1.30 | 1.08 |
    | 256 x 256 | 1.52 | 1.30 | 1.38 | 1.48 | 1.62 | 1.23 | 1.04 |
    | 384 x 384 | 1.60 | 1.13 | 1.36 | 1.50 | 1.59 | 1.21 | 1.04 |
    | 1536 x 384 | 1.16 | 0.88 | 1.46 | 1.77 | 1.27 | 1.07 | 1.01 |
    | 768 x 768 | 1.16 | 1.06 | 1.56 | 1.74 | 1.42 | 1.24 | 1.09 |
    | 1024 x 1024 | 1.01 | 0.90 | 1.43 | 1.79 | 1.44 | 1.05 | 1.03 |
    | 2048 x 2048 | 1.00 | 0.72 | 0.93 | 0.83 | 0.98 | 1.02 | 1.06 |

    Linear layers of 2^19 elements and more are packed before (linears.py): in a model, whose weights do not all stay in
    the cache, that is faster still.
    """
    return dtype == "float32" and len(shape) == 2 and min(shape) > 1 and shape[0] * shape[1] < _FEWER


def _reads(call: Node, constant: Node) -> bool:
    if op_name(call) == "gru":
        return constant in argument_named(call, "params")
    return weight_of("linear")(call, constant)


def _recipe(spec: ConstantSpec, stride: tuple[int, ...]) -> Recipe:
    made = spec.model_copy(update={"stride": stride})
    return Recipe(source=spec.name, constants=(made,), by=COLUMN_MAJOR)
