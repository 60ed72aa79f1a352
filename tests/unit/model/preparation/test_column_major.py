"""Turning a matrix: wherever it is cut, the code sees what the weights hold, with its columns first."""

from __future__ import annotations

import pytest
import torch

from aoti_serve.model.preparation.column_major import ColumnMajor
from aoti_serve.model.preparation.recipe import COLUMN_MAJOR, Recipe
from aoti_serve.signature.constants import ConstantSpec


@pytest.mark.parametrize("shape", [(2, 3), (700, 900), (5, 300_000)])
def test_the_code_sees_the_weight_and_sees_it_change(shape: tuple[int, int]) -> None:
    spec = ConstantSpec(name="weight", dtype="float32", shape=shape, stride=(1, shape[0]))
    preparation = ColumnMajor(Recipe(source="weight", constants=(spec,), by=COLUMN_MAJOR))
    memory = torch.full((preparation.nbytes,), 0xAA, dtype=torch.uint8)
    (seen,) = preparation.tensors(memory)
    assert seen.stride() == (1, shape[0])
    for weight in (torch.randn(shape), torch.randn(shape)):
        for first in range(0, len(weight), preparation.rows_at_once):
            preparation.prepare(weight[first : first + preparation.rows_at_once], first, memory)
        assert torch.equal(seen, weight)


def test_its_place_may_begin_anywhere_in_a_block() -> None:
    spec = ConstantSpec(name="weight", dtype="float32", shape=(2, 3), stride=(1, 2))
    preparation = ColumnMajor(Recipe(source="weight", constants=(spec,), by=COLUMN_MAJOR))
    block, weight = torch.zeros(192, dtype=torch.uint8), torch.randn(2, 3)
    preparation.prepare(weight, 0, block[64:88])
    (seen,) = preparation.tensors(block[64:88])
    assert torch.equal(seen, weight)
    assert not block[:64].any()
    assert not block[88:].any()
