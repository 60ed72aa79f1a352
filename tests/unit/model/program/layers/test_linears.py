"""Which linear layers become oneDNN's, and that they compute what they did."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from aoti_serve.model.program.describe import describe
from aoti_serve.model.program.layers import linears
from aoti_serve.model.program.layers.linears import pack_linears, pays
from tests.unit.model.program.layers.modules import READ_BY_OTHERS, Forward, Layers, Tied


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "pays", lambda *_: True)


def exported(forward: Forward, x: torch.Tensor, module: nn.Module | None = None) -> ExportedProgram:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    made = module or Layers(forward, 6, x.dtype)
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


def test_tied_layers_are_packed_and_a_tied_table_is_not() -> None:
    assert packed(lambda *_: None, module=Tied(6, nn.Linear(6, 6)))[0]
    assert packed(lambda *_: None, module=Tied(6, nn.Embedding(6, 6)))[0] == set()


@pytest.mark.parametrize("forward", READ_BY_OTHERS)
def test_a_weight_that_others_read_stays_plain(forward: Forward) -> None:
    assert packed(forward)[0] == set()


def test_other_dtypes_stay_plain() -> None:
    assert packed(lambda self, x: self.one(x), torch.randn(4, 6).double())[0] == set()


def test_the_rule_leaves_small_layers_alone() -> None:
    assert not pays("float32", 384, 384)
    assert pays("float32", 1024, 1024)
    assert not pays("bfloat16", 64, 64)
    assert pays("bfloat16", 384, 384)
