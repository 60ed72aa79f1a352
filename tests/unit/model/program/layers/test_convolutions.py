"""Which convolutions become oneDNN's, and that they compute what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.functional import conv2d

from aoti_serve.model.preparation.recipe import PACKED_CONVOLUTION, Recipe
from aoti_serve.model.program.describe import describe
from aoti_serve.model.program.exported import program_of
from aoti_serve.model.program.layers import convolutions
from aoti_serve.model.program.layers.convolutions import is_faster_packed, pack_convolutions

Made = tuple[tuple[Recipe, ...], str]
IMAGES, SERIES = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9)


class Whole(nn.Module):
    """Layers, and a forward() of the test's."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self._forward(self, x)


def kernel(out: int, channels: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(out, channels, 3, 3))


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "is_faster_packed", lambda *_: True)


def packed(module: nn.Module, x: torch.Tensor = IMAGES, shapes: Any = None) -> Made:
    """The recipes, and the code; after a comparison of its answers with those before."""
    torch.manual_seed(0)
    dynamic = ({0: Dim("batch", min=1, max=64)},) if shapes is None else shapes
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=dynamic)
    expected = program.module()(x.clone())
    recipes = pack_convolutions(program, describe(program))
    program.validate()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        program.module()(x.clone()), expected, rtol=1e-4, atol=1e-4 if x.dtype.itemsize == 4 else 0.05
    )
    return recipes, program.graph_module.code


def sources(module: nn.Module, x: torch.Tensor = IMAGES) -> set[str]:
    return {recipe.source for recipe in packed(module, x)[0]}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2), bias=False),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_every_kind_of_two_dimensions_is_packed(layer: nn.Conv2d) -> None:
    (recipe,), code = packed(layer)
    (made,) = recipe.constants
    assert (recipe.source, made.shape, recipe.by) == ("weight", tuple(layer.weight.shape), PACKED_CONVOLUTION)
    assert "aten.conv2d" not in code


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3),
        nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, bias=False),
        nn.Conv1d(4, 4, 5, groups=4, padding="same"),
        nn.Conv1d(4, 8, 3, groups=2, padding=1, padding_mode="replicate"),
    ],
)
def test_one_dimension_is_computed_as_two(layer: nn.Conv1d) -> None:
    (recipe,), code = packed(layer, SERIES)
    (made,) = recipe.constants
    assert made.shape == (layer.out_channels, 4 // layer.groups, 1, *layer.kernel_size)
    assert "aten.conv1d" not in code


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(nn.Conv2d(4, 6, 2, padding="same"), id="uneven-padding"),
        pytest.param(nn.ConvTranspose2d(4, 6, 3), id="transposed"),
        pytest.param(nn.Conv2d(4, 6, 3, dtype=torch.float64), id="float64"),
        pytest.param(Whole(lambda self, x: self.layer(x[:, :1]), layer=nn.Conv2d(1, 6, 3)), id="one-channel"),
        pytest.param(
            Whole(lambda self, x: self.layer(x[:, :, :1, :1]), layer=nn.Conv2d(4, 6, 3, padding=1)), id="one-place"
        ),
        pytest.param(Whole(lambda self, x: self.layer(x[0]), layer=nn.Conv2d(4, 6, 3)), id="no-batch"),
        pytest.param(Whole(lambda self, x: self.layer(x.unsqueeze(2)), layer=nn.Conv3d(4, 6, (1, 3, 3))), id="volume"),
        pytest.param(
            Whole(lambda self, x: conv2d(x, self.table, groups=2) + conv2d(x[:, :2], self.table), table=kernel(4, 2)),
            id="in-other-groups",
        ),
        pytest.param(
            Whole(lambda self, x: self.layer(x) + self.layer.weight.sum(), layer=nn.Conv2d(4, 6, 3)),
            id="read-elsewhere",
        ),
        pytest.param(
            Whole(lambda self, x: conv2d(x, self.table * 2), table=kernel(4, 4)),
            id="computed",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")  # torch's own
def test_others_stay_as_they_are(layer: nn.Module) -> None:
    dtype = next(layer.parameters()).dtype
    assert sources(layer, IMAGES.to(dtype)) == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("following", "told"),
    [
        (torch.relu, "'relu', [], ''"),
        (lambda y: nn.functional.relu(y, inplace=True), "'relu'"),
        (lambda y: nn.functional.gelu(y, approximate="tanh"), "'gelu', [], 'tanh'"),
        (nn.functional.silu, "'swish'"),
        (torch.exp, "'none'"),
    ],
)
def test_an_activation_is_computed_with_its_layer(following: Any, told: str, dtype: torch.dtype) -> None:
    module = Whole(lambda self, x: following(self.layer(x)), layer=nn.Conv2d(4, 6, 3, dtype=dtype))
    recipes, code = packed(module, IMAGES.to(dtype))
    assert len(recipes) == 1
    assert told in code


def test_a_result_that_is_used_twice_is_not_changed() -> None:
    _, code = packed(Whole(lambda self, x: (torch.relu(y := self.layer(x)), y * 2), layer=nn.Conv2d(4, 6, 3)))
    assert "'none'" in code


def test_what_follows_may_rest_on_the_order_of_the_result() -> None:
    module = Whole(lambda self, x: (y := torch.relu(self.layer(x))).view(y.shape[0], -1) * 2, layer=nn.Conv2d(4, 6, 3))
    assert sources(module) == {"layer.weight"}


def test_a_weight_of_several_layers_is_packed_for_the_first() -> None:
    module = Whole(lambda self, x: self.layer(torch.relu(self.layer(x))), layer=nn.Conv2d(4, 4, 3))
    (recipe,), code = packed(module)
    assert recipe.window is not None
    assert recipe.window.taken == (2, 4, 9, 8)
    assert code.count("mkldnn._convolution_pointwise") == 2


def test_tied_weights_have_a_recipe_each() -> None:
    one, two = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)
    two.weight = one.weight
    module = Whole(lambda self, x: self.two(self.one(x)), one=one, two=two)
    assert sources(module, SERIES) <= {"one.weight", "two.weight"}


