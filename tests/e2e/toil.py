"""A custom operator that takes as long as it is told to, notes which rows it has seen, and fails over NaN.

While there is a file `BROKEN` beside the notes, it fails whatever comes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

NOTES = "TOIL_NOTES"  # the environment variable that names the file
BROKEN = "broken"


# Not `custom_op`: its first call imports the compiler, for seconds.
torch.library.define("aoti_serve_e2e::toil", "(Tensor x, Tensor seconds) -> Tensor")


@torch.library.impl("aoti_serve_e2e::toil", "CPU")
def _toil(x: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    lines = [f"{float(row)}\n" for row in x[:, 0] if row]  # zeros are the trial of staged weights
    if lines:
        with Path(os.environ[NOTES]).open("a") as notes:
            notes.writelines(lines)
    if Path(os.environ[NOTES]).with_name(BROKEN).exists():
        raise ValueError("an illegal memory access")
    if x.isnan().any():
        raise ValueError("not a number")
    time.sleep(float(seconds.max()))
    return x.clone()


@torch.library.register_fake("aoti_serve_e2e::toil")  # type: ignore[untyped-decorator]
def _(x: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def toil(x: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.ops.aoti_serve_e2e.toil(x, seconds)
    return result
