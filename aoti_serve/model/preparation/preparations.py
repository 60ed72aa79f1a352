"""Every preparation, by the name that recipes call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from aoti_serve.model.preparation.column_major import ColumnMajor
from aoti_serve.model.preparation.int8_linear import Int8Linear
from aoti_serve.model.preparation.packed_convolution import PackedConvolution
from aoti_serve.model.preparation.packed_linear import PackedLinear
from aoti_serve.model.preparation.packed_lstm import PackedLstm
from aoti_serve.model.preparation.recipe import (
    COLUMN_MAJOR,
    INT8_LINEAR,
    PACKED_CONVOLUTION,
    PACKED_LINEAR,
    PACKED_LSTM_HIDDEN,
    PACKED_LSTM_INPUT,
    Recipe,
)
from aoti_serve.model.tensor_memory import constant_in
from aoti_serve.signature.constants import Constants, ConstantSpec


class Preparation(Protocol):
    """How what a recipe makes of one tensor of the weights is made on this machine.

    It takes `nbytes` of memory, and `tensors` is how the code sees them: one for each constant of the recipe. `prepare`
    is given `rows_at_once` rows of the tensor, or those that are left at its end: plain, contiguous, on the host;
    `first` is the first one's number.
    """

    nbytes: int
    rows_at_once: int

    def tensors(self, memory: torch.Tensor) -> tuple[torch.Tensor, ...]: ...

    def prepare(self, rows: torch.Tensor, first: int, memory: torch.Tensor) -> None: ...


_PREPARATIONS: dict[str, Callable[[ConstantSpec, Recipe], Preparation]] = {
    PACKED_LINEAR: lambda source, _: PackedLinear(source),
    PACKED_CONVOLUTION: lambda _, recipe: PackedConvolution(recipe),
    PACKED_LSTM_INPUT: lambda _, recipe: PackedLstm(recipe),
    PACKED_LSTM_HIDDEN: lambda _, recipe: PackedLstm(recipe),
    COLUMN_MAJOR: lambda _, recipe: ColumnMajor(recipe),
    INT8_LINEAR: lambda source, _: Int8Linear(source),
}


class Prepared(NamedTuple):
    """A tensor of the weights, `source`, and what the code takes for it: itself, if there is no `preparation`."""

    source: str
    constants: tuple[ConstantSpec, ...]
    preparation: Preparation | None = None

    @property
    def nbytes(self) -> int:
        return self.preparation.nbytes if self.preparation else self.constants[0].nbytes

    @property
    def on_host(self) -> bool:
        """Whether the code reads it on the host, wherever it runs."""
        return self.constants[0].host

    def tensors(self, memory: torch.Tensor) -> dict[str, torch.Tensor]:
        """The constants as the code sees them, by name, over `memory`: as many bytes as `nbytes`."""
        if self.preparation is None:
            return {self.source: constant_in(memory, self.constants[0])}
        made = self.preparation.tensors(memory)
        return {spec.name: tensor for spec, tensor in zip(self.constants, made, strict=True)}


def prepared(constants: Constants, recipes: Sequence[Recipe] = ()) -> tuple[Prepared, ...]:
    """What the code takes for the weights here: preparations try this machine, which takes as long as a stage."""
    specs = {spec.name: spec for spec in constants.constants}
    sources = {recipe.source for recipe in recipes}
    plain = [Prepared(spec.name, (spec,)) for spec in constants.constants if spec.name not in sources]
    made = [
        Prepared(recipe.source, recipe.constants, _PREPARATIONS[recipe.by](specs[recipe.source], recipe))
        for recipe in recipes
    ]
    return (*plain, *made)
