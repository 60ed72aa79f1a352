"""What a request's head asks of a model: checked once, whatever comes behind it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aoti_serve.errors import InvalidInputData, MissingInput, UnknownOutput, WrongInputDtype, WrongInputShape
from aoti_serve.gateway.plan import Planner
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import Dim, TensorSpec

BATCH = Dim(symbol="batch", min=1, max=8)
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(BATCH, 2)),
        TensorSpec(name="n", dtype="int64", shape=(BATCH,)),
    ),
    outputs=(
        TensorSpec(name="y", dtype="float32", shape=(BATCH, 2)),
        TensorSpec(name="z", dtype="float32", shape=(BATCH,)),
    ),
    constants=(),
)


def head(*inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": inputs, **rest}).encode()


def x(rows: int = 2, **changes: Any) -> dict[str, Any]:
    size = {"binary_data_size": rows * 8}
    return {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": size} | changes


def n(rows: int = 2, **changes: Any) -> dict[str, Any]:
    size = {"binary_data_size": rows * 8}
    return {"name": "n", "datatype": "INT64", "shape": [rows], "parameters": size} | changes


def test_inputs_are_found_in_the_signatures_order_whatever_the_clients() -> None:
    assert Planner(SIGNATURE).plan(head(n(), x())).order == (1, 0)
    assert Planner(SIGNATURE).plan(head(n(name="INPUT__1"), x(name="INPUT__0"))).order == (1, 0)


def test_outputs_are_those_that_were_asked_for_in_that_order() -> None:
    asked = [{"name": "OUTPUT__1", "parameters": {"binary_data": True}}, {"name": "y"}]
    plan = Planner(SIGNATURE).plan(head(x(), n(), outputs=asked))
    assert [(place, spec.name) for place, spec in plan.outputs] == [(1, "z"), (0, "y")]
    assert [plan.head.wants_binary(spec.name) for _, spec in plan.outputs] == [True, False]
    assert [place for place, _ in Planner(SIGNATURE).plan(head(x(), n())).outputs] == [0, 1]


def test_the_same_head_is_read_once() -> None:
    planner = Planner(SIGNATURE)
    assert planner.plan(head(x(), n())) is planner.plan(head(x(), n()))
    assert planner.plan(head(x(), n(), id="a")).head.id == "a"
    assert planner.plan(head(x(), n(), id="b")).head.id == "b"


def test_a_large_head_is_not_kept() -> None:
    planner = Planner(SIGNATURE)
    large = head(x(), n(), id="x" * 5000)
    assert planner.plan(large) is not planner.plan(large)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        pytest.param(head(x()), MissingInput, id="missing"),
        pytest.param(head(x(), n(datatype="INT32", parameters={"binary_data_size": 8})), WrongInputDtype, id="dtype"),
        pytest.param(head(x(), n(3)), WrongInputShape, id="unequal-batches"),
        pytest.param(head(x(0), n(0)), WrongInputShape, id="too-few-rows"),
        pytest.param(head(x(), n(), x(name="INPUT__0")), InvalidInputData, id="twice"),
        pytest.param(head(x(), n(), outputs=[{"name": "w"}]), UnknownOutput, id="output"),
    ],
)
def test_what_does_not_fit_is_refused_each_time(message: bytes, error: type[Exception]) -> None:
    planner = Planner(SIGNATURE)
    for _ in range(2):
        with pytest.raises(error):
            planner.plan(message)


def test_more_rows_than_the_model_takes_are_no_error_here() -> None:
    """The batcher splits them."""
    assert Planner(SIGNATURE).plan(head(x(100), n(100))).head.inputs[0].shape == (100, 2)
