"""A linear layer in int8 as it is meant: with sums that are exact."""

from __future__ import annotations

import torch

from aoti_serve.model.preparation.int8_linear import quantized, row_scales


def in_int8(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """What a layer answers if its weight and the rows of `x` are rounded to integers in their scales."""
    rows, weight = x.float().flatten(0, -2), weight.detach().float()
    given, factors = row_scales(rows), row_scales(weight)
    sums = quantized(rows, given).double() @ quantized(weight, factors).double().t()
    answer = sums * given[:, None].double() * factors.double()
    answer = answer if bias is None else answer + bias.detach().double()
    return answer.to(x.dtype).view(*x.shape[:-1], len(weight))
