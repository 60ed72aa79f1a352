"""Packing a convolution's weight: the code sees it in memory of ours, and what it computes is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d

from aoti_serve.model.preparation.packed_convolution import PackedConvolution
from aoti_serve.model.preparation.recipe import PACKED_CONVOLUTION, Recipe, Window
from aoti_serve.signature.constants import ConstantSpec


def recipe_of(weight: torch.Tensor, window: Window) -> Recipe:
    dtype = str(weight.dtype).removeprefix("torch.")
    spec = ConstantSpec(name="weight", dtype=dtype, shape=tuple(weight.shape), stride=weight.stride())
    return Recipe(source="weight", constants=(spec,), by=PACKED_CONVOLUTION, window=window)


def window(groups: int, channels: int, **changes: Any) -> Window:
    one = {"padding": (1, 0), "stride": (1, 2), "dilation": (1, 1), "groups": groups, "taken": (1, channels, 9, 11)}
    return Window.model_validate(one | changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "groups"), [((7, 3, 3, 5), 1), ((64, 32, 3, 3), 1), ((8, 1, 3, 3), 8), ((32, 16, 1, 3), 2)]
)
def test_the_code_sees_the_weight_in_its_memory_and_sees_it_change(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype
) -> None:
    first, second = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    over = window(groups, shape[1] * groups)
    preparation = PackedConvolution(recipe_of(first, over))
    memory = torch.full((preparation.nbytes,), 0xAA, dtype=torch.uint8)
    (seen,) = preparation.tensors(memory)
    assert preparation.rows_at_once == shape[0]
    for weight in (first, second):
        preparation.prepare(weight, 0, memory)
        for size in (9, 8, 30):  # of the size that it is packed for, and of others
            x = torch.randn(2, shape[1] * groups, size, size).to(dtype)
            numbers = (list(over.padding), list(over.stride), list(over.dilation), groups)
            answer = torch.ops.mkldnn._convolution_pointwise(x, seen, None, *numbers, "none", [], "")
            expected = conv2d(x, weight, None, over.stride, over.padding, over.dilation, groups)
            tolerance = 1e-4 if dtype == torch.float32 else 0.05
            torch.testing.assert_close(answer, expected, rtol=tolerance, atol=tolerance * 10)


def test_a_weight_of_one_dimension_arrives_as_it_is() -> None:
    weight = torch.randn(6, 4, 3)
    preparation = PackedConvolution(recipe_of(weight.unsqueeze(2), window(1, 4, taken=(1, 4, 1, 9))))
    memory = torch.empty(preparation.nbytes, dtype=torch.uint8)
    preparation.prepare(weight, 0, memory)
    x, (seen,) = torch.randn(2, 4, 1, 9), preparation.tensors(memory)
    answer = torch.ops.mkldnn._convolution_pointwise(x, seen, None, [0, 0], [1, 1], [1, 1], 1, "none", [], "")
    torch.testing.assert_close(answer, conv2d(x, weight.unsqueeze(2)), rtol=1e-4, atol=1e-4)
