"""The architectures of the round trips: small modules, examples to export them with, and calls to put to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import Dim

from tests.integration.architectures_ops import swish

Args = tuple[Any, ...]
Call = tuple[Args, dict[str, Any]]
BATCH = Dim("batch", min=1, max=32)
SIZES = (1, 2, 7, 32)


class Architecture(NamedTuple):
    """A module with calls of several sizes; `example` is the one to export with, by name unless it is a tuple."""

    make: Callable[[], nn.Module]
    example: Any
    shapes: Any
    calls: Sequence[Call]
    operators: tuple[str, ...] = ()
    tolerance: float = 1e-4


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, stride=2),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(12, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(image))
        return logits


class Encoder(nn.Module):
    """Token ids and a mask that is true where there is padding."""

    positions: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(29, 16, padding_idx=0)
        self.places = nn.Embedding(12, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)
        self.register_buffer("positions", torch.arange(12).expand(1, -1), persistent=False)

    def forward(self, ids: torch.Tensor, padding: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.words(ids) + self.places(self.positions[:, : ids.shape[1]])
        hidden = self.layers(hidden, src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1)
        pooled = (hidden * kept).sum(1) / kept.sum(1)
        return {"logits": self.head(pooled), "tokens": hidden * kept}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 10, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(20, 3)

    def forward(self, series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        steps, last = self.gru(series)
        return self.head(steps), last.transpose(0, 1)


class TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(50, 8)
        self.items = nn.Embedding(40, 8)
        self.tags = nn.EmbeddingBag(20, 8, mode="mean")
        self.user = nn.Sequential(nn.Linear(8 + 2, 16), nn.GELU(), nn.Linear(16, 8))
        self.item = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, user: dict[str, torch.Tensor], item: dict[str, Any]) -> dict[str, Any]:
        one = self.user(torch.cat([self.users(user["id"]), user["facts"]], -1))
        other = self.item(torch.cat([self.items(item["id"]), self.tags(item["more"]["tags"])], -1))
        return {"score": (one * other).sum(-1).sigmoid(), "towers": [one, other]}


class Mlp(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.SiLU(), nn.Linear(24, 6)).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(x)
        return logits


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.last = nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(swish(self.first(x), 1.5))
        return logits


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
EXOTIC = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
ALL_DTYPES = (torch.bool, *INTEGERS, *EXOTIC, *FLOATS)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random values that the dtype holds exactly, for the most part."""
    numbers = torch.randn(shape) * 3
    if dtype == torch.bool:
        return numbers > 0
    return numbers.to(dtype) if dtype.is_floating_point else numbers.abs().to(torch.uint8).to(dtype)


class EveryDtype(nn.Module):
    """A buffer and an input of every dtype; comes back in its own dtype where torch can compute in it."""

    def __init__(self) -> None:
        super().__init__()
        for dtype in ALL_DTYPES:
            self.register_buffer(f"kept_{name_of(dtype)}", values(dtype, 3))

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = {}
        for name, x in inputs.items():
            kept = self.get_buffer(f"kept_{name}")
            if x.dtype in EXOTIC:
                outputs[name] = (x.to(torch.float32) + kept.to(torch.float32)).to(x.dtype)
            elif x.dtype == torch.bool:
                outputs[name] = x ^ kept
            else:
                outputs[name] = x + kept
        return outputs