def test_the_order_of_a_weight_in_memory_does_not_matter() -> None:
    assert sources(nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)) == {"weight"}  # type: ignore[call-overload]


def test_sizes_that_vary_are_those_of_the_example() -> None:
    length = Dim("length", min=4, max=100)
    (recipe,), _ = packed(nn.Conv1d(4, 6, 3), SERIES, ({0: Dim("batch", max=9), 2: length},))
    assert recipe.window is not None
    assert recipe.window.taken == (2, 4, 1, 9)


def test_weights_keep_the_shape_that_the_module_gives_them() -> None:
    module = nn.Conv1d(4, 6, 3).eval()
    program = program_of(module, (SERIES,), None, forget_mutations=False, prepare=True, quantize=False)
    assert {recipe.source for recipe in program.recipes} == {"weight"}
    assert program.values["weight"].shape == (6, 4, 3)
    assert {spec.name: spec.shape for spec in program.signature.constants}["weight"] == (6, 4, 3)
    assert torch.equal(program.values["weight"], module.weight)


@pytest.mark.parametrize(
    ("shape", "groups", "faster"),
    [
        ((8, 3, 3, 3), 1, True),
        ((64, 1, 3, 3), 64, True),
        ((64, 16, 3, 3), 4, True),
        ((64, 2, 3, 3), 32, False),
        ((64, 1, 3, 3), 32, False),
        ((256, 1, 31), 256, True),
        ((768, 48, 128), 16, True),
        ((256, 1, 7), 256, False),
        ((512, 512, 5), 1, True),
        ((512, 512, 3), 1, False),
        ((64, 64, 5), 1, False),
    ],
)
def test_the_rule_packs_what_is_faster_so(shape: tuple[int, ...], groups: int, faster: bool) -> None:
    assert is_faster_packed(shape, groups) == faster
