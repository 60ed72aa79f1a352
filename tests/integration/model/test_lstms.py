"""Packages whose LSTMs are packed when their weights are staged: answers as eager's, whatever the form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aoti_serve.errors import WrongInputShape
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package
from aoti_serve.model.package import Package
from aoti_serve.model.preparation.recipe import PACKED_LSTM_HIDDEN, PACKED_LSTM_INPUT
from aoti_serve.weights.files.index import read_index
from tests.integration.swaps import check_over_swaps
from tests.package_cache import PackageCache

# torch.export's own, of each nn.LSTM
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:The tensor attributes? self\..*_flat_weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
]

Made = tuple[nn.Module, Package]
STEPS = 7


class Series(nn.Module):
    """Both ways in two layers, then on from their last states without biases, then projected, which is not packed."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.LSTM(6, 40, num_layers=2, batch_first=True, bidirectional=True)
        self.on = nn.LSTM(80, 40, bias=False)
        self.last = nn.LSTM(40, 8, proj_size=3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        steps, (hidden, cells) = self.both(x)
        steps, (hidden, cells) = self.on(steps.transpose(0, 1), (hidden[-1:], cells[:1]))
        steps = steps.transpose(0, 1).contiguous()
        return self.head(self.last(steps)[0]), hidden.squeeze(0), steps


@pytest.fixture(scope="module")
def made(package_cache: PackageCache) -> Callable[[str], Made]:
    def make(kind: str) -> Made:
        how = {
            "dynamic": {"dynamic_shapes": ({0: torch.export.Dim("batch", min=0, max=32)},)},
            "sized": {"batch_sizes": (1, 4)},
        }[kind]

        def write(folder: Path) -> None:
            torch.manual_seed(0)
            export_package(Series().eval(), (series(4),), folder / "model.pt2", **how)  # type: ignore[arg-type]

        folder = package_cache.entry(f"lstms-{kind}", write, Path(__file__))
        return Series().eval(), Package.open(folder / "model.pt2")

    return make


def series(rows: int) -> torch.Tensor:
    return torch.randn(rows, STEPS, 6)


def fresh(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(value) * 0.3 for name, value in module.state_dict().items()}


def check(container: Container, module: nn.Module, weights: dict[str, torch.Tensor], x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = torch.func.functional_call(module, weights, (x,))
    for answer, value in zip(container.run([x]).values(), expected, strict=True):
        torch.testing.assert_close(answer, value, rtol=1e-4, atol=1e-4)


def test_the_package_says_which_weights_are_packed(made: Callable[[str], Made]) -> None:
    module, package = made("dynamic")
    lstms = {name for name in module.state_dict() if name.startswith(("both.weight", "on.weight"))}
    recipes = {recipe.source: recipe.by for recipe in package.recipes}
    for name in lstms:
        assert recipes.pop(name) == (PACKED_LSTM_INPUT if "_ih" in name else PACKED_LSTM_HIDDEN)
    assert not any(name.startswith("last.") for name in recipes)


@pytest.mark.parametrize(
    ("kind", "rows"), [("dynamic", 1), ("dynamic", 3), ("dynamic", 32), ("sized", 1), ("sized", 3)]
)
def test_series_are_answered_as_eager_does_over_swaps(made: Callable[[str], Made], kind: str, rows: int) -> None:
    module, package = made(kind)
    x, versions = series(rows), [fresh(module) for _ in range(3)]
    with Container(package) as container:
        check_over_swaps(
            container,
            versions,
            ("both.weight_ih_l1_reverse", "on.weight_hh_l0"),
            lambda weights: check(container, module, weights, x),
        )


def test_weights_come_as_bytes_of_a_file_in_pieces_of_any_size(made: Callable[[str], Made], tmp_path: Path) -> None:
    module, package = made("dynamic")
    weights, file = fresh(module), tmp_path / "weights.safetensors"
    save_file(weights, file)
    content = np.fromfile(file, np.uint8)
    with Container(package) as container:
        container.stage_bytes(read_index(file), [content[at : at + 999] for at in range(0, len(content), 999)])
        container.commit()
        check(container, module, weights, series(2))


def test_an_empty_batch_that_would_end_the_process_is_refused_or_padded(made: Callable[[str], Made]) -> None:
    module, dynamic = made("dynamic")
    with Container(dynamic) as container:
        container.stage(module.state_dict())
        container.commit()
        with pytest.raises(WrongInputShape, match="'x'"):
            container.run([series(0)])
    module, sized = made("sized")
    with Container(sized) as container:
        container.stage(module.state_dict())
        container.commit()
        check(container, module, module.state_dict(), series(1))
        assert container.run([series(0)])["output_0"].shape == (0, STEPS, 2)
