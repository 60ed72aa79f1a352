"""The check of a call against the signature: native code checks none of this."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.errors import (
    InvalidInput,
    InvalidInputData,
    MissingInput,
    UnknownInput,
    UnknownOutput,
    WrongInputDtype,
    WrongInputShape,
)
from aoti_serve.signature.call_spec import CallSpec
from aoti_serve.signature.signature import IndexGuard, Signature
from aoti_serve.signature.tensors import Dim, Shaped, TensorSpec

BATCH = Dim(symbol="batch", min=1, max=16)
LENGTH = Dim(symbol="length", min=2)
IMAGE = TensorSpec(name="image", dtype="float32", shape=(BATCH, 3, LENGTH, LENGTH))
MASK = TensorSpec(name="mask", dtype="bool", shape=(BATCH, LENGTH))
SCALE = TensorSpec(name="scale", dtype="bfloat16", shape=())


def signature(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> Signature:
    return Signature(inputs=inputs, outputs=outputs, constants=())


def call(**changes: Shaped) -> dict[str, Shaped]:
    """A call that fits, but for `changes`."""
    fitting = {
        "image": Shaped("float32", (4, 3, 8, 8)),
        "mask": Shaped("bool", (4, 8)),
        "scale": Shaped("bfloat16", ()),
    }
    return fitting | changes


WHOLE = signature(IMAGE, MASK, SCALE)


def spec(name: str, *shape: int | Dim) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def test_a_call_that_fits_passes_in_any_order() -> None:
    WHOLE.check_inputs(call())
    WHOLE.check_inputs(dict(reversed(call().items())))


@pytest.mark.parametrize(
    ("name", "tensor", "error", "reason"),
    [
        pytest.param(
            "image", Shaped("float64", (4, 3, 8, 8)), WrongInputDtype, "FP64, the model takes FP32", id="dtype"
        ),
        pytest.param("mask", Shaped("uint8", (4, 8)), WrongInputDtype, "UINT8, the model takes BOOL", id="dtype-size"),
        pytest.param("mask", Shaped("complex64", (4, 8)), WrongInputDtype, "complex64", id="foreign-dtype"),
        pytest.param("image", Shaped("float32", (4, 3, 8)), WrongInputShape, "rank 3 instead of 4", id="rank"),
        pytest.param("scale", Shaped("bfloat16", (1,)), WrongInputShape, "rank 1 instead of 0", id="scalar-rank"),
        pytest.param("image", Shaped("float32", (4, 1, 8, 8)), WrongInputShape, "1 is 1 instead of 3", id="fixed"),
        pytest.param("image", Shaped("float32", (0, 3, 8, 8)), WrongInputShape, "is 0, it must be 1 to 16", id="min"),
        pytest.param("image", Shaped("float32", (17, 3, 8, 8)), WrongInputShape, "must be 1 to 16", id="max"),
        pytest.param("mask", Shaped("bool", (4, 1)), WrongInputShape, "must be 2 or more", id="open-range-min"),
        pytest.param("image", Shaped("float32", (4, 3, 8, 9)), WrongInputShape, "is 9, but 8 in 'image'", id="within"),
        pytest.param("mask", Shaped("bool", (5, 8)), WrongInputShape, "is 5, but 4 in 'image'", id="across-inputs"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(
    name: str, tensor: Shaped, error: type[InvalidInput], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        WHOLE.check_inputs(call(**{name: tensor}))
    assert str(caught.value).startswith(f"input '{name}': ")


def test_an_unknown_input_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(UnknownInput, match=r"input 'imgae': .*available: image, mask, scale"):
        WHOLE.check_inputs(call(imgae=Shaped("float32", ())))


@pytest.mark.parametrize("name", [pytest.param(spec.name, id=spec.name) for spec in WHOLE.inputs])
def test_a_missing_input_is_refused_by_name(name: str) -> None:
    sent = call()
    del sent[name]
    with pytest.raises(MissingInput, match=f"input '{name}'"):
        WHOLE.check_inputs(sent)


NESTED = signature(
    spec("ids", BATCH),
    spec("user.age", BATCH),
    spec("mask", BATCH),
    outputs=(spec("logits", BATCH), spec("aux", BATCH)),
).model_copy(
    update={
        "takes": CallSpec(
            spec="not looked at",
            leaves=("ids", "user.age", None, "mask"),
            paths={"ids": "ARGS[0]", "user.age": "ARGS[1]['age']", "mask": "KWARGS['mask']"},
        ),
        "gives": CallSpec(
            spec="not looked at",
            leaves=("logits", None, "aux"),
            paths={"logits": "RESULT['logits']", "aux": "RESULT['aux'][0]"},
        ),
    }
)


@pytest.mark.parametrize(
    ("sent", "own"),
    [
        pytest.param("ids", "ids", id="own"),
        pytest.param("user.age", "user.age", id="own-nested"),
        pytest.param("INPUT__0", "ids", id="ordinal"),
        pytest.param("INPUT__2", "mask", id="ordinal-counts-tensors-only"),
        pytest.param("ARGS[0]", "ids", id="positional"),
        pytest.param("ARGS[1]['age']", "user.age", id="key"),
        pytest.param('ARGS[1]["age"]', "user.age", id="key-in-double-quotes"),
        pytest.param("ARGS[1][age]", "user.age", id="key-without-quotes"),
        pytest.param("KWARGS['mask']", "mask", id="keyword"),
        pytest.param("KWARGS[mask]", "mask", id="keyword-without-quotes"),
        pytest.param("INPUT__3", "INPUT__3", id="ordinal-beyond"),
        pytest.param("INPUT_0", "INPUT_0", id="no-ordinal"),
        pytest.param("ARGS[2]", "ARGS[2]", id="not-there"),
        pytest.param("OUTPUT__0", "OUTPUT__0", id="an-output"),
        pytest.param("id", "id", id="unknown"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_an_input_goes_by_tritons_names_as_well(sent: str, own: str) -> None:
    assert NESTED.by_input({sent: 7}) == {own: 7}


class Counted(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("many", [1_000, 2_000])
def test_a_thousand_strangers_are_looked_at_once_each(many: int) -> None:
    """Two lists of names that are searched in each other would be a million comparisons."""
    Counted.compared = 0
    named = WHOLE.by_input({Counted(f"stranger {number}"): Shaped("bool", ()) for number in range(many)})
    with pytest.raises(UnknownInput, match=r"^input 'stranger 0': "):
        WHOLE.check_inputs(named)
    assert Counted.compared < 10 * many


def test_an_input_under_two_of_its_names_is_refused_by_its_own() -> None:
    with pytest.raises(InvalidInputData, match=r"^input 'mask': sent under two of its names$"):
        NESTED.by_input({"ids": 1, "INPUT__2": 2, "KWARGS[mask]": 3})


def test_inputs_may_be_called_in_different_ways_in_one_call() -> None:
    assert NESTED.by_input({"KWARGS['mask']": 1, "INPUT__0": 2, "user.age": 3}) == {"mask": 1, "ids": 2, "user.age": 3}


def test_of_a_package_that_does_not_know_its_nesting_only_the_order_is_known() -> None:
    flat = signature(IMAGE, MASK)
    assert flat.by_input({"INPUT__1": 1, "ARGS[0]": 2}) == {"mask": 1, "ARGS[0]": 2}


def test_a_name_that_looks_like_tritons_is_the_inputs_own() -> None:
    crossed = signature(spec("INPUT__1", 1), spec("INPUT__0", 1), outputs=(spec("OUTPUT__1", 1), spec("OUTPUT__0", 1)))
    assert crossed.by_input({"INPUT__0": 0, "INPUT__1": 1}) == {"INPUT__0": 0, "INPUT__1": 1}
    assert [crossed.output_named(name) for name in ("OUTPUT__0", "OUTPUT__1")] == ["OUTPUT__0", "OUTPUT__1"]


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        pytest.param("logits", "logits", id="own"),
        pytest.param("OUTPUT__0", "logits", id="ordinal"),
        pytest.param("OUTPUT__1", "aux", id="ordinal-counts-tensors-only"),
        pytest.param("RESULT['logits']", "logits", id="key"),
        pytest.param("RESULT[logits]", "logits", id="key-without-quotes"),
        pytest.param('RESULT["aux"][0]', "aux", id="deeper"),
    ],
)
def test_an_output_goes_by_tritons_names_as_well(asked: str, own: str) -> None:
    assert NESTED.output_named(asked) == own


def test_a_single_output_is_the_first_result() -> None:
    gives = CallSpec(spec="", leaves=("output",), paths={"output": "RESULT[0]"})
    single = signature(IMAGE, outputs=(spec("output", BATCH),)).model_copy(update={"gives": gives})
    assert {single.output_named(name) for name in ("output", "OUTPUT__0", "RESULT[0]")} == {"output"}


@pytest.mark.parametrize(
    "name", ["logit", "OUTPUT__2", "OUTPUT_0", "INPUT__0", "RESULT[0]", "RESULT['aux']", "ids", ""]
)
def test_an_unknown_output_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnknownOutput, match=r"^output '.*': .*available: logits, aux") as caught:
        NESTED.output_named(name)
    assert str(caught.value).startswith(f"output '{name}': ")


def test_the_compiled_codes_outputs_are_named_also_those_that_are_no_tensors() -> None:
    assert NESTED.output_leaves == ("logits", None, "aux")
    assert signature(IMAGE, outputs=(spec("y", BATCH),)).output_leaves == ("y",)


@given(batch=st.integers(1, 16), length=st.integers(2, 2**40), data=st.data())
def test_every_call_within_the_ranges_passes_and_one_other_dimension_fails(
    batch: int, length: int, data: st.DataObject
) -> None:
    sent = call(image=Shaped("float32", (batch, 3, length, length)), mask=Shaped("bool", (batch, length)))
    WHOLE.check_inputs(sent)
    name = data.draw(st.sampled_from(["image", "mask"]))
    axis = data.draw(st.integers(0, len(sent[name].shape) - 1))
    other = data.draw(st.integers(0, 2**40).filter(lambda size: size != sent[name].shape[axis]))
    shape = (*sent[name].shape[:axis], other, *sent[name].shape[axis + 1 :])
    with pytest.raises(WrongInputShape):
        WHOLE.check_inputs(sent | {name: Shaped(sent[name].dtype, shape)})


@pytest.mark.parametrize(
    ("checked", "batch"),
    [
        pytest.param(signature(spec("x", BATCH, 3), outputs=(spec("y", BATCH),)), BATCH, id="first-everywhere"),
        pytest.param(
            signature(spec("x", BATCH), spec("z", BATCH), outputs=(spec("y", BATCH),)), BATCH, id="two-inputs"
        ),
        pytest.param(signature(spec("x", 3, BATCH), outputs=(spec("y", BATCH),)), None, id="not-first"),
        pytest.param(signature(spec("x", BATCH), spec("s"), outputs=(spec("y", BATCH),)), None, id="a-scalar-input"),
        pytest.param(signature(spec("x", BATCH), outputs=(spec("y"),)), None, id="a-scalar-output"),
        pytest.param(signature(spec("x", BATCH), outputs=(spec("y", 3),)), None, id="a-fixed-output"),
        pytest.param(signature(spec("x", BATCH), outputs=(spec("y", LENGTH),)), None, id="another-symbol"),
        pytest.param(signature(spec("x", 4), outputs=(spec("y", 4),)), None, id="fixed"),
        pytest.param(signature(), None, id="nothing"),
    ],
)
def test_the_batch_dimension_is_first_in_every_input_and_output(checked: Signature, batch: Dim | None) -> None:
    assert checked.batch == batch


def test_a_signature_survives_its_json() -> None:
    guards = (IndexGuard(inputs=("ids",), table="words.weight", low=0, high=None),)
    for whole in (WHOLE, NESTED, NESTED.model_copy(update={"guards": guards})):
        assert Signature.model_validate_json(whole.model_dump_json()) == whole
