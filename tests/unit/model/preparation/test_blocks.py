"""oneDNN's orders of a matrix, as its names spell them: blocks of rows, and in them word by word."""

from __future__ import annotations

import pytest
import torch

from aoti_serve.model.aoti import transpose
from aoti_serve.model.preparation.blocks import Blocks, blocks_of


def blocked(matrix: torch.Tensor, rows: int, columns: int, together: int) -> torch.Tensor:
    """AB<columns>b<rows>a<together>b, with zeros where the matrix has no elements, as bytes."""
    height, width = -(-matrix.shape[0] // rows) * rows, -(-matrix.shape[1] // (columns * together)) * columns * together
    whole = torch.zeros(height, width, dtype=matrix.dtype)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    apart = whole.view(height // rows, rows, width // (columns * together), columns, together)
    return apart.permute(0, 2, 3, 1, 4).contiguous().view(-1).view(torch.uint8)


LAYOUTS = [
    (torch.float32, 64, 16, 1),
    (torch.float32, 24, 8, 1),
    (torch.bfloat16, 32, 16, 2),
    (torch.int8, 64, 16, 4),
]


@pytest.fixture(params=["by MKL", "by torch"])
def transposed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by torch":
        monkeypatch.setattr(transpose, "_transpose", None)
    elif transpose._transpose is None:
        pytest.skip("torch is built without MKL here")


@pytest.mark.usefixtures("transposed")
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 33), (200, 129)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_written_where_the_layout_has_them(
    layout: tuple[torch.dtype, int, int, int], shape: tuple[int, int]
) -> None:
    dtype, rows, columns, together = layout
    matrix = torch.randint(-(2**31), 2**31 - 1, (shape[0], shape[1] * 4), dtype=torch.int32).view(dtype)[:, : shape[1]]
    expected = blocked(matrix.contiguous(), rows, columns, together)
    found = blocks_of(matrix.contiguous(), expected)
    assert found is not None
    memory = torch.full_like(expected, 0xAA)
    for first in range(0, shape[0], found.rows):
        found.place(matrix[first : first + found.rows].contiguous(), first, memory)
    assert torch.equal(memory, expected)


def test_an_order_of_another_kind_is_none() -> None:
    matrix = torch.randn(64, 64)
    assert blocks_of(matrix, matrix.view(-1).view(torch.uint8)) is None
    assert blocks_of(matrix, torch.zeros(3, dtype=torch.uint8)) is None


def test_a_row_that_is_filled_up_needs_no_more_than_itself() -> None:
    assert blocks_of(torch.randn(64, 17), blocked(torch.randn(64, 17), 64, 16, 1)) is None
    matrix = torch.randn(64, 17)
    assert blocks_of(matrix, blocked(matrix, 64, 16, 1)) == Blocks(64, 32)
