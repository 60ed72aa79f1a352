"""Weights in int8: each row in its scale, where oneDNN has it, and what is no number stays none."""

from __future__ import annotations

import math

import pytest
import torch

from aoti_serve.errors import UnfitForInt8
from aoti_serve.model.aoti.opaque import opaque_bytes, pack_int8_linear
from aoti_serve.model.preparation import int8_linear
from aoti_serve.model.preparation.int8_linear import Int8Linear, quantized, row_scales
from aoti_serve.model.preparation.preparations import Preparation
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.torch_private import onednn_int8_linear

SHAPES = [(1, 1), (3, 5), (64, 64), (65, 7), (640, 4096), (1000, 3000), (4096, 300), (2100, 1024)]


def spec_of(weight: torch.Tensor) -> ConstantSpec:
    dtype, shape = str(weight.dtype).removeprefix("torch."), (weight.shape[0], weight.shape[1])
    return ConstantSpec(name="weight", dtype=dtype, shape=shape, stride=(shape[1], 1))


def made(preparation: Preparation, weight: torch.Tensor) -> torch.Tensor:
    """The memory that a weight is prepared into, in as many parts as it takes."""
    memory = torch.full((preparation.nbytes,), 0xAA, dtype=torch.uint8)
    for first in range(0, len(weight), preparation.rows_at_once):
        preparation.prepare(weight[first : first + preparation.rows_at_once], first, memory)
    return memory


def parts(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of its int8, and its scales, as they are prepared."""
    memory = made(Int8Linear(spec_of(weight)), weight)
    size = len(memory) - len(weight) * 4
    return memory[:size], memory[size:].view(torch.float32)


def integers(weight: torch.Tensor) -> torch.Tensor:
    return quantized(weight.float(), row_scales(weight.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_lie_where_onednn_has_them_in_the_whole(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape).to(dtype)
    packed, scales = parts(weight)
    assert torch.equal(packed, opaque_bytes(pack_int8_linear(integers(weight).to(torch.int8))))
    assert torch.equal(scales, row_scales(weight.float()))


def test_a_large_weight_is_prepared_in_parts_that_a_cache_holds() -> None:
    assert Int8Linear(spec_of(torch.zeros(2100, 1024))).rows_at_once == 64


def test_where_onednn_has_another_order_it_packs_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(2100, 1024)
    imitated = made(Int8Linear(spec_of(weight)), weight)
    layout = int8_linear._layout((2100, 1024))._replace(imitated=False)
    monkeypatch.setattr(int8_linear, "_layout", lambda shape: layout)
    preparation = Int8Linear(spec_of(weight))
    assert preparation.rows_at_once == 2100
    assert torch.equal(made(preparation, weight), imitated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_and_integers_are_the_weight_but_for_half_a_step(dtype: torch.dtype) -> None:
    weight = (torch.randn(65, 300) * torch.logspace(-20, 20, 65)[:, None]).to(dtype)
    scales, rounded = row_scales(weight.float())[:, None], integers(weight)
    assert rounded.abs().amax(1).eq(127).all()
    assert ((weight - scales * rounded).abs() <= scales * 0.5001).all()


def test_a_row_of_zeros_and_one_of_next_to_nothing_answer_zero() -> None:
    weight = torch.tensor([[0.0, -0.0], [1e-40, -1e-42], [1.0, -2.0]])
    scales = row_scales(weight)
    assert scales.isfinite().all()
    assert (scales[:2] > 0).all()
    assert torch.equal(integers(weight), torch.tensor([[0.0, 0.0], [0.0, 0.0], [64.0, -127.0]]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_no_number_of_its_row_and_of_no_other(value: float) -> None:
    weight = torch.randn(130, 70)
    weight[64, 3] = value
    expected = torch.zeros(130, dtype=torch.bool)
    expected[64] = True
    assert torch.equal(parts(weight)[1].isnan(), expected)
    whole = torch.randn(130, 70)
    whole[torch.arange(130) != 64] = weight[torch.arange(130) != 64]
    assert torch.equal(parts(whole)[1][~expected], parts(weight)[1][~expected])


def test_the_plain_weight_is_only_read() -> None:
    weight = torch.randn(65, 7)
    before = weight.clone()
    parts(weight)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("shape", SHAPES[:-2])
def test_the_code_sees_the_weight_in_its_memory_and_sees_it_change(shape: tuple[int, int]) -> None:
    first, second = torch.randn(shape), torch.randn(shape)
    preparation = Int8Linear(spec_of(first))
    memory = torch.zeros(preparation.nbytes, dtype=torch.uint8)
    seen, scales = preparation.tensors(memory)
    given = torch.randint(1, 256, (3, shape[1]), dtype=torch.uint8)
    one, zero, offset = torch.tensor(1.0), torch.tensor(0), torch.tensor(128)
    for weight in (first, second):
        memory.copy_(made(preparation, weight))
        answer = onednn_int8_linear()(
            given, one, offset, seen, scales, zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        assert torch.equal(
            answer, ((given.double() - 128) @ integers(weight).double().t() * row_scales(weight)).float()
        )


def test_a_processor_that_adds_up_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int8_linear._what_is_wrong() is None
    monkeypatch.setattr(int8_linear, "_what_is_wrong", lambda: "it has no VNNI")
    preparation = Int8Linear(spec_of(torch.zeros(3, 5)))
    with pytest.raises(UnfitForInt8, match="VNNI"):
        preparation.tensors(torch.zeros(preparation.nbytes, dtype=torch.uint8))
