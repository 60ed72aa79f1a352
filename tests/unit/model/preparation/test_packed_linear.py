"""Packing part by part: the same bytes as oneDNN's own packing of the whole."""

from __future__ import annotations

import pytest
import torch

from aoti_serve.errors import CannotPrepare
from aoti_serve.model.aoti.opaque import opaque_bytes, pack_linear
from aoti_serve.model.preparation import packed_linear
from aoti_serve.model.preparation.packed_linear import PackedLinear
from aoti_serve.signature.constants import ConstantSpec

SHAPES = [(1, 1), (3, 5), (64, 64), (65, 7), (640, 4096), (1000, 3000), (4096, 300), (2100, 1024)]


def spec_of(shape: tuple[int, int], dtype: str) -> ConstantSpec:
    return ConstantSpec(name="weight", dtype=dtype, shape=shape, stride=(shape[1], 1))


def packed(weight: torch.Tensor) -> tuple[PackedLinear, torch.Tensor]:
    """A weight that was packed in as many parts as it takes, and the memory that it lies in."""
    preparation = PackedLinear(spec_of((weight.shape[0], weight.shape[1]), str(weight.dtype).removeprefix("torch.")))
    memory = torch.full((preparation.nbytes,), 0xAA, dtype=torch.uint8)
    for first in range(0, len(weight), preparation.rows_at_once):
        preparation.prepare(weight[first : first + preparation.rows_at_once], first, memory)
    return preparation, memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_are_packed_as_the_whole_is(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape).to(dtype)
    _, memory = packed(weight)
    assert torch.equal(memory, opaque_bytes(pack_linear(weight)))


def test_a_large_weight_is_packed_in_several_parts() -> None:
    preparation, _ = packed(torch.randn(2100, 1024))
    assert preparation.rows_at_once < 2100
    assert preparation.rows_at_once * 1024 * 4 <= 4 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_code_sees_the_weight_in_its_memory_and_sees_it_change(dtype: torch.dtype) -> None:
    first, second, x = torch.randn(65, 7).to(dtype), torch.randn(65, 7).to(dtype), torch.randn(2, 7).to(dtype)
    preparation, memory = packed(first)
    (seen,) = preparation.tensors(memory)
    for weight in (first, second):
        preparation.prepare(weight, 0, memory)
        answer = torch.ops.mkldnn._linear_pointwise(x, seen, None, "none", [], "")
        torch.testing.assert_close(answer, torch.nn.functional.linear(x, weight))


def test_a_processor_that_cannot_pack_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "packs", lambda dtype: dtype != torch.bfloat16)
    PackedLinear(spec_of((64, 64), "float32"))
    with pytest.raises(CannotPrepare, match=r"'weight' is prepared by onednn_linear, and oneDNN does not compute in b"):
        PackedLinear(spec_of((64, 64), "bfloat16"))
