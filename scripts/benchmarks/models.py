"""What the benchmarks measure, compiled anew for each of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package


class Mlp(nn.Module):
    """`depth` square layers: bound by arithmetic at a batch of 64."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Sum(nn.Module):
    """Two inputs, next to no work: what is left is the call."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(16))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y + self.bias


class Subject(NamedTuple):
    """A module, its package, the same program as torch packages it (weights inside), and inputs."""

    module: nn.Module
    package: Package
    stock: Path
    inputs: tuple[torch.Tensor, ...]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach() for name, tensor in self.module.state_dict().items()}


def compiled(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    folder: Path,
    name: str,
    *,
    stock: bool,
    prepare: bool = True,
) -> Subject:
    """Both packages of `module`, with a dynamic batch of 1 to 256."""
    batch = torch.export.Dim("batch", min=1, max=256)
    shapes = tuple({0: batch} for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own
        path = folder / f"{name}.pt2"
        package = export_package(module.eval(), inputs, path, dynamic_shapes=shapes, prepare=prepare)
        path = folder / f"{name}-stock.pt2"
        if stock:
            program = torch.export.export(module, inputs, dynamic_shapes=shapes)
            options = {"cpp.dynamic_threads": True, "always_keep_tensor_constants": True}
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    return Subject(module, package, path, inputs)
