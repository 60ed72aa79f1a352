"""A recipe: how staging makes constants of the compiled code from weights. Data, in the package's metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from pydantic import TypeAdapter

from aoti_serve.signature.constants import Constants, ConstantSpec
from aoti_serve.signature.tensors import Frozen

PACKED_LINEAR: Final = "onednn_linear"
PACKED_CONVOLUTION: Final = "onednn_convolution"
PACKED_LSTM_INPUT: Final = "onednn_lstm_input"
PACKED_LSTM_HIDDEN: Final = "onednn_lstm_hidden"
COLUMN_MAJOR: Final = "column_major"
INT8_LINEAR: Final = "onednn_int8_linear"
KNOWN = (
    PACKED_LINEAR,
    PACKED_CONVOLUTION,
    PACKED_LSTM_INPUT,
    PACKED_LSTM_HIDDEN,
    COLUMN_MAJOR,
    INT8_LINEAR,
)


class Window(Frozen):
    """How a convolution goes over its input, whose shape is `taken`: its layout depends on all of it but the batch."""

    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    taken: tuple[int, ...]


class Recipe(Frozen):
    """How one tensor of the weights, `source`, is prepared: what the code takes in its place are `constants`.

    `by` names the preparation, and `window` tells one of a convolution more. A tensor without a recipe is a constant
    itself.
    """

    source: str
    constants: tuple[ConstantSpec, ...]
    by: str
    window: Window | None = None


RECIPES = TypeAdapter(tuple[Recipe, ...])


def recipe_problems(recipes: Sequence[Recipe], constants: Constants) -> Iterator[str]:
    """Why recipes cannot be followed, in words."""
    names = {spec.name for spec in constants.constants}
    for source, count in Counter(recipe.source for recipe in recipes).items():
        if count > 1:
            yield f"it prepares '{source}' twice"
    for recipe in recipes:
        if recipe.by not in KNOWN:
            yield f"it prepares '{recipe.source}' by '{recipe.by}'; this version knows {', '.join(KNOWN)}"
        if recipe.source not in names:
            yield f"it prepares '{recipe.source}', which is none of its constants"
        if recipe.by == PACKED_CONVOLUTION and recipe.window is None:
            yield f"it prepares '{recipe.source}' for a convolution, and does not say for which"


def code_constants(constants: Constants, recipes: Sequence[Recipe]) -> tuple[ConstantSpec, ...]:
    """The constants that the code takes: those of the weights, and what is made of some in their place."""
    sources = {recipe.source for recipe in recipes}
    plain = [spec for spec in constants.constants if spec.name not in sources]
    return (*plain, *(spec for recipe in recipes for spec in recipe.constants))
