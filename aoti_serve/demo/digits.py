"""The demo's model: a small CNN on scikit-learn's handwritten digits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from aoti_serve.errors import StartFailed

HELD_OUT = 360


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


def load_images() -> tuple[Digits, Digits]:
    """1,437 images to train on and 360 held out; always the same split. Raises StartFailed without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        detail = "the demo needs scikit-learn, which is not installed: pip install 'aoti-serve[demo]'"
        raise StartFailed(detail=detail) from error
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
    """For `aoti-serve package aoti_serve.demo.digits:make_model`: the module, example inputs, dynamic shapes."""
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
