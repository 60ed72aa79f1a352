"""The check of weights against a package's constants."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from aoti_serve.errors import (
    InvalidWeights,
    MissingTensor,
    OtherNames,
    UnknownTensor,
    WrongTensorDtype,
    WrongTensorShape,
)
from aoti_serve.signature.constants import BakedConstant, Constants, ConstantSpec
from aoti_serve.signature.tensors import Shaped

CONSTANTS = Constants(
    constants=(
        ConstantSpec(name="embed", dtype="float32", shape=(5, 3), stride=(3, 1)),
        ConstantSpec(name="bias", dtype="bfloat16", shape=(3,), stride=(1,)),
        ConstantSpec(name="positions", dtype="float32", shape=(8,), stride=(1,), carried=True),
    ),
    unused=("bn.num_batches_tracked",),
    tied={"head": "embed"},
    baked=(BakedConstant(name="scale", dtype="float32", shape=(), digest="00" * 32),),
)
EMBED, BIAS, POSITIONS = Shaped("float32", (5, 3)), Shaped("bfloat16", (3,)), Shaped("float32", (8,))
LEAST = {"embed": EMBED, "bias": BIAS}


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [
        pytest.param("float32", (2, 3), 24, id="matrix"),
        pytest.param("bfloat16", (), 2, id="scalar"),
        pytest.param("int64", (4, 0), 0, id="empty"),
    ],
)
def test_a_constant_has_the_bytes_of_its_elements(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert ConstantSpec(name="w", dtype=dtype, shape=shape, stride=(1,) * len(shape)).nbytes == nbytes


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(LEAST, id="least"),
        pytest.param(dict(reversed(LEAST.items())), id="in-another-order"),
        pytest.param(LEAST | {"positions": POSITIONS}, id="carried"),
        pytest.param({"head": EMBED, "bias": BIAS}, id="under-its-other-name"),
        pytest.param(LEAST | {"head": EMBED}, id="under-both-names"),
        pytest.param(LEAST | {"scale": Shaped("float32", ())}, id="baked"),
        pytest.param(LEAST | {"bn.num_batches_tracked": Shaped("int64", ())}, id="unused"),
        pytest.param(LEAST | {"bn.num_batches_tracked": Shaped("I4", (7,))}, id="unused-whatever-it-is"),
    ],
)
def test_weights_that_fit_pass(found: dict[str, Shaped]) -> None:
    CONSTANTS.check_weights(found)
    CONSTANTS.check_weights(found, partial=True)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        pytest.param({}, "embed", id="nothing"),
        pytest.param({"embed": EMBED}, "bias", id="one"),
        pytest.param({"bias": BIAS, "positions": POSITIONS}, "embed", id="the-tied-one"),
        pytest.param({"embed": EMBED, "scale": Shaped("float32", ())}, "bias", id="baked-is-no-substitute"),
    ],
)
def test_what_is_missing_is_named_unless_the_weights_are_partial(found: dict[str, Shaped], name: str) -> None:
    CONSTANTS.check_weights(found, partial=True)
    with pytest.raises(MissingTensor, match=f"tensor '{name}'"):
        CONSTANTS.check_weights(found)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param(
            {"baes": BIAS},
            UnknownTensor(name="baes", hint="; --drop baes leaves out what it does not have"),
            id="unknown",
        ),
        pytest.param(
            {"bias": Shaped("float16", (3,))},
            WrongTensorDtype(
                name="bias",
                got="float16",
                expected="bfloat16",
                hint="; --cast (cast=true) converts it, and tells by how much values are rounded",
            ),
            id="dtype",
        ),
        pytest.param(
            {"embed": Shaped("float32", (3, 5))},
            WrongTensorShape(name="embed", got=[3, 5], expected=[5, 3]),
            id="shape",
        ),
        pytest.param(
            {"positions": Shaped("float32", (9,))},
            WrongTensorShape(name="positions", got=[9], expected=[8]),
            id="carried",
        ),
        pytest.param(
            {"head": Shaped("float32", (5,))}, WrongTensorShape(name="head", got=[5], expected=[5, 3]), id="tied"
        ),
        pytest.param(
            {"scale": Shaped("float64", ())},
            WrongTensorDtype(
                name="scale",
                got="float64",
                expected="float32",
                hint="; --cast (cast=true) converts it, and tells by how much values are rounded",
            ),
            id="baked-dtype",
        ),
        pytest.param(
            {"scale": Shaped("float32", (1,))}, WrongTensorShape(name="scale", got=[1], expected=[]), id="baked-shape"
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_own_name(
    changes: dict[str, Shaped], error: InvalidWeights, partial: bool
) -> None:
    with pytest.raises(type(error)) as caught:
        CONSTANTS.check_weights(LEAST | changes, partial=partial)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("prefix", ["model.", "_orig_mod.", "policy.model."])
def test_a_prefix_of_all_names_is_said_with_the_rule_that_cuts_it(prefix: str) -> None:
    with pytest.raises(OtherNames) as caught:
        CONSTANTS.check_weights({prefix + name: tensor for name, tensor in LEAST.items()})
    assert f"all 2 names have the prefix '{prefix}'" in str(caught.value)
    assert f"--rename '{re.escape(prefix)}='" in str(caught.value)


def test_what_only_looks_like_a_prefix_is_none() -> None:
    for found in (LEAST | {"model.baes": BIAS}, {"model.": BIAS}):
        with pytest.raises(UnknownTensor) as caught:
            CONSTANTS.check_weights(found)
        assert "prefix" not in str(caught.value)


def test_constants_survive_their_json() -> None:
    assert Constants.model_validate_json(CONSTANTS.model_dump_json()) == CONSTANTS


def test_a_constant_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="later"):
        ConstantSpec.model_validate({"name": "w", "dtype": "int8", "shape": [], "stride": [], "later": 1})


def test_a_part_of_the_tensors_is_told_of_partial_swaps() -> None:
    with pytest.raises(MissingTensor, match=r"they hold 1 of the package's 3 tensors: .*--partial --base-version N"):
        CONSTANTS.check_weights({"embed": EMBED})


def test_weights_of_another_model_are_not_to_be_dropped_whole() -> None:
    with pytest.raises(OtherNames, match=r"none of its 2 tensors is the package's.*of another model") as caught:
        CONSTANTS.check_weights({"conv.kernel": EMBED, "conv.offset": BIAS})
    assert "--drop" not in str(caught.value)
