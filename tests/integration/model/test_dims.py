"""Packages whose dimensions were left to torch: what is compiled is what the signature says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from aoti_serve.errors import WrongInputShape
from aoti_serve.model.container import Container
from aoti_serve.model.export import export_package


class Halving(nn.Module):
    """A convolution, and a step that is right for even heights and widths only."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_unshuffle(self.filter(image), 2)


@pytest.fixture(scope="module")
def halving() -> Halving:
    torch.manual_seed(0)
    return Halving().eval()


@pytest.fixture(scope="module")
def container(halving: Halving, tmp_path_factory: pytest.TempPathFactory) -> Container:
    path = tmp_path_factory.mktemp("dims") / "halving.pt2"
    shapes = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.DYNAMIC},)
    made = Container(export_package(halving, (torch.ones(1, 1, 8, 8),), path, dynamic_shapes=shapes))
    made.stage(halving.state_dict())
    made.commit()
    return made


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (1, 1, 8, 6), (2, 1, 8, 8), (5, 1, 30, 4)])
def test_every_size_that_is_admitted_is_answered_as_the_module_does(
    halving: Halving, container: Container, shape: tuple[int, ...]
) -> None:
    image = torch.rand(shape)
    torch.testing.assert_close(container.run({"image": image})["output"], halving(image))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        pytest.param((1, 1, 9, 8), r"dimension 2 .* is 9, it must be even, 4 or more", id="odd"),
        pytest.param((1, 1, 8, 2), r"dimension 3 .* is 2, it must be even, 4 or more", id="small"),
        pytest.param((0, 1, 8, 8), r"dimension 0 \('batch'\) is 0, it must be 1 or more", id="empty"),
    ],
)
def test_a_size_that_torch_did_not_compile_for_is_refused_in_words(
    container: Container, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(WrongInputShape, match=words):
        container.run({"image": torch.rand(shape)})


def test_what_torch_has_fixed_is_said(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(2, -1) * 2

    notes: list[str] = []
    shapes = ({0: Dim.AUTO, 1: Dim.AUTO},)
    package = export_package(
        Halves().eval(), (torch.ones(2, 3),), tmp_path / "halves.pt2", dynamic_shapes=shapes, noted=notes.append
    )
    assert package.signature.inputs[0].describe_shape() == "[2, x_1=1..]"
    assert notes == ["dimension 0 of 'x' is 2 in every request: torch has fixed it, see docs/tutorial/your-model.md"]
