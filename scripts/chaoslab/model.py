"""A model whose answer tells its weights: y = x * w, where w is one value, everywhere in a file of some megabytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from aoti_serve.model.export import export_package

NAME = "chaos"
EDGE = 4
SEGMENTS = 8
OUTPUTS = 2 * EDGE + 2 * SEGMENTS


class Telltale(torch.nn.Module):
    """Every element of w takes part in y: half-copied weights, or tensors of two versions, show as two values in it."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.ones(EDGE), requires_grad=False)
        self.body = torch.nn.Parameter(torch.ones(elements), requires_grad=False)
        self.last = torch.nn.Parameter(torch.ones(EDGE), requires_grad=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        segments = self.body.reshape(SEGMENTS, -1)
        return {"y": x * torch.cat([self.first, segments.amin(1), segments.amax(1), self.last])}


@dataclass(frozen=True)
class Telltales:
    """The package on disk, and weights files for it."""

    package: Path
    elements: int

    def weights(self, value: int) -> bytes:
        """A safetensors file in which every element is `value`."""
        counts = {"first": EDGE, "body": self.elements, "last": EDGE}
        return save({name: torch.full((count,), float(value)) for name, count in counts.items()})


def packaged(folder: Path, megabytes: float) -> Telltales:
    """Export and compile, as a user does; the weights beside the package hold the value 1."""
    elements = max(1, round(megabytes * 2**20 / 4 / SEGMENTS)) * SEGMENTS
    path = folder / f"{NAME}.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    export_package(Telltale(elements).eval(), {"x": torch.ones(2, 1)}, path, dynamic_shapes={"x": {0: batch}})
    return Telltales(path, elements)


def values_in(x: NDArray[np.float32], y: NDArray[np.float32]) -> set[float]:
    """The values of w that an answer was computed with: one, if all is well."""
    return {float(value) for value in np.unique(y / x)}
