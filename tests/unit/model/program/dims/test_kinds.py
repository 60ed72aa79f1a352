"""The kinds of models that docs/tutorial/your-model.md names, small: what it says of their sizes is what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from aoti_serve.model.program.exported import program_of

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
BATCH, LENGTH = Dim("batch", max=64), Dim("length", max=512)
IDS, MASK = torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)


class Encoder(nn.Module):
    """A sentence encoder, pooled over what the mask leaves; with a head, a reranker."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.head = head

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(self.words(ids), src_key_padding_mask=mask == 0)
        kept = mask.unsqueeze(-1).float()
        return self.head((hidden * kept).sum(1) / kept.sum(1))  # type: ignore[no-any-return]


class Segmenter(nn.Module):
    """A U-Net of one step: what is halved is added to what was not."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 2, stride=2), nn.ConvTranspose2d(4, 1, 2, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.up(self.down(image))  # type: ignore[no-any-return]


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items, self.head = nn.EmbeddingBag(9, 8), nn.Linear(10, 1)

    def forward(self, items: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.items(items), age], 1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Its answer is that of each row's last step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        steps = self.steps(x)[0]
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, steps.shape[2])
        return steps.gather(1, last).squeeze(1)  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Windows of audio, with the state in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.cell, self.head = nn.Linear(512, 16), nn.LSTMCell(16, 8), nn.Linear(8, 1)

    def forward(self, audio: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> dict[str, torch.Tensor]:
        h, c = self.cell(self.features(audio), (h, c))
        return {"speech": self.head(h).sigmoid(), "h": h, "c": c}


class Conformer(nn.Module):
    """Frames are subsampled by 4; positions are made of the size, attention and a convolution follow."""

    def __init__(self) -> None:
        super().__init__()
        self.subsample = nn.Conv1d(5, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.Conv1d(8, 8, 3, padding=1, groups=8)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.subsample(frames.transpose(1, 2)).transpose(1, 2)
        x = x + torch.sin(torch.arange(x.shape[1], device=x.device)).view(1, -1, 1)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.mix(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


CNN = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
TEXT = {"ids": {0: BATCH, 1: LENGTH}, "mask": {0: BATCH, 1: LENGTH}}
STATE = torch.zeros(2, 8)


@pytest.mark.parametrize(
    ("module", "inputs", "shapes", "found"),
    [
        pytest.param(Encoder(nn.Identity()), (IDS, MASK), TEXT, "[batch=0..64, length=0..512]", id="encoder"),
        pytest.param(Encoder(nn.Linear(8, 1)), (IDS, MASK), TEXT, "[batch=0..64, length=0..512]", id="reranker"),
        pytest.param(
            CNN, (torch.ones(2, 1, 8, 8),), ({0: BATCH, 2: Dim.AUTO},), "[batch=0..64, 1, input_2=1.., 8]", id="cnn"
        ),
        pytest.param(
            Segmenter(),
            (torch.ones(2, 1, 8, 8),),
            ({0: BATCH, 2: 2 * Dim("rows", min=2, max=40)},),
            "[batch=0..64, 1, 2*rows=4..80, 8]",
            id="segmenter",
        ),
        pytest.param(Ranker(), (IDS, torch.ones(2, 2)), ({0: BATCH}, {0: BATCH}), "[batch=0..64, 7]", id="embeddings"),
        pytest.param(
            Recurrent(),
            (torch.ones(2, 5, 3), torch.tensor([5, 2])),
            ({0: BATCH}, {0: BATCH}),
            "[batch=1..64, 5, 3]",
            id="lstm",
        ),
        pytest.param(
            Detector(), (torch.ones(2, 512), STATE, STATE), ({0: BATCH},) * 3, "[batch=0..64, 512]", id="stateful-audio"
        ),
        pytest.param(
            Conformer(),
            (torch.ones(2, 24, 5),),
            ({0: BATCH, 1: 4 * Dim("quarter", min=2, max=100)},),
            "[batch=0..64, 4*quarter=8..400, 5]",
            id="conformer",
        ),
    ],
)
def test_a_kind_of_model_takes_the_sizes_that_the_page_says(
    module: nn.Module, inputs: Any, shapes: Any, found: str
) -> None:
    program = program_of(module.eval(), inputs, shapes, forget_mutations=False, prepare=False, quantize=False)
    assert program.signature.inputs[0].describe_shape() == found
    assert program.signature.batch is not None
