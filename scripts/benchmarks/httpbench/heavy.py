"""A model whose batch takes about so many milliseconds on one core, whatever the machine."""

from __future__ import annotations

import time

import torch
from torch import nn

from httpbench.bodies import WIDTH

TRIED = 16


class Loop(nn.Module):
    """One square layer, again and again: arithmetic that depends on all that came before, on few weights."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.layer(x))
        return x


def calibrated(milliseconds: float, rows: int) -> Loop:
    """As many layers as take so long with a batch of `rows` here and now, in eager PyTorch on one thread."""
    torch.manual_seed(0)
    tried, x = Loop(TRIED).eval(), torch.randn(rows, WIDTH)
    with torch.inference_mode():
        shortest = min(_timed(tried, x) for _ in range(20))
    torch.manual_seed(0)
    return Loop(max(1, round(milliseconds / 1e3 / shortest * TRIED))).eval()


def _timed(module: nn.Module, x: torch.Tensor) -> float:
    started = time.perf_counter()
    module(x)
    return time.perf_counter() - started