class Forms(nn.Module):
    """Keyword arguments, None, lists and tuples, scalars, fixed values: in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.shift = nn.Parameter(torch.randn(3))

    def forward(
        self,
        first: torch.Tensor,
        pair: tuple[torch.Tensor, list[torch.Tensor]],
        nothing: None = None,
        *,
        scale: torch.Tensor,
        options: dict[str, Any] | None = None,
    ) -> Any:
        assert options is not None
        total = first + pair[0] * scale + pair[1][0] + options["bias"] + self.shift
        return {
            "rows": total * self.gain,
            "nothing": None,
            "pair": (total.mean(), [total.sum(-1), options["absent"]]),
            "count": 3,
        }


class Whole(nn.Module):
    """No batch dimension: a matrix and a scalar count, both of fixed shape."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(4, 4))

    def forward(self, matrix: torch.Tensor, power: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed = self.mix @ matrix @ self.mix.T
        return mixed**power, mixed.sum()


class Pairs(nn.Module):
    """Two dynamic dimensions, either of which may be empty."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(5, 4)
        self.right = nn.Linear(5, 4)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.left(one) @ self.right(other).T
        return scores, scores.sum(1)


class OddConstants(nn.Module):
    """Constants that are views, transposed, spread out, tied to each other, one-element, returned."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Parameter(torch.randn(10, 4)[2:7])
        self.turned = nn.Parameter(torch.randn(4, 5).t())
        self.register_buffer("spread", torch.randn(5, 8)[:, ::2])
        self.register_buffer("one", torch.randn(1))
        self.register_buffer("scalar", torch.tensor(3))
        self.register_buffer("flags", torch.rand(5) > 0.5)
        self.tied = self.part
        self.alias = self.get_buffer("one")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        table = self.part * self.tied + self.turned + self.get_buffer("spread")
        rows = table * self.get_buffer("one") * self.alias
        masked = torch.where(self.get_buffer("flags")[:, None], rows, rows * self.get_buffer("scalar"))
        return x @ masked.T, self.part, self.turned[1:, :2], self.get_buffer("scalar")


class Unread(nn.Module):
    """Constants of which the code reads the shape or the dtype only, and an empty one: no value is compiled in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.shape = nn.Parameter(torch.randn(4))
        self.dtype = nn.Parameter(torch.randn(2))
        self.register_buffer("empty", torch.randn(0, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.linear(x).type_as(self.dtype) + torch.zeros_like(self.shape)
        return torch.cat([rows, self.get_buffer("empty")])


class Passing(nn.Module):
    """An input that comes back as it is, one that is not used, one that is a view, and a result that is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, unused: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        twice = self.linear(x)
        return x, twice, twice, y.transpose(1, 2), y[:, 0], torch.zeros(2, 3)


def batched(*make: Callable[[int], torch.Tensor], sizes: Sequence[int] = SIZES) -> list[Call]:
    return [(tuple(one(size) for one in make), {}) for size in sizes]


def _tower_call(size: int) -> Call:
    user = {"id": torch.randint(0, 50, (size,)), "facts": torch.randn(size, 2)}
    item = {"id": torch.randint(0, 40, (size,)), "more": {"tags": torch.randint(0, 20, (size, 3))}}
    return (user,), {"item": item}


def _encoder_call(size: int, length: int) -> Call:
    lengths = torch.randint(1, length + 1, (size, 1))
    return (torch.randint(1, 29, (size, length)), torch.arange(length) >= lengths), {}


def _forms_call(size: int) -> Call:
    pair = (torch.randn(size, 3), [torch.randn(size, 3)])
    options = {"bias": torch.randn(()), "absent": None}
    return (torch.randn(size, 3), pair), {"scale": torch.tensor(0.5), "options": options, "nothing": None}


def _dtypes_call(size: int) -> Call:
    return ({name_of(dtype): values(dtype, size, 3) for dtype in ALL_DTYPES},), {}


def _keyed(names: Sequence[str], call: Call) -> dict[str, Any]:
    args, kwargs = call
    return dict(zip(names, args, strict=False)) | kwargs


LENGTH = Dim("length", min=1, max=12)
ROWS, OTHERS = Dim("rows", min=0, max=64), Dim("others", min=0, max=64)

ARCHITECTURES = {
    "cnn": Architecture(
        Cnn, (torch.randn(4, 3, 16, 16),), ({0: BATCH},), batched(lambda size: torch.randn(size, 3, 16, 16))
    ),
    "transformer": Architecture(
        Encoder,
        _encoder_call(4, 6)[0],
        ({0: BATCH, 1: LENGTH}, {0: BATCH, 1: LENGTH}),
        [_encoder_call(*shape) for shape in ((1, 1), (2, 12), (7, 5), (32, 8))],
    ),
    "gru": Architecture(
        Recurrent, (torch.randn(4, 5, 6),), ({0: BATCH},), batched(lambda size: torch.randn(size, 5, 6))
    ),
    "two_tower": Architecture(
        TwoTower,
        _keyed(["user"], _tower_call(4)),
        {
            "user": {"id": {0: BATCH}, "facts": {0: BATCH}},
            "item": {"id": {0: BATCH}, "more": {"tags": {0: BATCH}}},
        },
        [((), _keyed(["user"], _tower_call(size))) for size in SIZES],
    ),
    "bfloat16": Architecture(
        lambda: Mlp(torch.bfloat16),
        (torch.randn(4, 12, dtype=torch.bfloat16),),
        ({0: BATCH},),
        batched(lambda size: torch.randn(size, 12, dtype=torch.bfloat16)),
        tolerance=0.05,
    ),
    "custom": Architecture(
        Custom,
        (torch.randn(4, 6),),
        ({0: BATCH},),
        batched(lambda size: torch.randn(size, 6)),
        operators=("tests.integration.architectures_ops",),
    ),
    "dtypes": Architecture(
        EveryDtype,
        _dtypes_call(4)[0],
        ({name_of(dtype): {0: BATCH} for dtype in ALL_DTYPES},),
        [_dtypes_call(size) for size in SIZES],
        tolerance=0,
    ),
    "forms": Architecture(
        Forms,
        {"first": torch.randn(4, 3), "pair": _forms_call(4)[0][1], **_forms_call(4)[1]},
        {
            "first": {0: BATCH},
            "pair": ({0: BATCH}, [{0: BATCH}]),
            "scale": {},
            "options": {"bias": {}, "absent": None},
            "nothing": None,
        },
        [((), _keyed(["first", "pair"], _forms_call(size))) for size in SIZES],
    ),
    "whole": Architecture(
        Whole,
        (torch.rand(4, 4), torch.tensor(2)),
        None,
        [((torch.rand(4, 4), torch.tensor(power)), {}) for power in (0, 1, 2)],
    ),
    "pairs": Architecture(
        Pairs,
        (torch.randn(3, 5), torch.randn(4, 5)),
        ({0: ROWS}, {0: OTHERS}),
        [
            ((torch.randn(rows, 5), torch.randn(others, 5)), {})
            for rows, others in ((0, 0), (0, 3), (3, 0), (1, 1), (64, 2), (3, 3))
        ],
    ),
    "constants": Architecture(
        OddConstants, (torch.randn(4, 4),), ({0: BATCH},), batched(lambda size: torch.randn(size, 4))
    ),
    "unread": Architecture(Unread, (torch.randn(3, 4),), ({0: BATCH},), batched(lambda size: torch.randn(size, 4))),
    "passing": Architecture(
        Passing,
        (torch.randn(4, 4), torch.randn(4), torch.randn(4, 2, 3)),
        ({0: BATCH}, {0: BATCH}, {0: BATCH}),
        batched(lambda size: torch.randn(size, 4), torch.randn, lambda size: torch.randn(size, 2, 3)),
    ),
}
