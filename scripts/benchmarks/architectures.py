"""The architectures that are measured by rows: an MLP in two dtypes, a sentence encoder, two CNNs, a GRU, an LSTM."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from models import Mlp
from torch import nn
from torch.nn.functional import gelu, max_pool2d, pad, scaled_dot_product_attention

Inputs = tuple[torch.Tensor, ...]


class Subject(NamedTuple):
    """A module with random weights, inputs for it of so many rows, and their dynamic shapes."""

    name: str
    title: str
    module: nn.Module
    inputs: Callable[[int], Inputs]

    @property
    def shapes(self) -> Any:
        return ({0: torch.export.Dim("batch", min=1, max=256)},)


class EncoderLayer(nn.Module):
    """A layer of BERT: attention, then two linear layers, each with a sum and a norm behind it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (part(x).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, width)
        x = self.first(x + self.out(mixed))
        answer: torch.Tensor = self.second(x + self.down(gelu(self.up(x))))
        return answer


class Encoder(nn.Module):
    """MiniLM's shape: 6 layers of 384 with 12 heads; vectors of tokens in, a vector for each sentence out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(EncoderLayer(384, 12) for _ in range(6)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layers(tokens).mean(1)
        return answer


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm_one, self.norm_two = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm_one(self.one(x)))
        return torch.relu(x + self.norm_two(self.two(hidden)))


class Cnn(nn.Module):
    """Residual blocks over images of 56 x 56, as in the first half of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3),
            nn.ReLU(),
            Residual(64),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.ReLU(),
            Residual(128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.body(image)
        return answer


class Waveform(nn.Module):
    """The pitch of 1,024 samples, by six convolutions whose kernels are 512 and 64 long: CREPE, 22 million weights."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 1024, 128, 128, 128, 256, 512)
        self.first = nn.Conv2d(1, 1024, (512, 1), stride=(4, 1))
        self.others = nn.ModuleList(nn.Conv2d(*pair, (64, 1)) for pair in pairwise(channels[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(given) for given in channels[1:])
        self.head = nn.Linear(2048, 360)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        hidden = self._after(0, self.first(pad(samples[:, None, :, None], (0, 0, 254, 254))))
        for index, convolution in enumerate(self.others, 1):
            hidden = self._after(index, convolution(pad(hidden, (0, 0, 31, 32))))
        answer: torch.Tensor = torch.sigmoid(self.head(hidden.permute(0, 2, 1, 3).flatten(1)))
        return answer

    def _after(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        return max_pool2d(self.norms[index](torch.relu(hidden)), (2, 1))


class Gru(nn.Module):
    """Two layers of 256 over 32 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(64, 256, num_layers=2, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        steps, _ = self.gru(series)
        answer: torch.Tensor = self.head(steps[:, -1])
        return answer


class Lstm(nn.Module):
    """Two layers of 256 over 32 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 256, num_layers=2, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        steps, _ = self.lstm(series)
        answer: torch.Tensor = self.head(steps[:, -1])
        return answer


def subjects() -> list[Subject]:
    half = torch.bfloat16
    return [
        Subject("mlp", "MLP, 4 x 1024", Mlp(1024, 4), lambda rows: (torch.randn(rows, 1024),)),
        Subject(
            "half",
            "MLP, 4 x 1024, bfloat16",
            Mlp(1024, 4).to(half),
            lambda rows: (torch.randn(rows, 1024, dtype=half),),
        ),
        Subject("encoder", "encoder, sentences of 16 tokens", Encoder(), lambda rows: (torch.randn(rows, 16, 384),)),
        Subject("cnn", "CNN", Cnn(), lambda rows: (torch.randn(rows, 3, 112, 112),)),
        Subject("waveform", "CNN over a waveform", Waveform(), lambda rows: (torch.randn(rows, 1024),)),
        Subject("gru", "GRU, 32 steps", Gru(), lambda rows: (torch.randn(rows, 32, 64),)),
        Subject("lstm", "LSTM, 32 steps", Lstm(), lambda rows: (torch.randn(rows, 32, 64),)),
    ]
