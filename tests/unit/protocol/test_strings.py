"""BYTES in JSON, binary data and protobuf."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from aoti_serve.config import BatchingConfig, GatewayConfig
from aoti_serve.errors import InvalidBody, InvalidInput
from aoti_serve.processor.declared import ProcessorTensor
from aoti_serve.protocol import strings
from aoti_serve.protocol.decode import arrays_of, decode_head
from aoti_serve.protocol.encode import encode_response, takes_long
from aoti_serve.protocol.grpc.head import decode_infer_head
from aoti_serve.protocol.grpc.request import cut_request, raw_arrays
from aoti_serve.protocol.grpc.response import encode_infer_response
from aoti_serve.protocol.messages import InferResponse, RequestHead, model_metadata
from aoti_serve.protocol.openapi import example_request, request_schema
from aoti_serve.protocol.triton import model_config
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.strings import strings_of
from aoti_serve.signature.tensors import Dim
from tests.unit.protocol.grpc.protobuf import message_class, parsed

SPEC = ProcessorTensor(name="x", dtype="BYTES", shape=(2,))
STRINGS = st.lists(st.binary(max_size=9), max_size=9)


def entry(count: int, **rest: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "BYTES", "shape": [count]} | rest


def read(entry: dict[str, Any], tail: bytes = b"") -> Any:
    [found] = arrays_of(decode_head(orjson.dumps({"inputs": [entry]}), GatewayConfig()), memoryview(tail))
    return found.tolist()


def raw(values: list[bytes]) -> bytes:
    return strings.raw_strings(strings_of(values, (len(values),)))


def answer(values: list[bytes]) -> InferResponse:
    return InferResponse("m", 1, None, [(SPEC, strings_of(values, (len(values),)))])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=9), max_size=9))
def test_text_comes_and_leaves_as_json(values: list[str]) -> None:
    held = [value.encode() for value in values]
    assert read(entry(len(values), data=values)) == held
    [output] = orjson.loads(encode_response(answer(held), RequestHead(None)).pieces[0])["outputs"]
    assert (output["datatype"], output["data"]) == ("BYTES", values)


def test_nested_text_is_taken() -> None:
    tensor = {"name": "x", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b"]]}
    assert read(tensor) == [[b"a"], [b"b"]]


@settings(max_examples=50, deadline=None)
@given(STRINGS)
def test_any_bytes_come_and_leave_as_binary_data(values: list[bytes]) -> None:
    tail = raw(values)
    assert read(entry(len(values), parameters={"binary_data_size": len(tail)}), tail) == values
    encoded = encode_response(answer(values), RequestHead(None, binary_default=True))
    body = b"".join(encoded.pieces)
    assert encoded.header_length is not None
    [output] = orjson.loads(body[: encoded.header_length])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(tail)}
    assert body[encoded.header_length :] == tail


@settings(max_examples=50, deadline=None)
@given(values=STRINGS, typed=st.booleans())
def test_any_bytes_come_and_leave_over_grpc(values: list[bytes], typed: bool) -> None:
    message = message_class("ModelInferRequest")(model_name="m")
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[len(values)])
    if typed:
        tensor.contents.bytes_contents.extend(values)
        tensor.contents.SetInParent()
    else:
        message.raw_input_contents.append(raw(values))
    cut = cut_request(message.SerializeToString(), GatewayConfig())
    [found] = raw_arrays(decode_infer_head(cut.head, GatewayConfig()), cut.raw)
    assert found.tolist() == values
    written = parsed("ModelInferResponse", encode_infer_response(answer(values)))
    assert written is not None
    [content] = written.raw_output_contents
    assert content == raw(values)


@pytest.mark.parametrize(
    ("count", "tail", "says"),
    [
        pytest.param(1, b"\5\0\0\0abc", "string 0 is longer than the data behind it", id="cut-off"),
        pytest.param(2, b"\1\0\0\0a", r"1 string, shape \[2\] needs 2", id="too-few"),
        pytest.param(1, b"\1\0\0\0a\0\0\0\0", "4 bytes are behind its 1 strings", id="too-many"),
        pytest.param(1, b"\1\0", r"0 strings, shape \[1\] needs 1", id="half-a-length"),
        pytest.param(1, b"\xff\xff\xff\xff", "longer than the data", id="4-gb"),
        pytest.param(2**18 + 1, b"", "262145 strings, the limit is 262144", id="very-many"),
    ],
)
def test_binary_data_that_are_no_strings_are_refused_by_name(count: int, tail: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"input 'x': .*{says}"):
        read(entry(count, parameters={"binary_data_size": len(tail)}), tail)


@pytest.mark.parametrize(
    "data", [pytest.param([1], id="number"), pytest.param([None], id="null"), pytest.param([], id="few")]
)
def test_json_that_is_no_text_is_refused_by_name(data: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="input 'x'"):
        read(entry(1, data=data))


def test_bytes_that_are_no_text_do_not_leave_as_json() -> None:
    with pytest.raises(InvalidBody, match=r"output 'x' holds bytes that are no UTF-8.* as binary data"):
        encode_response(answer([b"\xff"]), RequestHead(None))


def test_much_text_is_written_beside_the_event_loop() -> None:
    assert takes_long(answer([b"x" * 2**21]), RequestHead(None))
    assert not takes_long(answer([b"x" * 2**10]), RequestHead(None))
    assert not takes_long(InferResponse("m", 1, None, [(SPEC, np.empty(0, object))]), RequestHead(None))


def test_a_model_that_takes_text_is_described_as_such() -> None:
    batch = Dim(symbol="batch", min=1)
    text = ProcessorTensor(name="text", dtype="BYTES", shape=(batch,))
    signature = Signature(inputs=(text,), outputs=(text,), constants=())
    [example] = example_request(signature)["inputs"]
    assert example == {"name": "text", "datatype": "BYTES", "shape": [1], "data": [""]}
    validator = Draft202012Validator(request_schema(signature))
    assert validator.is_valid(example_request(signature))
    assert not validator.is_valid({"inputs": [example | {"data": [1]}]})
    assert model_config("m", signature, BatchingConfig())["input"][0]["data_type"] == "TYPE_STRING"
    assert model_metadata("m", [1], signature.inputs, signature.outputs)["inputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [-1], "parameters": {"dim_0": "batch", "dim_0_min": 1}}
    ]
