"""Which linear layers are computed in int8, and that they compute what their integers and scales say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from aoti_serve.errors import CannotQuantize
from aoti_serve.model.preparation.preparations import prepared
from aoti_serve.model.preparation.recipe import INT8_LINEAR, Recipe
from aoti_serve.model.program.describe import describe
from aoti_serve.model.program.exported import program_of
from aoti_serve.model.program.layers import int8_linears
from aoti_serve.model.program.layers.int8_linears import Quantized, int8_pays, quantize_linears
from aoti_serve.signature.constants import Constants
from tests.int8 import in_int8
from tests.unit.model.program.layers.modules import READ_BY_OTHERS, Forward, Layers, Tied

WIDTH = 70


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_linears, "int8_pays", lambda *_: True)


def exported(module: nn.Module, x: torch.Tensor) -> tuple[ExportedProgram, Quantized]:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: batch},))
    made = quantize_linears(program, describe(program))
    program.validate()  # type: ignore[no-untyped-call]
    return program, made


def staged(program: ExportedProgram, quantized: Quantized) -> Callable[[torch.Tensor], Any]:
    """The program with its constants prepared, as staging does it."""
    module = program.module()
    kept: list[torch.Tensor] = []  # a tensor of oneDNN's does not keep its memory
    sources = [spec_of(name, value) for name, value in quantized.plain.items()]
    for each in prepared(Constants(constants=tuple(sources)), quantized.recipes):
        if each.preparation is None:
            continue
        memory = torch.zeros(each.nbytes, dtype=torch.uint8)
        value, step = quantized.plain[each.source].detach(), each.preparation.rows_at_once
        for first in range(0, len(value), step):
            each.preparation.prepare(value[first : first + step], first, memory)
        kept.append(memory)
        for constant, tensor in each.tensors(memory).items():
            path, _, name = constant.rpartition(".")
            module.get_submodule(path)._buffers[name] = tensor
    return lambda x: (module(x), kept)[0]


def spec_of(name: str, value: torch.Tensor) -> Any:
    (spec,) = describe(torch.export.export(Named(value), (torch.zeros(1),))).constants
    return spec.model_copy(update={"name": name})


class Named(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.value.sum()


def names_of(forward: Forward, x: torch.Tensor | None = None) -> list[str]:
    x = torch.randn(4, WIDTH) if x is None else x
    _, made = exported(Layers(forward, WIDTH, x.dtype if x.is_floating_point() else torch.float32), x)
    assert {recipe.source for recipe in made.recipes} == set(made.plain)
    return sorted(made.plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, WIDTH), (7, WIDTH), (3, 2, 4, WIDTH)])
def test_a_layer_computes_with_its_integers_and_scales(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    module = Layers(lambda self, x: (self.one(x), self.two(x)), WIDTH, dtype)
    x = torch.randn(8, *shape[1:]).to(dtype)
    run = staged(*exported(module, x))
    x = torch.randn(shape).to(dtype)
    one, two = run(x)
    step = 1e-5 if dtype == torch.float32 else 8e-3  # of rounding
    torch.testing.assert_close(one, in_int8(x, module.one.weight, module.one.bias), rtol=step, atol=1e-5)
    torch.testing.assert_close(two, in_int8(x, module.two.weight), rtol=step, atol=1e-5)


def test_two_constants_stand_for_one_weight_which_the_program_no_longer_has() -> None:
    program, made = exported(Layers(lambda self, x: self.one(x), WIDTH), torch.randn(4, WIDTH))
    (recipe,) = made.recipes
    assert (recipe.source, recipe.by) == ("one.weight", INT8_LINEAR)
    assert [(spec.name, spec.dtype, spec.shape) for spec in recipe.constants] == [
        ("one.weight_int8", "int8", (WIDTH, WIDTH)),
        ("one.weight_scales", "float32", (WIDTH,)),
    ]
    taken = {spec.target for spec in program.graph_signature.input_specs if spec.target}
    assert taken & {"one.weight", "one.weight_int8", "one.weight_scales"} == {"one.weight_int8", "one.weight_scales"}


class Taken(nn.Linear):
    """A layer that has already what the constants would be called."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.weight_int8 = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.weight_int8


def test_a_name_that_is_taken_is_left_to_its_owner() -> None:
    _, made = exported(nn.Sequential(Taken()), torch.randn(4, WIDTH))
    assert [spec.name for recipe in made.recipes for spec in recipe.constants] == ["0.weight_int8_", "0.weight_scales"]


