"""Recipes as data: what cannot be followed is told in words."""

from __future__ import annotations

import torch

from aoti_serve.model.preparation.preparations import prepared
from aoti_serve.model.preparation.recipe import (
    COLUMN_MAJOR,
    INT8_LINEAR,
    KNOWN,
    PACKED_CONVOLUTION,
    PACKED_LINEAR,
    PACKED_LSTM_HIDDEN,
    PACKED_LSTM_INPUT,
    RECIPES,
    Recipe,
    Window,
    code_constants,
    recipe_problems,
)
from aoti_serve.signature.constants import Constants, ConstantSpec

WEIGHT = ConstantSpec(name="fc.weight", dtype="float32", shape=(8, 4), stride=(4, 1))
BIAS = ConstantSpec(name="fc.bias", dtype="float32", shape=(8,), stride=(1,))
CONSTANTS = Constants(constants=(WEIGHT, BIAS))
PACKED = Recipe(source="fc.weight", constants=(WEIGHT,), by=PACKED_LINEAR)
KERNEL = ConstantSpec(name="conv.weight", dtype="float32", shape=(8, 4, 3, 3), stride=(36, 9, 3, 1))
WINDOW = Window(padding=(1, 1), stride=(1, 1), dilation=(1, 1), groups=1, taken=(2, 4, 9, 9))
TURNED = PACKED.model_copy(update={"by": COLUMN_MAJOR, "constants": (WEIGHT.model_copy(update={"stride": (1, 8)}),)})
INT8 = ConstantSpec(name="fc.weight_int8", dtype="int8", shape=(4, 8), stride=(8, 1))
SCALES = ConstantSpec(name="fc.weight_scales", dtype="float32", shape=(8,), stride=(1,))
QUANTIZED = Recipe(source="fc.weight", constants=(INT8, SCALES), by=INT8_LINEAR)
CONVOLUTION = Recipe(source="conv.weight", constants=(KERNEL,), by=PACKED_CONVOLUTION, window=WINDOW)


def test_recipes_survive_the_metadata() -> None:
    assert RECIPES.validate_json(RECIPES.dump_json((PACKED, CONVOLUTION))) == (PACKED, CONVOLUTION)


def test_a_preparation_that_is_not_there_is_named_with_those_that_are() -> None:
    recipe = PACKED.model_copy(update={"by": "magic"})
    (problem,) = recipe_problems([recipe], CONSTANTS)
    assert problem == f"it prepares 'fc.weight' by 'magic'; this version knows {', '.join(KNOWN)}"


def test_a_source_that_is_no_constant_is_named() -> None:
    recipe = PACKED.model_copy(update={"source": "fc.wait"})
    assert list(recipe_problems([recipe], CONSTANTS)) == ["it prepares 'fc.wait', which is none of its constants"]


def test_a_convolution_is_told_which() -> None:
    recipe = CONVOLUTION.model_copy(update={"window": None})
    assert list(recipe_problems([recipe], Constants(constants=(KERNEL,)))) == [
        "it prepares 'conv.weight' for a convolution, and does not say for which"
    ]


def test_what_is_made_of_a_constant_takes_its_place_in_the_code() -> None:
    made = WEIGHT.model_copy(update={"name": "fc.weight.packed"})
    recipe = PACKED.model_copy(update={"constants": (made,)})
    assert code_constants(CONSTANTS, [recipe]) == (BIAS, made)


def test_every_name_has_its_preparation() -> None:
    lstm = [PACKED.model_copy(update={"by": name}) for name in (PACKED_LSTM_INPUT, PACKED_LSTM_HIDDEN)]
    recipes = [PACKED, CONVOLUTION, TURNED, QUANTIZED, *lstm]
    assert {recipe.by for recipe in recipes} == set(KNOWN)
    for recipe in recipes:
        made = next(each for each in prepared(Constants(constants=(WEIGHT, KERNEL)), [recipe]) if each.preparation)
        memory = torch.zeros(made.nbytes, dtype=torch.uint8)
        assert [*made.tensors(memory)] == [spec.name for spec in recipe.constants]


def test_a_source_that_is_prepared_twice_is_named() -> None:
    assert list(recipe_problems([PACKED, TURNED], CONSTANTS)) == ["it prepares 'fc.weight' twice"]


def test_without_recipes_every_constant_is_its_tensor_of_the_weights() -> None:
    assert [(each.source, each.preparation) for each in prepared(CONSTANTS)] == [
        ("fc.weight", None),
        ("fc.bias", None),
    ]
