"""Two models behind one gateway: one says which digit it is, the other whether it is one.

PYTHONPATH=examples python examples/several_models/several_models.py
"""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from serving import ask, serving
from torch import Tensor, nn

import aoti_serve
from aoti_serve.demo import digits

READER, GUARD, EPOCHS = "reader", "guard", 8


class Guard(nn.Module):
    """How badly an image can be told in 16 numbers: `image` FP32 [batch, 1, 8, 8] to `surprise`, FP32 [batch]."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))
        self.unfold = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        pixels = image.flatten(1)
        return {"surprise": (self.unfold(self.squeeze(pixels)) - pixels).square().mean(1)}


def make(folder: Path) -> None:
    """The reader untrained, the guard trained."""
    torch.manual_seed(0)
    reader, inputs, shapes = digits.make_model()
    aoti_serve.export_package(reader, inputs, folder / f"{READER}.pt2", dynamic_shapes=shapes)
    guard, images = Guard(), digits.load_images()[0].images
    optimizer = torch.optim.Adam(guard.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        torch.autograd.backward(guard(images)["surprise"].mean())
        optimizer.step()
    aoti_serve.export_package(guard.eval(), inputs, folder / f"{GUARD}.pt2", dynamic_shapes=shapes)


def trained() -> nn.Module:
    net = digits.DigitsNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        digits.train_epoch(net, optimizer, digits.load_images()[0])
    return net


def show(client: httpx.Client, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Both models about the same images, over one connection."""
    read, noise = ask(client, READER, image=images), np.random.default_rng(0).random(images.shape, np.float32)
    digit, strange = ask(client, GUARD, image=images), ask(client, GUARD, image=noise)
    right = (read.outputs["logits"].argmax(1) == labels).mean()
    median, least = np.median(digit.outputs["surprise"]), strange.outputs["surprise"].min()
    print(f"{READER} version {read.version}: {right:6.1%} of {len(labels)} digits read rightly")
    print(f"{GUARD} version {digit.version}: surprise {median:.3f} at digits, {least:.3f} or more at noise", flush=True)


def main() -> None:
    held_out = digits.load_images()[1]
    images, labels = held_out.images.numpy(), held_out.labels.numpy()
    with serving("several_models", make) as client:
        show(client, images, labels)
        aoti_serve.WeightsClient(READER).swap(trained().state_dict(), label="trained")
        show(client, images, labels)


if __name__ == "__main__":
    main()
