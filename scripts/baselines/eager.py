"""The module that every baseline serves; its seed gives it the weights of the one that ours serves.

BASELINE_MODULE says which: `mlp` is `Mlp` of scripts/benchmarks/models.py, `loop:N` is `Loop(N)` of httpbench/heavy.py.
It takes at most BASELINE_ROWS rows at once, if that is set; more run one part after the other.
"""

from __future__ import annotations

import os

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


class Loop(torch.nn.Module):
    """One square layer, again and again."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, WIDTH)
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.layer(x))
        return x


class Eager:
    """The module in this process, on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.module = made(os.environ.get("BASELINE_MODULE", "mlp")).eval()
        self.most = int(os.environ.get("BASELINE_ROWS", "0"))

    def __call__(self, rows: Rows) -> Rows:
        if not self.most or len(rows) <= self.most:
            return self._run(rows)
        return np.concatenate([self._run(rows[i : i + self.most]) for i in range(0, len(rows), self.most)])

    def _run(self, rows: Rows) -> Rows:
        with torch.inference_mode():
            answers: Rows = self.module(torch.from_numpy(rows)).numpy()
        return answers


def made(name: str) -> torch.nn.Module:
    kind, _, times = name.partition(":")
    return Loop(int(times)) if kind == "loop" else Mlp()


def decoded(body: bytes) -> Rows:
    """A raw body as rows that may be written to, as torch wants them."""
    return np.frombuffer(bytearray(body), np.float32).reshape(-1, WIDTH)
