"""What the tests of prepared linear layers export: a forward() of the test's, ties, and weights that others read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

Forward = Callable[[Any, torch.Tensor], Any]


class Layers(nn.Module):
    """Two layers of one width, and a forward() of the test's."""

    def __init__(self, forward: Forward, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(width, width, dtype=dtype), nn.Linear(width, width, bias=False, dtype=dtype)
        self.table = nn.Parameter(torch.randn(width, width, dtype=dtype))
        self._forward = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self._forward(self, x)


class Tied(nn.Module):
    """Two layers with one weight, or a layer and a table of embeddings."""

    def __init__(self, width: int, other: nn.Module) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(width, width), other
        self.other.weight = self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = self.other(x if isinstance(self.other, nn.Linear) else x.abs().long())
        answer: torch.Tensor = self.layer(x) + (read if isinstance(self.other, nn.Linear) else read.sum(1))
        return answer


READ_BY_OTHERS = [
    pytest.param(lambda self, x: linear(x, self.table * 2), id="computed"),
    pytest.param(lambda self, x: linear(x, self.table) + self.table[0], id="read-elsewhere"),
    pytest.param(lambda self, x: linear(self.table, self.table) + x.sum(), id="input-as-well"),
    pytest.param(lambda self, x: linear(x, self.table.t()), id="turned"),
    pytest.param(lambda self, x: (linear(x, self.table), self.table), id="answer"),
    pytest.param(lambda self, x: linear(x[0], self.table), id="one-vector"),
    pytest.param(lambda self, x: x @ self.table, id="matmul"),
    pytest.param(lambda self, x: torch.cond(x.sum() > 0, self.one, self.two, (x,)), id="branch"),
]
