"""The names that a signature gives to dimensions."""

from __future__ import annotations

import torch
from torch.export import Dim, export

from aoti_serve.model.program.describe import describe
from aoti_serve.signature.tensors import Dim as SignatureDim


class Nested(torch.nn.Module):
    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, user: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tokens * mask, tokens], 1) + user["age"].sum(1, keepdim=True)


def test_a_dimension_is_called_as_it_was_exported() -> None:
    rows, seq, days = Dim("rows", min=1, max=8), Dim("seq", min=2, max=512), Dim.AUTO
    shapes = {"tokens": {0: rows, 1: seq}, "mask": (rows, seq), "user": {"age": {0: rows, 1: days}}}
    inputs = (torch.zeros(2, 4), torch.zeros(2, 4), {"age": torch.zeros(2, 6)})
    signature = describe(export(Nested().eval(), inputs, dynamic_shapes=shapes))
    tokens, mask, age = signature.inputs
    batch = SignatureDim(symbol="batch", min=1, max=8)
    assert tokens.shape == mask.shape == (batch, SignatureDim(symbol="seq", min=2, max=512))
    assert age.shape[0] == batch
    assert isinstance(age.shape[1], SignatureDim)
    assert signature.outputs[0].shape[1] == SignatureDim(symbol="seq", min=4, max=1024, factor=2)


class Picture(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.sum((2, 3))


def test_the_dim_that_others_are_made_of_names_them() -> None:
    half = Dim("half", min=7, max=320)
    exported = export(Picture().eval(), (torch.zeros(2, 3, 16, 9),), dynamic_shapes=({0: Dim("rows"), 2: 2 * half},))
    signature = describe(exported)
    assert signature.inputs[0].describe_shape() == "[batch=0.., 3, 2*half=14..640, 9]"


def test_what_has_no_name_is_called_by_its_place() -> None:
    exported = export(Picture().eval(), (torch.zeros(2, 3, 4, 5),), dynamic_shapes=({0: Dim.AUTO, 3: Dim.AUTO},))
    assert describe(exported).inputs[0].describe_shape() == "[batch=2.., 3, 4, image_3=2..]"


def test_a_dimension_that_torch_has_fixed_is_static() -> None:
    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(2, -1)

    exported = export(Halves().eval(), (torch.zeros(2, 3),), dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},))
    assert describe(exported).inputs[0].describe_shape() == "[2, x_1=2..]"


def test_the_first_inputs_rows_alone_are_called_batch() -> None:
    batch, rows = Dim("batch", min=1, max=8), Dim("rows", min=1, max=9)
    exported = export(torch.nn.Linear(3, 2).eval(), (torch.zeros(4, 5, 3),), dynamic_shapes=({0: rows, 1: batch},))
    first, second, _ = describe(exported).inputs[0].shape
    assert isinstance(first, SignatureDim)
    assert isinstance(second, SignatureDim)
    assert (first.symbol, first.max, second.max) == ("batch", 9, 8)
    assert second.symbol not in ("batch", "rows")
