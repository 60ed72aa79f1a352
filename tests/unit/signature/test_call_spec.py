"""A call's nesting: into flat names, and back out of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from aoti_serve.errors import InvalidInputData
from aoti_serve.signature.call_spec import CallSpec

IDS, AGE, FIRST, SECOND, MASK, BIAS = (torch.full((2,), value) for value in range(6))
ARGS = (IDS, {"age": AGE}, [FIRST, SECOND])
NAMED = {"ids": IDS, "user.age": AGE, "items.0": FIRST, "items.1": SECOND, "mask": MASK, "bias": BIAS}


def spec_of(value: Any) -> str:
    return pytree.treespec_dumps(pytree.tree_structure(value))


CALL = CallSpec(spec=spec_of((ARGS, {"mask": MASK, "bias": BIAS})), leaves=tuple(NAMED))
OPTIONAL = CallSpec(spec=spec_of(((IDS, None), {"mask": None})), leaves=("ids", None, None))
RESULT = CallSpec(
    spec=spec_of({"logits": IDS, "more": (None, 3, [AGE, True])}),
    leaves=("logits", None, None, "more.age", None),
    fixed={2: 3, 4: True},
)


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return list(found) == list(expected) and all(found[name] is expected[name] for name in expected)


def test_nested_arguments_become_flat_names() -> None:
    assert same(CALL.flattened(ARGS, {"mask": MASK, "bias": BIAS}), NAMED)


def test_keywords_come_in_any_order() -> None:
    assert same(CALL.flattened(ARGS, {"bias": BIAS, "mask": MASK}), NAMED)


def test_keywords_are_left_as_they_were() -> None:
    kwargs = {"bias": BIAS, "mask": MASK}
    CALL.flattened(ARGS, kwargs)
    assert list(kwargs) == ["bias", "mask"]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((), {}, id="nothing"),
        pytest.param(ARGS, {}, id="no-keywords"),
        pytest.param(ARGS, {"mask": MASK}, id="a-keyword-too-few"),
        pytest.param(ARGS, {"mask": MASK, "bias": BIAS, "more": IDS}, id="a-keyword-too-many"),
        pytest.param(ARGS, {"mask": MASK, "baes": BIAS}, id="a-keyword-of-another-name"),
        pytest.param((*ARGS, MASK), {"bias": BIAS}, id="by-position"),
        pytest.param(ARGS[:2], {"mask": MASK, "bias": BIAS}, id="an-argument-too-few"),
        pytest.param((*ARGS, IDS), {"mask": MASK, "bias": BIAS}, id="an-argument-too-many"),
        pytest.param((IDS, AGE, [FIRST, SECOND]), {"mask": MASK, "bias": BIAS}, id="flat"),
        pytest.param((IDS, {"age": AGE}, (FIRST, SECOND)), {"mask": MASK, "bias": BIAS}, id="a-tuple-for-a-list"),
        pytest.param((IDS, {"old": AGE}, [FIRST, SECOND]), {"mask": MASK, "bias": BIAS}, id="another-key"),
        pytest.param((IDS, {"age": AGE}, [FIRST]), {"mask": MASK, "bias": BIAS}, id="a-shorter-list"),
        pytest.param((IDS, {"age": [AGE]}, [FIRST, SECOND]), {"mask": MASK, "bias": BIAS}, id="deeper"),
    ],
)
def test_a_call_that_is_nested_in_another_way_is_refused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputData, match=r"^input 'arguments': "):
        CALL.flattened(args, kwargs)


def test_what_was_none_at_export_must_be_none() -> None:
    assert same(OPTIONAL.flattened((IDS, None), {"mask": None}), {"ids": IDS})


@pytest.mark.parametrize("value", [MASK, MASK.numpy(), 0, "x", True, float("nan")])
def test_what_was_none_at_export_and_is_not_is_refused(value: Any) -> None:
    for args, kwargs, index in (((IDS, value), {"mask": None}, 1), ((IDS, None), {"mask": value}, 2)):
        with pytest.raises(InvalidInputData, match=f"argument {index} is .*, it was None at export"):
            OPTIONAL.flattened(args, kwargs)


def test_a_value_that_was_fixed_at_export_must_be_the_same() -> None:
    tree = CallSpec(spec=spec_of(((IDS, 3), {})), leaves=("ids", None), fixed={1: 3})
    assert same(tree.flattened((IDS, 3), {}), {"ids": IDS})
    for other in (4, None, "3", MASK):
        with pytest.raises(InvalidInputData, match=r"argument 1 is .*, it was 3 at export"):
            tree.flattened((IDS, other), {})


def test_a_result_is_nested_as_the_modules_own() -> None:
    result = RESULT.nested({"more.age": AGE, "logits": IDS})
    assert list(result) == ["logits", "more"]
    assert result["logits"] is IDS
    assert result["more"] == (None, 3, [AGE, True])
    assert isinstance(result["more"][2], list)


def test_a_single_tensor_is_no_container() -> None:
    assert CallSpec(spec=spec_of(IDS), leaves=("output",)).nested({"output": IDS}) is IDS


def test_a_tree_survives_its_json() -> None:
    for tree in (CALL, OPTIONAL, RESULT, RESULT.model_copy(update={"paths": {"logits": "RESULT['logits']"}})):
        assert CallSpec.model_validate_json(tree.model_dump_json()) == tree


@pytest.mark.parametrize("value", [True, False, 1, 0, -1])
def test_a_fixed_value_survives_its_json_with_its_type(value: Any) -> None:
    tree = CallSpec(spec=spec_of((IDS, value)), leaves=("output_0", None), fixed={1: value})
    found = CallSpec.model_validate_json(tree.model_dump_json()).nested({"output_0": IDS})[1]
    assert (found, type(found)) == (value, type(value))
