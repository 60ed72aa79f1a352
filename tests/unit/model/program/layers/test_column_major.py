"""Which weights are turned, and that the program computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.functional import linear

from aoti_serve.model.program.describe import describe
from aoti_serve.model.program.exported import program_of
from aoti_serve.model.program.layers.column_major import is_faster_turned, turn_weights
from aoti_serve.model.tensor_memory import memory_key
from tests.integration.models import small_layers_packed
from tests.unit.model.program.layers.test_convolutions import Whole

X = torch.randn(3, 6)


def turned(module: nn.Module, x: torch.Tensor = X) -> set[str]:
    """The names of the weights that are turned; after a comparison of the program's answers with those before."""
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: Dim("batch", max=9)},))
    expected = program.module()(x)
    recipes = turn_weights(program, describe(program))
    program.validate()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(program.module()(x), expected)
    values = dict(program.constants) | dict(program.state_dict)
    for recipe in recipes:
        assert values[recipe.source].stride() == recipe.constants[0].stride
    return {recipe.source for recipe in recipes}


def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 6))


def test_a_linear_layer_is_turned_with_or_without_a_bias() -> None:
    layers = {"one": nn.Linear(6, 5), "two": nn.Linear(5, 4, bias=False)}
    assert turned(Whole(lambda self, x: self.two(self.one(x)), **layers)) == {"one.weight", "two.weight"}


@pytest.mark.filterwarnings(r"ignore:The tensor attributes? self\..*\._flat_weights:UserWarning")  # torch.export's own
def test_a_gru_is_turned() -> None:
    module = Whole(lambda self, x: self.gru(x)[0], gru=nn.GRU(6, 4, num_layers=2, bidirectional=True, batch_first=True))
    names = turned(module, torch.randn(3, 5, 6))
    assert names == {name for name, value in module.named_parameters() if value.dim() == 2}


@pytest.mark.parametrize(
    ("kind", "x"), [(lambda: nn.Linear(6, 6), X), (lambda: nn.Conv1d(6, 6, 1), torch.randn(3, 6, 4))]
)
def test_tied_weights_stay_one_tensor(kind: Callable[[], nn.Module], x: torch.Tensor) -> None:
    one, two = kind(), kind()
    two.weight = one.weight
    module = Whole(lambda self, x: self.two(self.one(x)), one=one, two=two).eval()
    with small_layers_packed():
        program = program_of(module, (x,), None, forget_mutations=False, prepare=True, quantize=False)
    assert program.recipes
    names = {memory_key(program.values[name]) for name in ("one.weight", "two.weight")}
    assert len(names) == 1


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda self, x: x @ self.table, id="matmul"),
        pytest.param(lambda self, x: linear(x, self.table) + self.table[0], id="read-elsewhere"),
        pytest.param(lambda self, x: linear(self.table, self.table) + x.sum(), id="input-as-well"),
        pytest.param(lambda self, x: (linear(x, self.table), self.table), id="answer"),
        pytest.param(lambda self, x: linear(x, self.table[:1]), id="part"),
    ],
)
def test_a_weight_that_others_read_stays_plain(forward: Any) -> None:
    assert turned(Whole(forward, table=table())) == set()


def test_other_dtypes_stay_plain() -> None:
    assert turned(nn.Linear(6, 6, dtype=torch.float64), X.double()) == set()


def test_the_rule_turns_what_is_faster_so() -> None:
    assert is_faster_turned("float32", (384, 384))
    assert not is_faster_turned("float32", (2048, 2048))
    assert not is_faster_turned("float32", (1, 512))
    assert not is_faster_turned("bfloat16", (64, 64))
