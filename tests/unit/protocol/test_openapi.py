"""What OpenAPI says of a model's requests and answers agrees with what is read and written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from jsonschema import Draft202012Validator

from aoti_serve.config import GatewayConfig
from aoti_serve.protocol.decode import decode_head
from aoti_serve.protocol.encode import encode_response
from aoti_serve.protocol.messages import InferResponse, RequestHead
from aoti_serve.protocol.openapi import EXAMPLE_ELEMENTS, example_request, request_schema, response_schema
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import DTYPES, Dim, Shaped, TensorSpec

BATCH = Dim(symbol="batch", min=1, max=8)


def signature(dtype: str = "float32", *shape: int | Dim) -> Signature:
    made = (BATCH, *(shape or (2,)))
    inputs = (TensorSpec(name="x", dtype=dtype, shape=made),)
    return Signature(inputs=inputs, outputs=(TensorSpec(name="y", dtype=dtype, shape=made),), constants=())


def fits(found: Signature, request: Any) -> bool:
    return bool(Draft202012Validator(request_schema(found)).is_valid(request))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_example_is_a_request_that_the_model_takes(dtype: str) -> None:
    found = signature(dtype, Dim(symbol="length", min=3), 2)
    request = example_request(found)
    assert fits(found, request)
    head = decode_head(json.dumps(request).encode(), GatewayConfig())
    found.check_inputs({tensor.name: Shaped(tensor.dtype, tensor.shape) for tensor in head.inputs})
    assert head.inputs[0].shape == (1, 3, 2)
    assert (head.inputs[0].array is None) == DTYPES[dtype].raw


def test_an_example_of_very_many_numbers_has_them_behind_it() -> None:
    (small,) = example_request(signature("float32", EXAMPLE_ELEMENTS))["inputs"]
    (large,) = example_request(signature("float32", EXAMPLE_ELEMENTS + 1))["inputs"]
    assert len(small["data"]) == EXAMPLE_ELEMENTS
    assert (large.get("data"), large["parameters"]) == (None, {"binary_data_size": 4 * EXAMPLE_ELEMENTS + 4})


ENTRY = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({}, True),
        ({"name": "INPUT__0"}, True),
        ({"data": [[1, 2.5]]}, True),
        ({"shape": [100, 2]}, True),  # beyond a batch: it is split
        ({"name": "z"}, False),
        ({"datatype": "FP64"}, False),
        ({"shape": [1]}, False),
        ({"shape": [1, 3]}, False),
        ({"shape": [0, 2]}, False),
        ({"data": ["a", "b"]}, False),
        ({"data": None}, False),
        ({"parameters": {"binary_data_size": -8}}, False),
    ],
)
def test_a_request_is_valid_as_far_as_a_schema_can_tell(changes: dict[str, Any], valid: bool) -> None:
    assert fits(signature(), {"inputs": [ENTRY | changes]}) == valid


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"inputs": []},
        {"inputs": [ENTRY, ENTRY]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]},
        {"inputs": [ENTRY], "input": []},
        {"inputs": [ENTRY], "outputs": [{"name": "z"}]},
        {"inputs": [ENTRY], "parameters": {"priority": 10}},
        {"inputs": [ENTRY], "parameters": {"timeout": "1"}},
        {"inputs": [ENTRY], "id": 5},
    ],
)
def test_what_is_refused_is_not_valid(request_: dict[str, Any]) -> None:
    assert not fits(signature(), request_)


@pytest.mark.parametrize(("datatype", "least", "most"), [("int8", -128, 127), ("uint64", 0, 2**64 - 1)])
def test_an_integer_has_the_bounds_of_its_type(datatype: str, least: int, most: int) -> None:
    found = signature(datatype)
    entry = {"name": "x", "datatype": DTYPES[datatype].oip, "shape": [1, 2]}
    assert fits(found, {"inputs": [entry | {"data": [least, most]}]})
    for wrong in (least - 1, most + 1, 0.5, True):
        assert not fits(found, {"inputs": [entry | {"data": [0, wrong]}]})


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_answer_is_what_its_schema_says(dtype: str, binary: bool) -> None:
    found = signature(dtype)
    array = np.ones((20, 2), DTYPES[dtype].numpy)
    if array.dtype.kind == "f":
        array[0, 0] = np.nan
    response = InferResponse("m", 3, "mine", [(found.outputs[0], array)])
    encoded = encode_response(response, RequestHead(None, binary_default=binary))
    head = orjson.loads(b"".join(encoded.pieces)[: encoded.header_length])
    Draft202012Validator(response_schema("m", found)).validate(head)
    assert not Draft202012Validator(response_schema("n", found)).is_valid(head)
