"""A custom operator that takes as long as it is told to, notes which rows it has seen, and fails over NaN."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

NOTES = "TOIL_NOTES"  # the environment variable that names the file


@torch.library.custom_op("aoti_serve_e2e::toil", mutates_args=())
def toil(x: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    with Path(os.environ[NOTES]).open("a") as notes:
        notes.writelines(f"{float(row)}\n" for row in x[:, 0])
    if x.isnan().any():
        raise ValueError("not a number")
    time.sleep(float(seconds.max()))
    return x.clone()


@toil.register_fake
def _(x: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)
