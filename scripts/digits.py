"""The demo: a small CNN on scikit-learn's handwritten digits, packaged, with several versions of its weights.

    scripts/make_digits [--out var/digits]

Writes digits.pt2 (code only), v1.safetensors (stopped early), v2.safetensors (trained), v3.safetensors (trained a
little more), bad/broken.safetensors (v2 with a NaN), bad/shuffled.safetensors (v2, each class called by the name of the
next one) and digits.example.json (a request with one held-out image). Runs on the CPU, in under a minute, most of it
compiling.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from aoti_serve.model.export import export_package

HELD_OUT = 360
EPOCHS = 30
MORE_EPOCHS = 2


class DigitsNet(nn.Module):
    """`image`: FP32 [batch, 1, 8, 8], pixels divided by 16; `logits`: FP32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classify = nn.Linear(32 * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classify(self.features(image).flatten(1))}


class Digits(NamedTuple):
    """Images [n, 1, 8, 8] in 0..1 and their classes."""

    images: torch.Tensor
    labels: torch.Tensor


def load() -> tuple[Digits, Digits]:
    """1,437 images to train on and 360 held out; always the same split."""
    bundle: Any = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(bundle.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held_out, train = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(images[train], labels[train]), Digits(images[held_out], labels[held_out])


def accuracy(net: nn.Module, digits: Digits) -> float:
    with torch.no_grad():
        return float((net(digits.images)["logits"].argmax(1) == digits.labels).float().mean())


def make_model() -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, Any]]:
    """For `aoti-serve package digits:make_model`: the module, example inputs, dynamic shapes."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    return DigitsNet().eval(), {"image": torch.zeros(2, 1, 8, 8)}, {"image": {0: batch}}


def train_epoch(net: nn.Module, optimizer: torch.optim.Optimizer, digits: Digits, batch: int = 64) -> None:
    net.train()
    order = torch.randperm(len(digits.labels))
    for index in range(math.ceil(len(order) / batch)):
        rows = order[index * batch : (index + 1) * batch]
        loss = nn.functional.cross_entropy(net(digits.images[rows])["logits"], digits.labels[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    net.eval()


def make(folder: Path, console: Console) -> None:
    """Train, package, and write all versions of the weights to `folder`."""
    torch.manual_seed(0)
    train, held_out = load()
    net, inputs, shapes = make_model()
    with console.status("compiling digits.pt2: exporting") as status:
        package = export_package(
            net,
            inputs,
            folder / "digits.pt2",
            dynamic_shapes=shapes,
            progress=lambda phase: status.update(f"compiling digits.pt2: {phase}"),
        )
    (folder / "digits.safetensors").unlink()  # the untrained weights that come with any package
    console.print(f"{'digits.pt2':20} {len(package.constants)} constants, all of them swappable")
    _write_example(folder / "digits.example.json", held_out)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    for epoch in range(EPOCHS):
        train_epoch(net, optimizer, train)
        if epoch == 0:
            _save(net, folder / "v1.safetensors", held_out, console)
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - epoch / EPOCHS)
    _save(net, folder / "v2.safetensors", held_out, console)
    _write_bad(net, folder / "bad", held_out, console)
    for _ in range(MORE_EPOCHS):
        train_epoch(net, optimizer, train)
    _save(net, folder / "v3.safetensors", held_out, console)


def _write_bad(net: nn.Module, folder: Path, held_out: Digits, console: Console) -> None:
    """The weights that answer, spoilt in two ways. In a folder of their own: nobody should swap to them by chance."""
    folder.mkdir(exist_ok=True)
    broken, shuffled = DigitsNet().eval(), DigitsNet().eval()
    for spoilt in (broken, shuffled):
        spoilt.load_state_dict(net.state_dict())
    with torch.no_grad():
        broken.classify.bias[0] = torch.nan
        for parameter in (shuffled.classify.weight, shuffled.classify.bias):
            parameter.copy_(parameter.roll(1, 0))
    _save(broken, folder / "broken.safetensors", held_out, console)
    _save(shuffled, folder / "shuffled.safetensors", held_out, console)


def _write_example(path: Path, digits: Digits) -> None:
    data = digits.images[0].flatten().tolist()
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": data}
    path.write_text(json.dumps({"id": f"a {digits.labels[0]}", "inputs": [image]}) + "\n")


def _save(net: nn.Module, path: Path, held_out: Digits, console: Console) -> None:
    save_file(net.state_dict(), path)
    console.print(f"{path.name:20} {accuracy(net, held_out):6.1%} of the {HELD_OUT} held-out images")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and package the digits demo.")
    parser.add_argument("--out", type=Path, default=Path("var/digits"))
    make(parser.parse_args().out, Console())


if __name__ == "__main__":
    main()
