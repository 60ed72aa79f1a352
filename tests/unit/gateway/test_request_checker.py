"""What a request's head asks of a model: checked once, whatever comes behind it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import (
    AotiServeError,
    EmptyRows,
    InvalidInput,
    InvalidInputData,
    MissingInput,
    RepeatedOutput,
    TooManyRows,
    UnknownInput,
    UnknownOutput,
    WrongInputDtype,
    WrongInputShape,
)
from aoti_serve.gateway.request_checker import RequestChecker
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from tests.unit.protocol.grpc.protobuf import message_class

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


def checker_of(signature: Signature, **limits: int) -> RequestChecker:
    return RequestChecker(signature, GatewayConfig.model_validate(limits))


def head(*inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": inputs, **rest}).encode()


def x(rows: int = 2, **changes: Any) -> dict[str, Any]:
    size = {"binary_data_size": rows * 8}
    return {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": size} | changes


def n(rows: int = 2, **changes: Any) -> dict[str, Any]:
    size = {"binary_data_size": rows * 8}
    return {"name": "n", "datatype": "INT64", "shape": [rows], "parameters": size} | changes


def test_inputs_are_found_in_the_signatures_order_whatever_the_clients() -> None:
    assert checker_of(SIGNATURE).read(head(n(), x())).order == (1, 0)
    assert checker_of(SIGNATURE).read(head(n(name="INPUT__1"), x(name="INPUT__0"))).order == (1, 0)


def test_outputs_are_those_that_were_asked_for_in_that_order() -> None:
    asked = [{"name": "OUTPUT__1", "parameters": {"binary_data": True}}, {"name": "y"}]
    checked = checker_of(SIGNATURE).read(head(x(), n(), outputs=asked))
    assert [(place, spec.name) for place, spec in checked.outputs] == [(1, "z"), (0, "y")]
    assert [checked.head.wants_binary(spec.name) for _, spec in checked.outputs] == [True, False]
    assert [place for place, _ in checker_of(SIGNATURE).read(head(x(), n())).outputs] == [0, 1]


def test_the_same_head_is_read_once() -> None:
    checker = checker_of(SIGNATURE)
    assert checker.read(head(x(), n())) is checker.read(head(x(), n()))
    assert checker.read(head(x(), n(), id="a")).head.id == "a"
    assert checker.read(head(x(), n(), id="b")).head.id == "b"


def test_a_large_head_is_not_kept() -> None:
    checker = checker_of(SIGNATURE)
    large = head(x(), n(), id="x" * 5000)
    assert checker.read(large) is not checker.read(large)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        pytest.param(head(x()), MissingInput, id="missing"),
        pytest.param(head(x(), n(datatype="INT32", parameters={"binary_data_size": 8})), WrongInputDtype, id="dtype"),
        pytest.param(head(x(), n(3)), WrongInputShape, id="unequal-batches"),
        pytest.param(head(x(0), n(0)), WrongInputShape, id="too-few-rows"),
        pytest.param(head(x(), n(), x(name="INPUT__0")), InvalidInputData, id="twice"),
        pytest.param(head(x(), n(), x()), InvalidInputData, id="twice-by-one-name"),
        pytest.param(head(x(), n(), outputs=[{"name": "w"}]), UnknownOutput, id="output"),
        pytest.param(head(x(), n(), outputs=[{"name": "y"}, {"name": "OUTPUT__0"}]), RepeatedOutput, id="output-twice"),
    ],
)
def test_what_does_not_fit_is_refused_each_time(message: bytes, error: type[Exception]) -> None:
    checker = checker_of(SIGNATURE)
    for _ in range(2):
        with pytest.raises(error):
            checker.read(message)


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param({"data": [1.0], "parameters": {}}, id="elements"),
        pytest.param({"parameters": {"binary_data_size": 1}}, id="bytes"),
        pytest.param({"datatype": "FP8"}, id="datatype"),
        pytest.param({"shape": "x"}, id="shape"),
    ],
)
def test_an_unknown_name_is_said_before_any_other_mistake_of_its_input(mistake: dict[str, Any]) -> None:
    with pytest.raises(UnknownInput, match=r"^input 'xs': the model has no such input; available: x, n$"):
        checker_of(SIGNATURE).read(head(x(name="xs", **mistake), n()))
    for name in ("x", "INPUT__0"):
        with pytest.raises(InvalidInput, match=f"input '{name}': ") as caught:
            checker_of(SIGNATURE).read(head(x(name=name, **mistake), n()))
        assert not isinstance(caught.value, UnknownInput)


def test_an_unknown_name_is_said_first_over_grpc_as_well() -> None:
    message = message_class("ModelInferRequest")(model_name="m")
    message.inputs.add(name="xs", datatype="FP32", shape=[1, 2]).contents.fp32_contents.append(1.0)
    with pytest.raises(UnknownInput, match=r"^input 'xs'"):
        checker_of(SIGNATURE).read_protobuf(message.SerializeToString())


@pytest.mark.parametrize(
    ("datatype", "data", "says"),
    [
        ("INT32", [0.1, 1.0], "datatype INT32, the model takes FP32"),
        ("INT8", [1, 300], "datatype INT8, the model takes FP32"),
        ("BF16", [1, 2], "datatype BF16, the model takes FP32"),
        ("BYTES", [0.1, 0.2], "BYTES are strings, and a compiled model takes numbers only"),
        ("FP32", [True, False], "'data' holds true, which is not FP32"),
    ],
)
@pytest.mark.parametrize("name", ["x", "INPUT__0"])
def test_a_datatype_that_the_model_does_not_take_is_said_before_what_its_data_holds(
    datatype: str, data: list[Any], says: str, name: str
) -> None:
    sent = {"name": name, "datatype": datatype, "shape": [1, 2], "data": data}
    with pytest.raises(InvalidInput, match=re.escape(says)):
        checker_of(SIGNATURE).read(head(sent, n()))


def test_a_datatype_that_the_model_does_not_take_is_said_first_over_grpc_as_well() -> None:
    message = message_class("ModelInferRequest")(model_name="m")
    message.inputs.add(name="x", datatype="INT32", shape=[1, 2]).contents.fp32_contents.extend([0.1, 0.2])
    with pytest.raises(WrongInputDtype, match="datatype INT32, the model takes FP32"):
        checker_of(SIGNATURE).read_protobuf(message.SerializeToString())


def test_more_rows_than_the_model_takes_are_no_error_here() -> None:
    """The batcher splits them."""
    assert checker_of(SIGNATURE).read(head(x(100), n(100))).head.inputs[0].shape == (100, 2)


def test_an_output_is_answered_once_and_an_empty_list_means_all() -> None:
    checked = checker_of(SIGNATURE).read(head(x(), n(), outputs=[]))
    assert [place for place, _ in checked.outputs] == [0, 1]
    asked = [{"name": "z", "parameters": {"binary_data": True}}, {"name": "z"}]
    with pytest.raises(RepeatedOutput, match=r"^output 'z': asked for twice$"):
        checker_of(SIGNATURE).read(head(x(), n(), outputs=asked))


def test_a_request_has_a_largest_number_of_rows() -> None:
    checker = checker_of(SIGNATURE, max_request_rows=100)
    assert checker.read(head(x(100), n(100))).order == (0, 1)
    with pytest.raises(TooManyRows, match=r"^101 rows, the limit is 100 \(gateway.max_request_rows\)$"):
        checker.read(head(x(101), n(101)))


TOKENS = TensorSpec(name="tokens", dtype="int64", shape=(BATCH, Dim(symbol="length")))
LABELS = TensorSpec(name="labels", dtype="int64", shape=(BATCH,))
TEXTS = Signature(inputs=(TOKENS,), outputs=(LABELS,), constants=())


def empty(*shape: int, name: str = "tokens") -> dict[str, Any]:
    return {"name": name, "datatype": "INT64", "shape": list(shape), "data": []}


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        pytest.param([140_737_488_355_328, 0], InvalidInputData, id="2**47-rows"),
        pytest.param([2**24, 0], TooManyRows, id="2**24-rows"),
        pytest.param([64, 0], EmptyRows, id="64-rows"),
        pytest.param([1, 0], EmptyRows, id="one-row"),
    ],
)
def test_rows_without_bytes_are_refused(shape: list[int], error: type[Exception]) -> None:
    """A client that sends no byte for a row could send any number of them."""
    with pytest.raises(error):
        checker_of(TEXTS).read(head(empty(*shape)))


def test_an_input_may_be_empty_if_its_rows_have_bytes_elsewhere() -> None:
    both = Signature(inputs=(TOKENS, LABELS), outputs=(LABELS,), constants=())
    labels = {"name": "labels", "datatype": "INT64", "shape": [2], "data": [1, 2]}
    assert checker_of(both).read(head(empty(2, 0), labels)).order == (0, 1)


def test_no_rows_are_no_error_where_the_model_takes_none() -> None:
    batch = Dim(symbol="batch")
    none = Signature(
        inputs=(TensorSpec(name="tokens", dtype="int64", shape=(batch, 3)),),
        outputs=(TensorSpec(name="labels", dtype="int64", shape=(batch,)),),
        constants=(),
    )
    assert checker_of(none).read(head(empty(0, 3))).order == (0,)


NAMES = st.sampled_from(["x", "n", "INPUT__0", "INPUT__1", "y", "z", "OUTPUT__0", "x" * 3000, ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.integers(-(2**70), 2**70) | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
INPUT = {
    "name": NAMES | JSON,
    "datatype": st.sampled_from(["FP32", "INT64"]) | JSON,
    "shape": st.sampled_from([[1, 2], [1], [0, 2], [2**40, 0]]) | JSON,
    "data": st.sampled_from([[1, 2], [[1, 2]], [1], []]) | JSON,
    "parameters": st.none() | JSON,
}
OUTPUT = {"name": NAMES | JSON, "parameters": st.none() | st.just({"binary_data": True}) | JSON}
REQUEST = {
    "inputs": st.lists(st.fixed_dictionaries({}, optional=INPUT) | JSON, max_size=3) | JSON,
    "outputs": st.none() | st.lists(st.fixed_dictionaries({}, optional=OUTPUT), max_size=3) | JSON,
    "parameters": st.none() | JSON,
    "id": st.none() | JSON,
}


@settings(max_examples=500)
@given(request=st.fixed_dictionaries({}, optional=REQUEST) | JSON)
def test_any_json_is_a_request_or_is_refused_in_few_words(request: Any) -> None:
    try:
        checked = checker_of(SIGNATURE).read(json.dumps(request).encode())
    except AotiServeError as error:
        refused = error
    else:
        assert sorted(checked.order) == [0, 1]
        assert len({place for place, _ in checked.outputs}) == len(checked.outputs)
        return
    assert refused.http_status == 400
    assert len(str(refused).encode()) <= 1024
