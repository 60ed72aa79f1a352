"""The module that every baseline serves; its seed gives it the weights of scripts/benchmarks/models.py's `Mlp`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

WIDTH, DEPTH = 1024, 4
Rows = NDArray[np.float32]


class Mlp(torch.nn.Module):
    """`depth` square layers."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Eager:
    """The module in this process, on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.module = Mlp().eval()

    def __call__(self, rows: Rows) -> Rows:
        with torch.inference_mode():
            answers: Rows = self.module(torch.from_numpy(rows)).numpy()
        return answers


def decoded(body: bytes) -> Rows:
    """A raw body as rows that may be written to, as torch wants them."""
    return np.frombuffer(bytearray(body), np.float32).reshape(-1, WIDTH)
