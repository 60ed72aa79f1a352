"""One model in float32, bfloat16 and int8: what each costs in memory, accuracy and time.

PYTHONPATH=examples python examples/precision/precision.py
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from serving import ask, serving
from torch import Tensor, nn

import aoti_serve

FOLDER, MODELS = Path("var/examples/precision"), ("float32", "bfloat16", "int8")
WIDTH, LAYERS, ROWS, REQUESTS = 1024, 4, 64, 30


class Net(nn.Module):
    """`x` FP32 [batch, 1024] to `y`, the same; in between it computes in its own dtype."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)).to(dtype)
        self._dtype = dtype

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = x.to(self._dtype)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return {"y": x.float()}


def make(folder: Path) -> None:
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=ROWS)}}
    for name in MODELS:
        net, quantize = Net(torch.bfloat16 if name == "bfloat16" else torch.float32), "int8" if name == "int8" else None
        inputs = {"x": torch.randn(ROWS, WIDTH)}
        package = folder / f"{name}.pt2"
        aoti_serve.export_package(net.eval(), inputs, package, dynamic_shapes=shapes, quantize=quantize)


def megabytes(name: str) -> float:
    """What the weights of one version occupy, as they are staged, in every replica."""
    container = aoti_serve.Container(FOLDER / f"{name}.pt2")
    container.stage(load_file(FOLDER / f"{name}.safetensors"))
    container.commit()
    found = container.nbytes / 1e6
    container.close()
    return found


def milliseconds(client: httpx.Client, name: str, x: NDArray[np.float32]) -> float:
    """The median of some requests, one after the other."""
    times = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        ask(client, name, x=x)
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def main() -> None:
    torch.manual_seed(1)
    net, x = Net().eval(), torch.randn(ROWS, WIDTH)
    with torch.inference_mode():
        wanted = net(x)["y"].numpy()
    table = Table("package", "weights, MB", "largest error", f"ms, {ROWS} rows")
    with serving("precision", make) as client:
        for name in MODELS:
            # One trainer, one state dict in float32: each package takes it and makes of it what it computes with.
            aoti_serve.WeightsClient(name).swap(net.state_dict(), label="from the trainer", cast=True)
            error = np.abs(ask(client, name, x=x.numpy()).outputs["y"] - wanted).max() / np.abs(wanted).max()
            took = milliseconds(client, name, x.numpy())
            table.add_row(name, f"{megabytes(name):.1f}", f"{error:.2%}", f"{took:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
