"""Dimensions that are left to torch, and sizes of 1, of which it proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from aoti_serve.errors import ExportFailed, UnsupportedModule
from aoti_serve.model.program.exported import program_of
from aoti_serve.signature.signature import Signature

# Of nn.RNNBase, which makes views of its weights when it is traced.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")

FITS_ALL = (Dim.AUTO, Dim.DYNAMIC)
ROWS = torch.arange(6.0).reshape(2, 3) + 1
IMAGE = torch.ones(2, 1, 8, 8)


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Branching(nn.Module):
    """A single row gets another answer, and torch records the answer for several."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3 if x.shape[0] == 1 else x * 2


class Several(nn.Module):
    """It does not take a single row, like a normalisation over the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 1:
            raise ValueError("more than one row is needed")
        return x - x.mean(0)


class Squeezing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2).squeeze()


class Shrinking(nn.Module):
    """Windows of two steps: one step is too little, and of two torch assumes that they are more."""

    def __init__(self) -> None:
        super().__init__()
        self.window = nn.Conv1d(1, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.window(x)  # type: ignore[no-any-return]


class Halving(nn.Module):
    """Right for even heights and widths only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_unshuffle(image, 2)


class Paired(nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (ids * mask).sum(1)


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.steps = kind(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.steps(x)[0]


class Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(2, -1)


def signature_of(module: nn.Module, inputs: Any, shapes: Any, notes: list[str] | None = None) -> Signature:
    noted = (notes if notes is not None else []).append
    options: dict[str, Any] = {"forget_mutations": False, "prepare": False, "quantize": False, "noted": noted}
    return program_of(module.eval(), inputs, shapes, **options).signature


def shapes_of(signature: Signature) -> list[str]:
    return [spec.describe_shape() for spec in signature.inputs]


@pytest.mark.parametrize("dim", FITS_ALL)
def test_a_batch_that_is_left_to_torch_takes_single_rows(dim: Any) -> None:
    notes: list[str] = []
    signature = signature_of(Scaled(), (ROWS,), ({0: dim},), notes)
    assert shapes_of(signature) == ["[batch=1.., 3]"]
    assert notes == []


@pytest.mark.parametrize("dim", [*FITS_ALL, Dim("batch"), Dim("batch", max=8)])
def test_an_example_of_one_row_will_do(dim: Any) -> None:
    (shape,) = shapes_of(signature_of(Scaled(), {"x": ROWS[:1]}, {"x": {0: dim}}))
    assert shape.startswith("[batch=")


def test_a_range_that_is_given_with_a_hint_is_kept() -> None:
    assert shapes_of(signature_of(Scaled(), (ROWS,), ({0: Dim.AUTO(min=2, max=8)},))) == ["[batch=2..8, 3]"]
    assert shapes_of(signature_of(Scaled(), (ROWS,), ({0: Dim.DYNAMIC(max=8)},))) == ["[batch=1..8, 3]"]


@pytest.mark.parametrize("dim", [*FITS_ALL, Dim("batch"), Dim("rows", min=1)])
def test_a_single_row_that_would_get_a_wrong_answer_is_refused_with_the_line_to_change(dim: Any) -> None:
    with pytest.raises(UnsupportedModule, match=r"dimension 0 of 'x'.*answers otherwise") as refused:
        signature_of(Branching(), (ROWS,), ({0: dim},))
    line = str(refused.value).partition("have less than 2 refused: ")[2]
    assert shapes_of(signature_of(Branching(), (ROWS,), (eval(line, {"torch": torch}),))) == ["[batch=2.., 3]"]


def test_a_batch_that_forward_takes_from_two_rows_on_is_refused_in_its_own_words() -> None:
    with pytest.raises(UnsupportedModule, match=r"more than one row is needed.*Dim\(\"batch\", min=2\)"):
        signature_of(Several(), (ROWS,), ({0: Dim.AUTO},))
    assert shapes_of(signature_of(Several(), (ROWS,), ({0: Dim.AUTO(min=2)},))) == ["[batch=2.., 3]"]


def test_an_output_that_loses_a_dimension_of_one_is_right() -> None:
    assert shapes_of(signature_of(Squeezing(), (ROWS,), ({0: Dim.AUTO},))) == ["[batch=1.., 3]"]


def test_what_torch_assumes_of_other_dimensions_is_noted() -> None:
    notes: list[str] = []
    signature = signature_of(Shrinking(), (torch.ones(2, 1, 9),), ({0: Dim.AUTO, 2: Dim.AUTO},), notes)
    assert shapes_of(signature) == ["[batch=1.., 1, x_2=3..]"]
    assert len(notes) == 1
    assert notes[0].startswith("dimension 2 of 'x' is 3 or more in every request")


@pytest.mark.parametrize("dim", FITS_ALL)
def test_a_multiple_that_torch_has_found_is_in_the_signature(dim: Any) -> None:
    signature = signature_of(Halving(), (IMAGE,), ({0: dim, 2: dim, 3: dim},))
    _, _, height, _ = signature.inputs[0].shape
    assert not isinstance(height, int)
    assert (height.in_words, height.value_at(9)) == ("even, 4 or more", None)


def test_sizes_that_torch_has_found_to_be_equal_have_one_name() -> None:
    hints = {0: Dim.AUTO, 1: Dim.AUTO}
    signature = signature_of(Paired(), (ROWS, ROWS), {"ids": hints, "mask": hints})
    assert shapes_of(signature) == ["[batch=1.., ids_1=1..]"] * 2


def test_a_name_survives_beside_a_hint() -> None:
    rows, length = Dim("rows", max=9), Dim("length")
    signature = signature_of(Paired(), (ROWS, ROWS), {"ids": {0: Dim.AUTO, 1: Dim.AUTO}, "mask": {0: rows, 1: length}})
    assert shapes_of(signature) == ["[batch=1..9, length=1..]"] * 2


@pytest.mark.parametrize(("module", "axis"), [(Recurrent(nn.GRU), 1), (Halves(), 0)])
def test_a_dimension_that_torch_has_fixed_is_static_and_noted(module: nn.Module, axis: int) -> None:
    notes: list[str] = []
    inputs = (torch.ones(2, 4, 3),)
    signature = signature_of(module, inputs, ({0: Dim.AUTO, 1: Dim.AUTO},), notes)
    assert signature.inputs[0].shape[axis] == inputs[0].shape[axis]
    size = inputs[0].shape[axis]
    assert notes == [
        f"dimension {axis} of 'x' is {size} in every request: torch has fixed it, see docs/tutorial/your-model.md"
    ]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("dim", [Dim("time"), Dim.DYNAMIC])
def test_steps_that_torch_fixes_are_refused_with_what_to_do(kind: type[nn.RNNBase], dim: Any) -> None:
    words = rf"number of steps of {kind.__name__}: (time|dimension 1 of 'x') is always 4.*docs/tutorial/your-model.md"
    with pytest.raises(UnsupportedModule, match=words):
        signature_of(Recurrent(kind), (torch.ones(2, 4, 3),), ({0: Dim("batch"), 1: dim},))


@pytest.mark.parametrize("collected", [torch.export.ShapesCollection, torch.export.AdditionalInputs])
def test_torchs_own_classes_of_shapes_are_understood(collected: Any) -> None:
    shapes, x = collected(), ROWS.clone()
    if isinstance(shapes, torch.export.ShapesCollection):
        shapes[x] = {0: Dim.AUTO}
    else:
        shapes.add((torch.ones(5, 3),))
    assert shapes_of(signature_of(Scaled(), (x,), shapes)) == ["[batch=1.., 3]"]


TRACED: nn.Module = torch.jit.trace(Scaled(), ROWS)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("made", [TRACED, nn.Sequential(TRACED)], ids=["whole", "part"])
def test_torchscript_is_refused_with_what_to_do(made: nn.Module) -> None:
    with pytest.raises(UnsupportedModule, match=r"TorchScript.*load_state_dict\(script.state_dict\(\)\)"):
        signature_of(made, (ROWS,), None)


@pytest.mark.parametrize(
    ("module", "inputs", "shapes", "says", "says_not"),
    [
        pytest.param(
            Halving(),
            (IMAGE,),
            ({2: Dim("height")},),
            r"height = 2\*_height\nWrite this into dynamic_shapes",
            ["=oo", "Not all values", "draft_export", "TORCH_LOGS", "example"],
            id="suggested",
        ),
        pytest.param(
            Shrinking(),
            (torch.ones(2, 1, 9),),
            ({2: Dim("length")},),
            r"dimension 2 of 'x'.*\nGive",
            ["L["],
            id="range",
        ),
        pytest.param(
            Scaled(),
            (ROWS,),
            ({0: 2 * Dim("half", min=3)},),
            "2 not in range.*The example has",
            ["draft"],
            id="example",
        ),
        pytest.param(
            Halves(), (ROWS,), ({0: Dim("batch")},), r"constant \(2\).*needs its size", ["mark_dynamic"], id="fixed"
        ),
        pytest.param(Scaled(), (ROWS,), {"y": {0: Dim.AUTO}}, r"arg names \['x'\]", ["example"], id="name"),
        pytest.param(Paired(), (ROWS, ROWS[:, :2]), ({0: Dim("batch")}, None), "must match", ["Dynamic"], id="module"),
    ],
)
def test_torch_says_its_own_point_and_no_other(
    module: nn.Module, inputs: Any, shapes: Any, says: str, says_not: list[str]
) -> None:
    with pytest.raises(ExportFailed, match=f"(?s){says}") as refused:
        signature_of(module, inputs, shapes)
    assert [words for words in says_not if words in str(refused.value)] == []
