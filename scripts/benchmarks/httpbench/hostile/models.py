"""Two models behind one gateway: what each hostile case needs is in one of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from models import compiled
from torch import nn

from aoti_serve.model.export import export_package
from httpbench.bodies import WIDTH
from httpbench.loads import BATCH
from httpbench.ours import Model
from httpbench.verify import eager

COLUMNS, HIDDEN = 16, 1024
MLP, TOKENS = "mlp", "tokens"


class Tokens(nn.Module):
    """Any number of columns, none included, and a row of 64 bytes costs as much as one of 4 KB."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.middle = nn.Linear(1, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.into(x.sum(dim=1, keepdim=True)))
        for _ in range(4):
            x = torch.relu(self.middle(x))
        return x.sum(dim=1, keepdim=True)


class Served(NamedTuple):
    """The models, and what the first one calls its output."""

    models: tuple[Model, ...]
    output: str


def made(folder: Path) -> Served:
    """Compiled into `folder`, with defaults throughout."""
    subject = compiled(eager(), (torch.randn(BATCH, WIDTH),), folder, MLP, stock=False)
    _tokens(folder)
    models = tuple(Model.of(folder, name)._replace(name=name) for name in (MLP, TOKENS))
    return Served(models, subject.package.signature.outputs[0].name)


def _tokens(folder: Path) -> None:
    batch, columns = torch.export.Dim("batch", min=1, max=256), torch.export.Dim("columns", min=0, max=512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own
        shapes = {"x": {0: batch, 1: columns}}
        example = (torch.randn(BATCH, COLUMNS),)
        export_package(Tokens().eval(), example, folder / f"{TOKENS}.pt2", dynamic_shapes=shapes)
