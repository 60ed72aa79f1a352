"""The models that the tests compile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from aoti_serve.model.package import Package
from aoti_serve.model.program.layers import convolutions, int8_linears, linears


@contextmanager
def small_layers_packed() -> Iterator[None]:
    """Let export pack or quantise every layer, also where it would not pay."""
    with (
        patch.object(int8_linears, "int8_pays", lambda *_: True),
        patch.object(linears, "pays", lambda *_: True),
        patch.object(convolutions, "is_faster_packed", lambda *_: True),
    ):
        yield


class Mixed(nn.Module):
    """Everything that makes constants hard: batch norm, a bias of 4, a non-persistent buffer, tensors that are none."""

    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.norm = nn.BatchNorm1d(32)
        self.last = nn.Linear(32, 4)
        self.register_buffer("offset", torch.randn(4), persistent=False)
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, Any]:
        hidden = torch.relu(self.norm(self.first(x)))
        logits = self.last(hidden) * self.scale * torch.tensor([3.0, 4.0, 5.0, 6.0]) + self.offset
        return {"logits": logits + ids.sum(-1, keepdim=True), "hidden": [hidden, hidden * 2]}


class Compiled:
    """A module, its package, and inputs for it."""

    def __init__(self, module: nn.Module, package: Package, inputs: dict[str, torch.Tensor]) -> None:
        self.module = module
        self.package = package
        self.inputs = inputs

    def weights(self) -> dict[str, torch.Tensor]:
        """The module's values for the package's constants, as copies."""
        values = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        values |= {"scale": torch.tensor([1.0, 2.0, 3.0, 4.0]), "lifted_tensor_0": torch.tensor([3.0, 4.0, 5.0, 6.0])}
        return {spec.name: values[spec.name].detach().clone() for spec in self.package.constants}
