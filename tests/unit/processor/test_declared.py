"""What a processor's class declares, and the words for one that will not do."""

from __future__ import annotations

from typing import Any

import pytest

from aoti_serve.config import ProcessorConfig
from aoti_serve.errors import InvalidConfig
from aoti_serve.processor.declared import AFTER, BEFORE, declared
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=(Dim(symbol="batch"),))
OWN = Signature(inputs=(X,), outputs=(X,), constants=())
TEXT = {"name": "text", "dtype": "BYTES", "shape": ["batch=1..8"]}


class OnlyBefore:
    inputs = (TEXT,)

    def before(self, requests: Any) -> Any:
        return requests


class OnlyAfter:
    outputs = (X,)

    def after(self, answers: Any) -> Any:
        return answers


class Nothing:
    pass


class Undeclared:
    def before(self, requests: Any) -> Any:
        return requests


class Unused:
    inputs = (TEXT,)
    outputs = (X,)

    def before(self, requests: Any) -> Any:
        return requests


class Twice(OnlyBefore):
    inputs = (TEXT, TEXT)  # type: ignore[assignment]


class Unknown(OnlyBefore):
    inputs = ({"name": "x", "dtype": "STRING", "shape": []},)


class Bare(OnlyBefore):
    inputs = "text"  # type: ignore[assignment]


not_a_class = OnlyBefore()


def of(name: str) -> ProcessorConfig:
    return ProcessorConfig.model_validate({"class": name if ":" in name else f"{__name__}:{name}"})


def test_what_is_not_declared_is_the_models_own() -> None:
    before, after = declared(of("OnlyBefore"), "m", OWN), declared(of("OnlyAfter"), "m", OWN)
    assert (set(before.steps), set(after.steps)) == ({BEFORE}, {AFTER})
    assert [spec.dtype for spec in before.signature.inputs] == ["BYTES"]
    assert before.signature.outputs == OWN.outputs
    assert after.signature.inputs == OWN.inputs
    assert before.signature.batch is not None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("no_such_module:X", "cannot be imported: ModuleNotFoundError", id="module"),
        pytest.param("NoSuchClass", "cannot be imported: AttributeError", id="class"),
        pytest.param("not_a_class", "is no class", id="no-class"),
        pytest.param("Nothing", "has neither a method `before` nor `after`", id="no-step"),
        pytest.param("Undeclared", "has `before` without `inputs`: it needs both, or neither", id="undeclared"),
        pytest.param("Unused", "has `outputs` without `after`", id="unused"),
        pytest.param("Twice", "two of its `inputs` have one name", id="twice"),
        pytest.param("Unknown", r"inputs\[0\]: dtype: 'STRING' is none of", id="dtype"),
        pytest.param("Bare", "`inputs` must be a list", id="no-list"),
    ],
)
def test_a_class_that_will_not_do_is_refused_by_its_name(name: str, says: str) -> None:
    with pytest.raises(InvalidConfig, match=f"^model 'm': processor: class .*{says}"):
        declared(of(name), "m", OWN)
