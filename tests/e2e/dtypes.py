"""A model with a tensor of each dtype that stock clients know, and what it answers in eager torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aoti_serve.model.export import export_package
from aoti_serve.signature.tensors import DTYPES

NAME, WIDTH = "dtypes", 3
KNOWN = {dtype.oip.lower(): dtype.torch for dtype in DTYPES.values() if not dtype.oip.startswith("FP8")}
SCALED = "fp32"
Tensors = dict[str, NDArray[Any]]  # by lower-case datatype, such as "uint8"


class Turned(nn.Module):
    """Each tensor with its first column last; `fp32` times a weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([-1.0]))

    def forward(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        turned = {name: torch.cat([tensor[:, 1:], tensor[:, :1]], 1) for name, tensor in tensors.items()}
        return turned | {SCALED: turned[SCALED] * self.factor}


def make_package(folder: Path) -> None:
    """dtypes.pt2 in the folder, its weights beside it."""
    examples = {name: torch.zeros(2, WIDTH, dtype=getattr(torch, dtype)) for name, dtype in KNOWN.items()}
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"tensors": {name: {0: batch} for name in examples}}
    export_package(Turned().eval(), {"tensors": examples}, folder / f"{NAME}.pt2", dynamic_shapes=shapes)


def extremes(rows: int) -> Tensors:
    """In each dtype its least number, its largest and one between them, in another order from row to row."""
    return {name: _extremes(getattr(torch, dtype), rows) for name, dtype in KNOWN.items()}


def eager(tensors: Tensors) -> Tensors:
    """What eager torch answers."""
    with torch.inference_mode():
        found: dict[str, torch.Tensor] = Turned().eval()({name: _to_torch(array) for name, array in tensors.items()})
    return {name: _to_numpy(tensor) for name, tensor in found.items()}


def _extremes(dtype: torch.dtype, rows: int) -> NDArray[Any]:
    row: list[Any] = [False, True, True]
    if dtype is not torch.bool:
        info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        row = [info.min, info.max, 5]
    kind = _to_numpy(torch.empty(0, dtype=dtype)).dtype
    return np.stack([np.roll(np.array(row, kind), index) for index in range(rows)])


def _to_torch(array: NDArray[Any]) -> torch.Tensor:
    """numpy has no bfloat16 of its own, and torch reads no other's."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    if tensor.dtype is torch.bfloat16:
        return _to_numpy(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)
    found: NDArray[Any] = tensor.numpy()
    return found
