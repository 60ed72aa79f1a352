"""Which linear layers become oneDNN's, and that they compute what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.functional import linear

from aoti_serve.model.program.describe import describe
from aoti_serve.model.program.layers import linears
from aoti_serve.model.program.layers.linears import pack_linears, pays

Forward = Callable[[Any, torch.Tensor], Any]


class Layers(nn.Module):
    """Two layers of one width, and a forward() of the test's."""

    def __init__(self, forward: Forward, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6, dtype=dtype), nn.Linear(6, 6, bias=False, dtype=dtype)
        self.table = nn.Parameter(torch.randn(6, 6, dtype=dtype))
        self._forward = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self._forward(self, x)


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "pays", lambda *_: True)


def exported(forward: Forward, x: torch.Tensor, module: nn.Module | None = None) -> ExportedProgram:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    made = module or Layers(forward, x.dtype)
    return torch.export.export(made.eval(), (x,), dynamic_shapes=({0: batch},))


def packed(forward: Forward, x: torch.Tensor | None = None, module: nn.Module | None = None) -> tuple[set[str], str]:
    """The names of the packed weights, and the code; after a comparison of its answers with those before."""
    x = torch.randn(4, 6) if x is None else x
    program = exported(forward, x, module)
    expected = program.module()(x.clone())
    recipes = pack_linears(program, describe(program))
    program.validate()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        program.module()(x.clone()), expected, rtol=1e-4, atol=1e-4 if x.dtype.itemsize == 4 else 0.05
    )
    return {recipe.source for recipe in recipes}, program.graph_module.code


ONE, TWO, BOTH = {"one.weight"}, {"two.weight"}, {"one.weight", "two.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_becomes_onednns_and_what_follows_stays(dtype: torch.dtype) -> None:
    names, code = packed(lambda self, x: torch.relu(y := self.one(x)) + y.add_(1), torch.randn(4, 6).to(dtype))
    assert names == ONE
    assert "linear_pointwise" in code


def test_an_answer_keeps_its_name() -> None:
    assert packed(lambda self, x: (self.one(x), self.two(x)))[0] == BOTH


def test_layers_in_a_row_and_one_without_a_bias() -> None:
    names, _ = packed(lambda self, x: self.two(torch.relu(self.one(x))))
    assert names == BOTH


def test_more_dimensions_are_rows() -> None:
    assert packed(lambda self, x: self.one(x), torch.randn(4, 3, 2, 6))[0] == ONE


def test_a_weight_that_two_layers_use_is_packed_once() -> None:
    names, code = packed(lambda self, x: self.one(torch.relu(self.one(x))))
    assert names == ONE
    assert code.count("_linear_pointwise") == 2


class Tied(nn.Module):
    """Two layers with one weight, or a layer and a table of embeddings."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(6, 6), other
        self.other.weight = self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = self.other(x if isinstance(self.other, nn.Linear) else x.abs().long())
        answer: torch.Tensor = self.layer(x) + (read if isinstance(self.other, nn.Linear) else read.sum(1))
        return answer


def test_tied_layers_are_packed_and_a_tied_table_is_not() -> None:
    assert packed(lambda *_: None, module=Tied(nn.Linear(6, 6)))[0]
    assert packed(lambda *_: None, module=Tied(nn.Embedding(6, 6)))[0] == set()


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda self, x: linear(x, self.table * 2), id="computed"),
        pytest.param(lambda self, x: linear(x, self.table) + self.table[0], id="read-elsewhere"),
        pytest.param(lambda self, x: linear(self.table, self.table) + x.sum(), id="input-as-well"),
        pytest.param(lambda self, x: linear(x, self.table.t()), id="turned"),
        pytest.param(lambda self, x: (linear(x, self.table), self.table), id="answer"),
        pytest.param(lambda self, x: linear(x[0], self.table), id="one-vector"),
        pytest.param(lambda self, x: x @ self.table, id="matmul"),
    ],
)
def test_a_weight_that_others_read_stays_plain(forward: Forward) -> None:
    assert packed(forward)[0] == set()


def test_other_dtypes_stay_plain() -> None:
    assert packed(lambda self, x: self.one(x), torch.randn(4, 6).double())[0] == set()


def test_a_layer_in_a_branch_stays_plain() -> None:
    def branched(self: Any, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = torch.cond(x.sum() > 0, self.one, self.two, (x,))
        return answer

    assert packed(branched)[0] == set()


def test_the_rule_leaves_small_layers_alone() -> None:
    assert not pays("float32", 384, 384)
    assert pays("float32", 1024, 1024)
    assert not pays("bfloat16", 64, 64)
    assert pays("bfloat16", 384, 384)
