"""Packing an LSTM's weights: the code sees them in memory of ours, and what it computes is right."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from aoti_serve.model.preparation.packed_lstm import PackedLstm
from aoti_serve.model.preparation.recipe import PACKED_LSTM_HIDDEN, PACKED_LSTM_INPUT, Recipe
from aoti_serve.signature.constants import ConstantSpec
from aoti_serve.signature.torch_private import onednn_lstm

SIZES = [(6, 10), (1, 1), (64, 64), (40, 256), (512, 96)]


def preparation_of(weight: torch.Tensor, by: str) -> PackedLstm:
    dtype = str(weight.dtype).removeprefix("torch.")
    spec = ConstantSpec(name="weight", dtype=dtype, shape=tuple(weight.shape), stride=weight.stride())
    return PackedLstm(Recipe(source="weight", constants=(spec,), by=by))


@torch.no_grad()
def check(columns: int, hidden: int, dtype: torch.dtype = torch.float32) -> None:
    """Two layers after each other in the same memory answer as eager's, for batches and lengths of every size."""
    shapes = {PACKED_LSTM_INPUT: (4 * hidden, columns), PACKED_LSTM_HIDDEN: (4 * hidden, hidden)}
    preparations = {by: preparation_of(torch.zeros(shape, dtype=dtype), by) for by, shape in shapes.items()}
    memory = {by: torch.full((each.nbytes,), 0xAA, dtype=torch.uint8) for by, each in preparations.items()}
    seen = [each.tensors(memory[by])[0] for by, each in preparations.items()]
    for lstm in (nn.LSTM(columns, hidden, dtype=dtype), nn.LSTM(columns, hidden, dtype=dtype)):
        of_input, of_hidden, *biases = lstm.parameters()
        weights = {PACKED_LSTM_INPUT: of_input, PACKED_LSTM_HIDDEN: of_hidden}
        for by, each in preparations.items():
            assert each.rows_at_once == 4 * hidden
            each.prepare(weights[by], 0, memory[by])
        for steps, rows in ((1, 1), (3, 10), (16, 2), (2, 33)):
            x = torch.randn(steps, rows, columns, dtype=dtype)
            state, cells = torch.randn(2, 1, rows, hidden, dtype=dtype)
            expected, (last, last_cells) = lstm(x, (state, cells))
            numbers: tuple[Any, ...] = (False, [], 2, hidden, 1, True, False, False, False)
            answer = onednn_lstm()(x, *seen, *biases, state, cells, *numbers)[:3]
            tolerance = 1e-4 if dtype == torch.float32 else 0.05
            torch.testing.assert_close(answer, (expected, last, last_cells), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("columns", "hidden"), SIZES)
def test_the_code_sees_the_weights_in_their_memory_and_sees_them_change(
    columns: int, hidden: int, dtype: torch.dtype
) -> None:
    check(columns, hidden, dtype)


@pytest.mark.parametrize("instructions", ["SSE41", "AVX2"])
def test_other_processors_compute_the_same(instructions: str) -> None:
    """Where layouts depend on the batch, and where none fits all inputs, so that weights stay plain."""
    child = f"from {__name__} import SIZES, check; [check(*sizes) for sizes in SIZES]"
    done = subprocess.run(
        [sys.executable, "-c", child],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
