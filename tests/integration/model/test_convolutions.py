"""Packages whose convolutions are packed when their weights are staged: answers as eager's, whatever the form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import avg_pool1d, relu

from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from aoti_serve.model.preparation.recipe import PACKED_CONVOLUTION
from aoti_serve.weights.files.index import read_index
from tests.integration.models import small_layers_packed
from tests.integration.swaps import check_over_swaps
from tests.package_cache import PackageCache

Made = tuple[nn.Module, Package]


class Images(nn.Module):
    """Two dimensions: groups, dilation, other borders, no bias, one weight in two places, one that is not packed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, (5, 3), stride=(2, 1), padding=(1, 2))
        self.norm = nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=2, bias=False)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.around = nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular")
        self.twice = nn.Conv2d(32, 32, 1)
        self.tied = nn.Conv2d(32, 32, 1)
        self.tied.weight = self.twice.weight
        self.back = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.last = nn.Conv2d(8, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = relu(self.norm(self.stem(x)))
        hidden = hidden + relu(self.grouped(hidden))
        hidden = self.tied(self.twice(torch.tanh(self.twice(self.depthwise(hidden)))))
        hidden = self.around(hidden)
        maps = self.last(self.back(hidden))
        return self.head(maps.mean((2, 3))), maps, hidden.view(x.shape[0], -1)


class Series(nn.Module):
    """One dimension, of a length that varies."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 32, 4, stride=2, padding=1)
        self.depthwise = nn.Conv1d(32, 32, 7, padding="same", groups=32, bias=False)
        self.grouped = nn.Conv1d(32, 32, 3, padding=1, groups=2, padding_mode="replicate")
        self.narrow = nn.Conv1d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.nn.functional.silu(self.depthwise(self.stem(x)))
        hidden = self.grouped(hidden) + hidden
        return hidden.transpose(1, 2), self.narrow(avg_pool1d(hidden, 2).mean(1, keepdim=True))


def images(rows: int) -> torch.Tensor:
    return torch.randn(rows, 3, 18, 14)


@pytest.fixture(scope="module")
def made(package_cache: PackageCache) -> Callable[[str], Made]:
    batch, length = torch.export.Dim("batch", min=0, max=16), torch.export.Dim("length", min=16, max=64)
    kinds: dict[str, tuple[type[nn.Module], Callable[[Path], Package]]] = {
        "images": (Images, lambda path: compiled(Images, images(4), path, dynamic_shapes=({0: batch},))),
        "sized": (Images, lambda path: compiled(Images, images(4), path, batch_sizes=(1, 4))),
        "series": (
            Series,
            lambda path: compiled(Series, torch.randn(4, 6, 32), path, dynamic_shapes=({0: batch, 2: length},)),
        ),
    }

    def make(kind: str) -> Made:
        module, write = kinds[kind]
        folder = package_cache.entry(f"convolutions-{kind}", lambda folder: write(folder / "model.pt2"), Path(__file__))
        return module().eval(), Package.open(folder / "model.pt2")

    return make


def compiled(module: type[nn.Module], x: torch.Tensor, path: Path, **how: object) -> Package:
    torch.manual_seed(0)
    with small_layers_packed():
        return export_package(module().eval(), (x,), path, **how)  # type: ignore[arg-type]


def fresh(module: nn.Module) -> dict[str, torch.Tensor]:
    state = {
        name: torch.randn_like(value) * 0.3
        for name, value in module.state_dict().items()
        if value.dtype.is_floating_point
    }
    if "tied.weight" in state:
        state["tied.weight"] = state["twice.weight"]
    return state | {name: state[name].abs() + 0.5 for name in state if name.endswith("running_var")}


def check(container: Container, module: nn.Module, weights: dict[str, torch.Tensor], x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = torch.func.functional_call(module, weights, (x,))
    for answer, value in zip(container.run([x]).values(), expected, strict=True):
        scale = float(value.abs().max()) if value.numel() else 1.0
        torch.testing.assert_close(answer, value, rtol=1e-4, atol=1e-4 * scale)


def test_the_package_says_which_weights_are_packed(made: Callable[[str], Made]) -> None:
    _, package = made("images")
    packed = {recipe.source for recipe in package.recipes if recipe.by == PACKED_CONVOLUTION}
    assert {name.partition(".")[0] for name in packed} - {"tied", "twice"} == {
        "stem",
        "grouped",
        "depthwise",
        "around",
        "last",
    }
    assert packed & {"tied.weight", "twice.weight"}


@pytest.mark.parametrize("kind", ["images", "sized"])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_images_are_answered_as_eager_does_over_swaps(made: Callable[[str], Made], kind: str, rows: int) -> None:
    module, package = made(kind)
    x, versions = images(rows), [fresh(module) for _ in range(3)]
    with Container(package) as container:
        check_over_swaps(container, versions, ("stem.weight",), lambda weights: check(container, module, weights, x))


@pytest.mark.parametrize("shape", [(1, 6, 16), (4, 6, 33), (16, 6, 64)])
def test_series_of_every_length_are_answered_as_eager_does(made: Callable[[str], Made], shape: tuple[int, ...]) -> None:
    module, package = made("series")
    assert {recipe.source: recipe.constants[0].shape for recipe in package.recipes} == {
        "stem.weight": (32, 6, 1, 4),
        "depthwise.weight": (32, 1, 1, 7),
        "grouped.weight": (32, 16, 1, 3),
    }
    x = torch.randn(shape)
    with Container(package) as container:
        for weights in (fresh(module), fresh(module)):
            container.stage(weights)
            container.commit()
            check(container, module, weights, x)


def test_an_empty_batch_has_an_empty_answer(made: Callable[[str], Made]) -> None:
    module, package = made("images")
    with Container(package) as container:
        container.stage(fresh(module))
        container.commit()
        assert [len(answer) for answer in container.run([images(0)]).values()] == [0, 0, 0]


def test_weights_come_as_bytes_of_a_file_in_pieces_of_any_size(made: Callable[[str], Made], tmp_path: Path) -> None:
    module, package = made("series")
    weights, file = fresh(module), tmp_path / "weights.safetensors"
    save_file(weights, file)
    content = np.fromfile(file, np.uint8)
    with Container(package) as container:
        container.stage_bytes(read_index(file), [content[at : at + 999] for at in range(0, len(content), 999)])
        container.commit()
        check(container, module, weights, torch.randn(2, 6, 20))