def test_rows_do_not_depend_on_each_other_and_what_is_not_finite_stays_in_its_row() -> None:
    run = staged(*exported(Layers(lambda self, x: self.one(x), WIDTH), torch.randn(4, WIDTH)))
    x = torch.randn(5, WIDTH)
    x[1], x[2, 3], x[3, 4] = 1e30, math.nan, math.inf
    answer = run(x)
    for row in (0, 1, 4):
        assert torch.equal(run(x[row : row + 1])[0], answer[row])
        assert answer[row].isfinite().all()
    assert answer[2:4].isnan().all()


@pytest.mark.parametrize("value", [0.0, 1e-42])
def test_rows_of_next_to_nothing_answer_the_bias(value: float) -> None:
    module = Layers(lambda self, x: self.one(x), WIDTH)
    run = staged(*exported(module, torch.randn(4, WIDTH)))
    torch.testing.assert_close(run(torch.full((2, WIDTH), value)), module.one.bias.detach().expand(2, -1))


def test_a_weight_that_is_not_finite_spoils_its_own_output_only() -> None:
    module = Layers(lambda self, x: self.two(x), WIDTH)
    with torch.no_grad():
        module.two.weight[3, 5] = math.inf
    answer = staged(*exported(module, torch.randn(4, WIDTH)))(torch.randn(4, WIDTH))
    assert answer.isnan()[:, 3].all()
    assert answer.isfinite().sum() == 4 * (WIDTH - 1)


def test_a_weight_that_two_layers_use_is_quantised_once() -> None:
    module = Layers(lambda self, x: self.one(torch.relu(self.one(x))), WIDTH)
    program, made = exported(module, torch.randn(4, WIDTH))
    assert len(made.recipes) == 1
    x = torch.randn(3, WIDTH)
    hidden = torch.relu(in_int8(x, module.one.weight, module.one.bias))
    torch.testing.assert_close(staged(program, made)(x), in_int8(hidden, module.one.weight, module.one.bias))


def test_tied_layers_are_quantised_once_and_a_tied_table_is_not() -> None:
    _, made = exported(Tied(WIDTH, nn.Linear(WIDTH, WIDTH)), torch.randn(4, WIDTH))
    assert [recipe.by for recipe in made.recipes] == [INT8_LINEAR]
    assert exported(Tied(WIDTH, nn.Embedding(WIDTH, WIDTH)), torch.randn(4, WIDTH))[1] == Quantized()


@pytest.mark.parametrize("forward", READ_BY_OTHERS)
def test_a_weight_that_others_read_stays_plain(forward: Forward) -> None:
    assert names_of(forward) == []


def test_other_dtypes_stay_plain() -> None:
    assert names_of(lambda self, x: self.one(x), torch.randn(4, WIDTH).double()) == []


def written_between(self: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.sin(x)
    y = self.one(hidden)
    hidden.add_(1)
    return torch.relu_(y) + hidden


def test_what_is_written_after_a_layer_does_not_change_it() -> None:
    module = Layers(written_between, WIDTH)
    x = torch.randn(3, WIDTH)
    answer = staged(*exported(module, x.repeat(2, 1)))(x)
    expected = torch.relu(in_int8(torch.sin(x), module.one.weight, module.one.bias)) + torch.sin(x) + 1
    torch.testing.assert_close(answer, expected)


def test_the_rule_leaves_small_layers_and_sums_that_could_overflow_alone() -> None:
    assert not int8_pays("float32", 256, 256)
    assert int8_pays("float32", 384, 384)
    assert not int8_pays("bfloat16", 384, 384)
    assert int8_pays("bfloat16", 1024, 1024)
    assert not int8_pays("float32", 64, 1 << 18)


def program(module: nn.Module, x: torch.Tensor) -> object:
    return program_of(module.eval(), (x,), None, forget_mutations=False, prepare=True, quantize=True)


def test_what_cannot_be_quantised_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotQuantize, match="it is on meta, and this is not there yet for anything but the CPU"):
        program(nn.Linear(8, 8, device="meta"), torch.zeros(2, 8, device="meta"))
    monkeypatch.setattr(int8_linears, "int8_pays", int8_pays)
    with pytest.raises(CannotQuantize, match="no linear layer that is large enough"):
        program(nn.Linear(8, 8), torch.zeros(2, 8))


def test_recipes_name_a_source_of_the_signature() -> None:
    made: Recipe
    program, quantized = exported(Layers(lambda self, x: self.one(x), WIDTH), torch.randn(4, WIDTH))
    for made in quantized.recipes:
        assert made.source in quantized.plain
    assert program.state_dict.keys() >= {spec.name for made in quantized.recipes for spec in made.constants}
