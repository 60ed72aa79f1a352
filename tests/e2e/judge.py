"""A classifier whose weights say what it answers and how long it takes, and are large enough to be seen in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from aoti_serve.model.export import export_package
from tests.e2e.toil import toil

NAME, CLASSES, WIDTH = "judge", 5, 8
WEIGHTS = f"/v2/models/{NAME}/weights"
QUICK_S, SLOW_S = 0.002, 1.5
MB = 2**20
BALLAST_MB = 96
Arrays = NDArray[np.float32]


class Judge(nn.Module):
    """`logits` of `x`, after as many seconds as its weights say."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(_weight())
        self.seconds = nn.Parameter(torch.tensor([[QUICK_S]]))
        self.ballast = nn.Parameter(ballast())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": toil(x @ self.weight.T, self.seconds) + self.ballast[0]}


def ballast() -> torch.Tensor:
    """Zeros, of which one row is used."""
    return torch.zeros(BALLAST_MB * MB // 4 // CLASSES, CLASSES)


def make_package(folder: Path) -> None:
    """judge.pt2 in the folder, its weights beside it."""
    batch = torch.export.Dim("batch", min=1, max=64)
    export_package(Judge().eval(), {"x": torch.zeros(2, WIDTH)}, folder / "judge.pt2", dynamic_shapes={"x": {0: batch}})


def weights_of(*, scale: float = 1.0, shift: int = 0, seconds: float = QUICK_S, spoilt: bool = False) -> bytes:
    """Of `Judge`: scaled, with its classes shifted, slow, or with a NaN."""
    weight = _weight(scale, shift)
    if spoilt:
        weight[0, 0] = torch.nan
    return save({"weight": weight.contiguous(), "seconds": torch.tensor([[seconds]]), "ballast": ballast()})


def logits_for(x: Arrays, *, scale: float = 1.0, shift: int = 0) -> Arrays:
    """What those weights answer."""
    weight = _weight(scale, shift)
    found: Arrays = (torch.from_numpy(x) @ weight.T).numpy()
    return found


def _weight(scale: float = 1.0, shift: int = 0) -> torch.Tensor:
    weight = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    return weight.roll(shift, 0) * scale
