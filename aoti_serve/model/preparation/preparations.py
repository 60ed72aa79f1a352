"""Every preparation, by the name that recipes call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from aoti_serve.model.preparation.column_major import ColumnMajor
from aoti_serve.model.preparation.int8_linear import Int8Linear, Int8Scales
from aoti_serve.model.preparation.packed_convolution import PackedConvolution
from aoti_serve.model.preparation.packed_linear import PackedLinear
from aoti_serve.model.preparation.packed_lstm import PackedLstm
from aoti_serve.model.preparation.recipe import (
    COLUMN_MAJOR,
    INT8_LINEAR,
    INT8_SCALES,
    PACKED_CONVOLUTION,
    PACKED_LINEAR,
    PACKED_LSTM_HIDDEN,
    PACKED_LSTM_INPUT,
    Recipe,
)
from aoti_serve.signature.constants import Constants, ConstantSpec


class Preparation(Protocol):
    """How one constant is made of one tensor of the weights, on this machine.

    The constant takes `nbytes` of memory, and `tensor` is how the code sees them. `prepare` is given `rows_at_once`
    rows of the tensor, or those that are left at its end: plain, contiguous, on the host; `first` is the first one's
    number.
    """

    nbytes: int
    rows_at_once: int

    def tensor(self, memory: torch.Tensor) -> torch.Tensor: ...

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None: ...


_PREPARATIONS: dict[str, Callable[[ConstantSpec, Recipe], Preparation]] = {
    PACKED_LINEAR: lambda source, _: PackedLinear(source),
    PACKED_CONVOLUTION: lambda _, recipe: PackedConvolution(recipe),
    PACKED_LSTM_INPUT: lambda _, recipe: PackedLstm(recipe),
    PACKED_LSTM_HIDDEN: lambda _, recipe: PackedLstm(recipe),
    COLUMN_MAJOR: lambda _, recipe: ColumnMajor(recipe),
    INT8_LINEAR: lambda source, _: Int8Linear(source),
    INT8_SCALES: lambda source, _: Int8Scales(source),
}


class CodeConstant(NamedTuple):
    """A constant as the code takes it, and how it is made of `source`: as it is, if there is no `preparation`."""

    spec: ConstantSpec
    source: str
    preparation: Preparation | None = None

    @property
    def nbytes(self) -> int:
        return self.preparation.nbytes if self.preparation else self.spec.nbytes


def prepared(constants: Constants, recipes: Sequence[Recipe] = ()) -> tuple[CodeConstant, ...]:
    """What the code takes, and how it is made here: preparations try this machine, which takes as long as a stage."""
    specs = {spec.name: spec for spec in constants.constants}
    sources = {recipe.source for recipe in recipes}
    plain = [CodeConstant(spec, spec.name) for spec in constants.constants if spec.name not in sources]
    made = [
        CodeConstant(recipe.constant, recipe.source, _PREPARATIONS[recipe.by](specs[recipe.source], recipe))
        for recipe in recipes
    ]
    return (*plain, *made)
