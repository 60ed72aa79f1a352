"""A custom operator, as a package's `operators` name its module."""

from __future__ import annotations

from typing import Any

import torch


@torch.library.custom_op("aoti_serve_tests::swish", mutates_args=())
def swish(x: torch.Tensor, slope: float) -> torch.Tensor:
    return x * torch.sigmoid(x * slope)


@swish.register_fake
def _(x: torch.Tensor, slope: float) -> torch.Tensor:
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, float], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.slope = inputs[1]


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    (x,) = ctx.saved_tensors
    gate = torch.sigmoid(x * ctx.slope)
    return gradient * (gate + x * ctx.slope * gate * (1 - gate)), None


swish.register_autograd(_backward, setup_context=_keep)
