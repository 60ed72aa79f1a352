"""A custom operator, as a team of operators' authors would ship it: registered when this module is imported."""

from __future__ import annotations

import torch


@torch.library.custom_op("aoti_serve_e2e::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@doubled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)
