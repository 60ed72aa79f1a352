"""V2 request bodies: what is read, what is refused, and that every refusal names the input."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import (
    AotiServeError,
    InvalidBody,
    InvalidInput,
    InvalidInputData,
    JsonTooLarge,
    TooManyTensors,
    UnservedParameter,
    WrongInputLength,
)
from aoti_serve.protocol.decode import arrays_of as arrays_behind
from aoti_serve.protocol.decode import decode_head, head_length
from aoti_serve.protocol.messages import RequestHead, SequenceStep
from aoti_serve.signature.tensors import BY_OIP, BYTES, DTYPES, DType, dtype_named

EVERY_DTYPE = [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values()]
JSON_DTYPES = [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values() if not dtype.raw]


LIMITS = GatewayConfig()
LONGEST = 1024


class InferRequest(NamedTuple):
    """A request in full: `arrays` are its inputs in the head's order."""

    head: RequestHead
    arrays: list[NDArray[Any]]


def decode_request(body: bytes, length: str | None = None, limits: GatewayConfig = LIMITS) -> InferRequest:
    """As a gateway reads it; `length` is the header Inference-Header-Content-Length."""
    split = head_length(body, length)
    head = decode_head(body[:split], limits)
    return InferRequest(head, arrays_behind(head, memoryview(body)[split:]))


def entry(**changes: Any) -> dict[str, Any]:
    """An input called x that fits, but for `changes`."""
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]} | changes


def binary_entry(size: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}} | changes


def message(*inputs: Any, **rest: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **rest}).encode()


def decoded(header: bytes, *tails: bytes) -> InferRequest:
    return decode_request(b"".join([header, *tails]), str(len(header)) if tails else None)


def array_of(request: InferRequest, name: str = "x") -> NDArray[Any]:
    return dict(zip((tensor.name for tensor in request.head.inputs), request.arrays, strict=True))[name]


def arrays_of(dtype: DType, min_side: int = 0, **elements: Any) -> st.SearchStrategy[NDArray[Any]]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=min_side, max_side=4)
    return hnp.arrays(np.dtype(dtype.numpy), shapes, elements=elements or None)


def finite(dtype: DType) -> dict[str, Any]:
    return {"allow_nan": False, "allow_infinity": False} if dtype.torch.startswith("float") else {}


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@settings(max_examples=50)
@given(data=st.data())
def test_binary_data_arrives_bit_by_bit(dtype: DType, data: st.DataObject) -> None:
    sent = data.draw(arrays_of(dtype))
    header = message(binary_entry(sent.nbytes, datatype=dtype.oip, shape=list(sent.shape)))
    request = decoded(header, sent.tobytes())
    [tensor], [array] = request.head.inputs, request.arrays
    assert (tensor.dtype, tensor.shape) == (dtype.torch, sent.shape)
    assert (array.dtype, array.shape) == (sent.dtype, sent.shape)
    assert array.tobytes() == sent.tobytes()


@pytest.mark.parametrize("dtype", JSON_DTYPES)
@settings(max_examples=50)
@given(data=st.data())
def test_json_data_arrives_value_by_value_flat_and_nested(dtype: DType, data: st.DataObject) -> None:
    sent = data.draw(arrays_of(dtype, min_side=1, **finite(dtype)))
    flat, nested = sent.reshape(-1).tolist(), sent.tolist()
    for values in (flat, nested if sent.ndim else flat):
        body = orjson.dumps({"inputs": [entry(datatype=dtype.oip, shape=list(sent.shape), data=values)]})
        found = array_of(decode_request(body))
        assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
        np.testing.assert_array_equal(found, sent)


def test_binary_inputs_lie_one_after_the_other_with_json_between() -> None:
    first, second = np.arange(3, dtype=np.float32), np.arange(4, dtype=np.int64)
    header = message(
        binary_entry(first.nbytes, name="a", shape=[3]),
        entry(name="b"),
        binary_entry(second.nbytes, name="c", shape=[2, 2], datatype="INT64"),
    )
    request = decoded(header, first.tobytes(), second.tobytes())
    assert [tensor.name for tensor in request.head.inputs] == ["a", "b", "c"]
    np.testing.assert_array_equal(array_of(request, "a"), first)
    np.testing.assert_array_equal(array_of(request, "c"), second.reshape(2, 2))


def test_binary_data_is_not_copied() -> None:
    header = message(binary_entry(8))
    body = header + bytes(8)
    request = decode_request(body, str(len(header)))
    assert np.shares_memory(array_of(request), np.frombuffer(body, np.uint8))


def test_a_header_length_of_the_whole_body_is_json_without_a_tail() -> None:
    body = message(entry())
    assert array_of(decode_request(body, str(len(body)))).tolist() == [1, 2]


def test_an_empty_tensor_may_be_sent_either_way() -> None:
    assert array_of(decode_request(message(entry(shape=[0, 3], data=[])))).shape == (0, 3)
    assert array_of(decode_request(message(entry(datatype="INT32", shape=[0], data=[])))).dtype == np.int32
    assert array_of(decode_request(message(entry(shape=[2, 0], data=[[], []])))).shape == (2, 0)
    assert array_of(decoded(message(binary_entry(0, shape=[0, 3])), b"")).shape == (0, 3)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        pytest.param("UINT64", [0, 2**64 - 1], id="uint64-ends"),
        pytest.param("INT64", [-(2**63), 2**63 - 1], id="int64-ends"),
        pytest.param("UINT8", [0, 255], id="uint8-ends"),
        pytest.param("INT8", [-128, 127], id="int8-ends"),
        pytest.param("FP16", [-65504, 65504.0], id="fp16-ends"),
        pytest.param("FP32", [1, 2.5], id="ints-for-floats"),
        pytest.param("BOOL", [True, False], id="bools"),
    ],
)
def test_values_at_the_ends_of_their_type_are_taken(datatype: str, values: list[float]) -> None:
    found = array_of(decode_request(message(entry(datatype=datatype, data=values))))
    assert found.tolist() == values


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        pytest.param("INT32", [1, 2.0], id="float-for-int"),
        pytest.param("INT32", [1, True], id="bool-for-int"),
        pytest.param("INT32", [True, False], id="bools-for-ints"),
        pytest.param("FP32", [1.5, True], id="bool-for-float"),
        pytest.param("FP32", [True, False], id="bools-for-floats"),
        pytest.param("BOOL", [1, 0], id="int-for-bool"),
        pytest.param("BOOL", ["true", "false"], id="string-for-bool"),
        pytest.param("FP32", [1, None], id="null"),
        pytest.param("FP32", ["1", "2"], id="strings"),
        pytest.param("FP32", [1, "2"], id="a-string-among-numbers"),
        pytest.param("FP32", ["NaN", "Infinity"], id="nan-as-string"),
        pytest.param("FP32", [{}, {}], id="objects"),
        pytest.param("UINT8", [0, 256], id="above-uint8"),
        pytest.param("UINT8", [0, -1], id="below-uint8"),
        pytest.param("INT8", [-129, 0], id="below-int8"),
        pytest.param("INT64", [0, 2**63], id="above-int64"),
        pytest.param("UINT64", [-1, 2**63], id="below-uint64"),
        pytest.param("UINT64", [0, 2**64], id="above-uint64"),
        pytest.param("FP16", [0, 65520], id="above-fp16"),
        pytest.param("FP32", [0, 1e39], id="above-fp32"),
        pytest.param("FP32", [[1], [2, 3]], id="ragged"),
        pytest.param("FP32", [1, [2]], id="ragged-depth"),
        pytest.param("FP32", [[1], [2]], id="nested-otherwise"),
        pytest.param("FP32", [[1, 2]], id="nested-too-deep"),
        pytest.param("BF16", [1, 2], id="bf16-has-no-json"),
        pytest.param("FP8_E4M3FN", [1, 2], id="fp8-e4m3fn-has-no-json"),
        pytest.param("FP8_E5M2", [1, 2], id="fp8-e5m2-has-no-json"),
    ],
)
def test_json_data_that_does_not_fit_its_type_is_refused_by_name(datatype: str, values: list[Any]) -> None:
    with pytest.raises(InvalidInputData, match="input 'x'"):
        decode_request(message(entry(datatype=datatype, data=values)))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(entry(datatype="FP8"), id="unknown-datatype"),
        pytest.param(entry(datatype="BYTES"), id="bytes-datatype"),
        pytest.param(entry(datatype="fp32"), id="lowercase-datatype"),
        pytest.param(entry(datatype=None), id="null-datatype"),
        pytest.param(entry(datatype=["FP32"]), id="list-datatype"),
        pytest.param(entry(shape=None), id="no-shape"),
        pytest.param(entry(shape=2), id="shape-not-a-list"),
        pytest.param(entry(shape=[-1]), id="negative-size"),
        pytest.param(entry(shape=[2.0]), id="float-size"),
        pytest.param(entry(shape=[True], data=[1]), id="bool-size"),
        pytest.param(entry(shape=["2"]), id="string-size"),
        pytest.param(entry(shape=[[2]]), id="nested-shape"),
        pytest.param(entry(shape=[1] * 33, data=[1]), id="rank-33"),
        pytest.param(entry(shape=[2**32, 2**32]), id="huge-shape"),
        pytest.param(entry(shape=[0, 2**63], data=[]), id="huge-empty-shape"),
        pytest.param(entry(shape=[2**24 + 1, 0], data=[]), id="rows-without-bytes"),
        pytest.param(entry(shape=[2**64]), id="size-beyond-64-bits"),
        pytest.param(entry(data=None), id="null-data"),
        pytest.param(entry(data=5), id="data-not-a-list"),
        pytest.param(entry(data="12"), id="string-data"),
        pytest.param(entry(data={"0": 1}), id="object-data"),
        pytest.param(entry(data=[1]), id="too-few"),
        pytest.param(entry(data=[1, 2, 3]), id="too-many"),
        pytest.param(entry(data=[[[[]]]]), id="nested-nothing"),
        pytest.param({"name": "x", "datatype": "FP32", "shape": [2]}, id="no-data"),
        pytest.param(entry(parameters=[1]), id="parameters-not-an-object"),
        pytest.param(binary_entry(-1), id="negative-binary-size"),
        pytest.param(binary_entry("8"), id="string-binary-size"),
        pytest.param(binary_entry(8.0), id="float-binary-size"),
        pytest.param(binary_entry(10**30), id="huge-binary-size"),
        pytest.param(binary_entry(8), id="binary-without-a-tail"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused_by_name(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="'x'"):
        decode_request(message(entry(name="before"), broken))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(binary_entry(2**64), id="size"),
        pytest.param(binary_entry(-(2**63) - 1), id="negative-size"),
        pytest.param(entry(shape=[10**30]), id="shape"),
        pytest.param(entry(datatype="INT64", data=[1, 2**64]), id="data"),
        pytest.param(entry(datatype="INT64", data=[1, -(10**30)]), id="negative-data"),
    ],
)
def test_an_integer_beyond_64_bits_is_called_too_large_not_a_float(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputData, match=r"^input 'x': .* a number too large for 64 bits") as caught:
        decode_request(message(broken))
    assert "e+" not in str(caught.value)


@pytest.mark.parametrize(
    ("got", "said"),
    [(1, "input 'x': 1 element, shape [2] needs 2"), (3, "input 'x': 3 elements, shape [2] needs 2")],
)
def test_one_element_is_said_in_the_singular(got: int, said: str) -> None:
    with pytest.raises(WrongInputLength) as caught:
        decode_request(message(entry(data=[0] * got)))
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        pytest.param(7, [2], id="not-whole-elements"),
        pytest.param(4, [2], id="too-few"),
        pytest.param(12, [2], id="too-many"),
        pytest.param(0, [2], id="none"),
        pytest.param(4, [0], id="some-for-an-empty-tensor"),
    ],
)
def test_binary_data_of_another_size_than_the_shape_needs_is_refused_by_name(size: int, shape: list[int]) -> None:
    with pytest.raises(WrongInputLength, match="input 'x'"):
        decoded(message(binary_entry(size, shape=shape)), bytes(size))


def test_a_binary_size_that_is_a_bool_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputData, match="input 'x'"):
        decoded(message(binary_entry(True, datatype="UINT8", shape=[1])), bytes(1))


def test_a_truncated_tail_names_the_input_that_misses_bytes() -> None:
    header = message(binary_entry(8, name="a"), binary_entry(8))
    with pytest.raises(InvalidInputData, match=r"input 'x'.* only 7 bytes left"):
        decoded(header, bytes(15))


def test_bytes_behind_the_last_input_are_refused() -> None:
    with pytest.raises(InvalidBody, match="has 3 bytes behind"):
        decoded(message(binary_entry(8)), bytes(11))


def test_a_bool_that_is_neither_0_nor_1_is_refused_by_name() -> None:
    """The binary extension allows these two bytes only; a C++ bool that holds another is undefined behaviour."""
    with pytest.raises(InvalidInputData, match="input 'x'"):
        decoded(message(binary_entry(2, datatype="BOOL")), b"\x01\x02")


@pytest.mark.parametrize(
    "length",
    [
        pytest.param("", id="empty"),
        pytest.param("-1", id="negative"),
        pytest.param("+5", id="signed"),
        pytest.param("1e1", id="exponent"),
        pytest.param("1_0", id="underscore"),
        pytest.param(" 10", id="space"),
        pytest.param("0x10", id="hex"),
        pytest.param("²", id="a-digit-that-is-no-number"),
        pytest.param("1000000", id="beyond-the-body"),
        pytest.param("9" * 5000, id="more-digits-than-python-reads"),
        pytest.param("10", id="inside-the-json"),
        pytest.param("0", id="zero"),
    ],
)
def test_a_header_length_that_is_wrong_is_refused(length: str) -> None:
    with pytest.raises(InvalidBody):
        decode_request(message(entry()), length)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="not-json"),
        pytest.param(b"\xff\xfe{}", id="not-utf8"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no-inputs"),
        pytest.param(b'{"inputs": null}', id="null-inputs"),
        pytest.param(b'{"inputs": {}}', id="inputs-not-a-list"),
        pytest.param(b'{"inputs": [1]}', id="input-not-an-object"),
        pytest.param(b'{"inputs": [{}]}', id="input-without-a-name"),
        pytest.param(b'{"inputs": [{"name": 1}]}', id="input-name-not-a-string"),
        pytest.param(b'{"inputs": [], "id": 7}', id="id-not-a-string"),
        pytest.param(b'{"inputs": [], "parameters": "x"}', id="parameters-not-an-object"),
        pytest.param(b'{"inputs": [], "outputs": "y"}', id="outputs-not-a-list"),
        pytest.param(b'{"inputs": [], "outputs": ["y"]}', id="output-not-an-object"),
        pytest.param(b'{"inputs": [], "outputs": [{}]}', id="output-without-a-name"),
        pytest.param(b'{"inputs": [], "outputs": [{"name": "y", "parameters": 1}]}', id="output-parameters"),
        pytest.param(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', id="nan"),
        pytest.param(b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1e999]}]}', id="infinite"),
        pytest.param(b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="too-deep"),
        pytest.param(b'{"inputs": []} ' + bytes(8), id="a-tail-without-a-header-length"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBody):
        decode_request(body)


def test_what_is_asked_of_the_answer_is_read() -> None:
    outputs = [
        {"name": "a", "parameters": {"binary_data": True}},
        {"name": "b", "parameters": {"binary_data": False}},
        {"name": "c"},
    ]
    request = decode_request(message(id="42", outputs=outputs)).head
    assert (request.id, request.outputs, list(request.binary)) == ("42", ["a", "b", "c"], ["a"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "parameter 'classification' is not served: a client takes",
            id="class-count",
        ),
        pytest.param(
            {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
            "parameter 'shared_memory_region' is not served: .*send the tensors themselves",
            id="shared-memory",
        ),
        pytest.param(
            {"parameters": {"headers": {"a": "b"}}}, "parameter 'headers' is not served: .*leave it out", id="headers"
        ),
        pytest.param({"parameters": {"triton_x": 1}}, "'triton_x' is not served: .*kept for Triton's own", id="others"),
        pytest.param({"output": [{"name": "y"}]}, "no key 'output'; available: id, inputs, outputs", id="key"),
    ],
)
def test_nothing_that_was_asked_is_passed_over(changes: dict[str, Any], says: str) -> None:
    with pytest.raises((InvalidBody, UnservedParameter), match=says):
        decode_request(message(**changes))


def test_that_an_answer_is_the_final_one_may_be_asked() -> None:
    decode_request(message(parameters={"triton_enable_empty_final_response": True}))


def test_parameters_of_an_input_are_refused_by_its_name() -> None:
    with pytest.raises(UnservedParameter, match=r"^input 'x': parameter 'shared_memory_offset' is not served"):
        decode_request(message(entry(parameters={"shared_memory_offset": 8})))


@pytest.mark.parametrize(
    ("parameters", "step"),
    [
        ({"sequence_id": 7, "sequence_start": True}, SequenceStep("7", begins=True)),
        ({"sequence_id": 2**64 - 1}, SequenceStep(str(2**64 - 1), begins=False)),
        ({"sequence_id": "call 7", "sequence_end": True}, SequenceStep("'call 7'", begins=False)),
        ({"sequence_id": 0, "sequence_start": False}, None),
        ({"sequence_id": "", "sequence_end": None}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_place_in_a_sequence_is_read_as_triton_sends_it(
    parameters: dict[str, Any], step: SequenceStep | None
) -> None:
    assert decode_request(message(parameters=parameters)).head.sequence == step


def test_a_name_and_a_version_in_the_body_are_taken_as_kserves_client_sends_them() -> None:
    assert decode_request(message(id="1", model_name="m", model_version="1")).head.id == "1"


def test_nothing_asked_of_the_answer_means_all_outputs_as_json() -> None:
    request = decode_request(message()).head
    assert (request.id, request.outputs, list(request.binary), request.binary_default) == (None, None, [], False)


def test_binary_data_output_is_the_default_for_all_outputs() -> None:
    assert decode_request(message(parameters={"binary_data_output": True})).head.binary_default


def test_priority_and_timeout_are_read_as_triton_sends_them() -> None:
    head = decode_request(message(parameters={"priority": 1, "timeout": 1_500_000})).head
    assert (head.priority, head.timeout) == (1, 1.5)
    head = decode_request(message(parameters={"priority": 0, "timeout": 0})).head
    assert (head.priority, head.timeout) == (0, None)


def test_a_parameter_that_is_null_is_none() -> None:
    head = decode_request(message(parameters={"priority": None, "timeout": None, "binary_data_output": None})).head
    assert (head.priority, head.timeout, head.binary_default) == (0, None, False)


WRONG_PARAMETERS = [{"priority": 10}, {"priority": -1}, {"timeout": "1"}, {"timeout": True}]
WRONG_PARAMETERS += [{"sequence_id": wrong} for wrong in (-1, 2**64, True, 1.0, [7], "x" * 257)]
WRONG_PARAMETERS += [{"sequence_start": True}, {"sequence_end": True, "sequence_id": 0}, {"sequence_start": 1}]
WRONG_PARAMETERS += [{"binary_data_output": "false"}, {"binary_data_output": 1}]


@pytest.mark.parametrize("parameters", WRONG_PARAMETERS, ids=str)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidBody, match=next(iter(parameters))):
        decode_request(message(parameters=parameters))


def test_strings_do_not_take_more_memory_than_they_have() -> None:
    """As an array of strings, each would take the room of the longest: a body of 40 KB asks for 160 MB."""
    body = message(entry(shape=[2000], data=["a" * 20_000] + [""] * 1999))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="'x'"):
            decode_request(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2**20


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def in_object(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


DEEP = [pytest.param(nested(990), id="lists"), pytest.param(in_object(990), id="objects")]
PLACES = {
    "body": b"%b",
    "inputs": b'{"inputs": %b}',
    "input": b'{"inputs": [%b]}',
    "name": b'{"inputs": [{"name": %b}]}',
    "datatype": b'{"inputs": [{"name": "x", "datatype": %b}]}',
    "shape": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": %b, "data": [1]}]}',
    "size": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [%b], "data": [1]}]}',
    "data": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": %b}]}',
    "element": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [[1], [%b]]}]}',
    "parameters": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": %b}]}',
    "binary-size": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], '
    b'"parameters": {"binary_data_size": %b}}]}',
    "outputs": b'{"inputs": [], "outputs": %b}',
    "output": b'{"inputs": [], "outputs": [%b]}',
    "output-name": b'{"inputs": [], "outputs": [{"name": %b}]}',
    "binary-flag": b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": %b}}]}',
    "id": b'{"inputs": [], "id": %b}',
    "request-parameters": b'{"inputs": [], "parameters": %b}',
    "timeout": b'{"inputs": [], "parameters": {"timeout": %b}}',
    "priority": b'{"inputs": [], "parameters": {"priority": %b}}',
    "binary-default": b'{"inputs": [], "parameters": {"binary_data_output": %b}}',
}
EVERYWHERE = [pytest.param(place, id=name) for name, place in PLACES.items()]


@pytest.mark.parametrize("place", EVERYWHERE)
@pytest.mark.parametrize("deep", DEEP)
def test_what_is_nested_a_thousand_deep_is_refused_in_words_or_not_looked_at(place: bytes, deep: bytes) -> None:
    """orjson reads 1,024 levels; Python's repr of as many is a RecursionError."""
    only_invalid_input(place % deep, None)


@pytest.mark.parametrize("place", EVERYWHERE)
@pytest.mark.parametrize("long", [pytest.param("x", id="ascii"), pytest.param("\N{SNOWMAN}", id="three-bytes-each")])
def test_no_error_is_as_long_as_what_was_sent(place: bytes, long: str) -> None:
    only_invalid_input(place % f'"{long * 20_000}"'.encode(), None)
    only_invalid_input(place % orjson.dumps([long * 9] * 9_000), None)
    only_invalid_input(place % orjson.dumps({long * 9 + str(number): number for number in range(9_000)}), None)


def test_a_shape_of_lists_is_told_so() -> None:
    with pytest.raises(InvalidInputData, match=r"^input 'x': shape holds a list where a size belongs$"):
        decode_request(PLACES["shape"] % nested(900))


def test_data_is_never_nested_deeper_than_its_shape() -> None:
    for shape in ([], [1], [1, 1], [1] * 32):
        with pytest.raises(InvalidInputData, match="nested, but not as its shape"):
            decode_request(message(entry(shape=shape, data=[[]])).replace(b"[[]]", nested(900)))


def test_unequal_nesting_does_not_take_more_memory_than_it_has() -> None:
    """Filled up to a box, 3,000 lists of one element and one of 3,000 would be nine million."""
    data = [[1]] * 3_000 + [list(range(3_000))]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputData, match="'x'"):
            decode_request(message(entry(shape=[3_001, 3_000], data=data)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20


BROKEN = {"name": "x", "datatype": "no such type", "parameters": {"binary_data": "neither"}}


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_too_many_tensors_are_refused_before_one_is_read(what: str) -> None:
    """Each of these is wrong in itself, and would say so."""
    limits = GatewayConfig(max_request_tensors=3)
    with pytest.raises(TooManyTensors, match=rf"^4 {what}, the limit is 3 \(gateway.max_request_tensors\)$"):
        decode_request(message(**{"inputs": [], what: [BROKEN] * 4}), limits=limits)
    with pytest.raises(TooManyTensors, match="100000"):
        decode_request(message(**{"inputs": [], what: [{}] * 100_000}))
    with pytest.raises(InvalidInput, match=r"'x'|binary_data"):
        decode_request(message(**{"inputs": [], what: [BROKEN] * 3}), limits=limits)


@pytest.mark.parametrize("tail", [b"\x00\x00\x80\x3f", b"\x00\x00\x00\x00", b"\xff"])
def test_binary_data_behind_json_of_unknown_length_is_taken_for_that(tail: bytes) -> None:
    with pytest.raises(InvalidBody, match=r"not JSON: .*; where binary data follows it, the header Inference-"):
        decode_request(b'{"inputs": []}' + tail)


def test_a_list_of_inputs_that_is_missing_is_called_that() -> None:
    with pytest.raises(InvalidBody, match=r"^'inputs' is missing: a list"):
        decode_request(b"{}")
    with pytest.raises(InvalidBody, match="'inputs' must be a list"):
        decode_request(b'{"inputs": {}}')


@pytest.mark.parametrize("value", ["[]", "{}", "1", '""', "null", '{"a":1}', "[[1],[2]]"])
def test_what_has_more_values_than_may_be_is_refused_before_it_is_read(value: str) -> None:
    many = GatewayConfig(max_json_values=1_000)
    body = b'{"inputs": [], "id": [%b]}' % b",".join([value.encode()] * 1_000)
    with pytest.raises(JsonTooLarge, match=r"1000 values \(gateway.max_json_values\); send the tensors as binary data"):
        decode_request(body, limits=many)


def test_what_has_more_bytes_of_json_than_may_be_is_refused_before_it_is_read() -> None:
    limits = GatewayConfig(max_json_bytes=100)
    with pytest.raises(JsonTooLarge, match=r"100 bytes \(gateway.max_json_bytes\); send the tensors as binary data"):
        decode_request(b"x" * 101, limits=limits)
    with pytest.raises(InvalidBody, match="not JSON"):
        decode_request(b"x" * 100, limits=limits)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner),
    )
)
def test_values_are_never_counted_too_low(value: Any) -> None:
    body = orjson.dumps({"inputs": value})
    with pytest.raises(AotiServeError) as caught:
        decode_request(body, limits=GatewayConfig(max_json_values=max(1, values_in(value))))
    assert isinstance(caught.value, JsonTooLarge)


def values_in(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + values_in(inner) for inner in value.values())
    return 1 + sum(map(values_in, value)) if isinstance(value, list) else 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(width=64) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
SIZES = st.integers(0, 5) | st.sampled_from([-1, 2**31, 2**48, 2**63, 2**64])
NUMBERS = st.lists(st.integers(-3, 300) | st.floats() | st.booleans() | st.none(), max_size=6)
NEARLY_INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | JSON_VALUES,
        "datatype": st.sampled_from([*BY_OIP, BYTES.oip]) | JSON_VALUES,
        "shape": st.lists(SIZES, max_size=3) | JSON_VALUES,
        "data": NUMBERS | st.lists(NUMBERS, max_size=3) | JSON_VALUES,
        "parameters": st.fixed_dictionaries({"binary_data_size": SIZES | JSON_VALUES}) | JSON_VALUES,
    },
)
NEARLY_REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(NEARLY_INPUTS, max_size=3) | JSON_VALUES},
    optional={
        "id": JSON_VALUES,
        "outputs": st.lists(st.fixed_dictionaries({"name": JSON_VALUES}) | JSON_VALUES, max_size=3) | JSON_VALUES,
        "parameters": JSON_VALUES,
    },
)


def only_invalid_input(body: bytes, header_length: str | None) -> None:
    try:
        request = decode_request(body, header_length)
    except InvalidInput as error:
        assert len(str(error).encode()) <= LONGEST  # noqa: PT017  # of whichever error it is
        return
    for tensor, array in zip(request.head.inputs, request.arrays, strict=True):
        assert array.shape == tensor.shape
        assert array.dtype == np.dtype(dtype_named(tensor.dtype).numpy)


COUNT = pytest.mark.parametrize(
    "count", [300, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)


@COUNT
def test_arbitrary_bytes_raise_only_invalid_input(count: int) -> None:
    @settings(max_examples=count, database=None)
    @given(body=st.binary(), header_length=st.none() | st.text(max_size=8) | st.integers(0, 100).map(str))
    def read(body: bytes, header_length: str | None) -> None:
        only_invalid_input(body, header_length)

    read()


@COUNT
def test_arbitrary_json_raises_only_invalid_input(count: int) -> None:
    @settings(max_examples=count, database=None)
    @given(value=JSON_VALUES | NEARLY_REQUESTS, tail=st.binary(max_size=24), shift=st.integers(-2, 2))
    def read(value: Any, tail: bytes, shift: int) -> None:
        header = json.dumps(value).encode()
        only_invalid_input(header, None)
        only_invalid_input(header + tail, str(max(0, len(header) + shift)))
        only_invalid_input(header + tail, str(len(header)))

    read()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "Infinity", "1e400"])
def test_a_number_that_json_does_not_have_is_to_be_sent_as_binary_data(number: str) -> None:
    with pytest.raises(InvalidBody, match="JSON has no NaN and no infinity: send a tensor with them as binary data"):
        decode_head(f'{{"inputs": [{{"data": [1, {number}]}}]}}'.encode(), LIMITS)


def test_what_is_no_json_for_another_reason_gets_no_advice_on_numbers() -> None:
    with pytest.raises(InvalidBody) as caught:
        decode_head(b'{"inputs": [', LIMITS)
    assert "binary" not in str(caught.value)


def test_a_key_that_would_be_passed_over_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputData, match="input 'x': an input has no key 'dtype'; available: name, datatype"):
        decode_head(message(entry(dtype="FP32")), LIMITS)
    with pytest.raises(InvalidBody, match="output 'y' has no key 'top'; available: name, parameters"):
        decode_head(message(entry(), outputs=[{"name": "y", "top": 3}]), LIMITS)


@pytest.mark.parametrize(("data", "shown"), [(None, "null"), (True, "true"), ([[None]], "null"), ([["a"]], "'a'")])
def test_what_was_sent_is_quoted_as_json(data: object, shown: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_head(message(entry(data=data, shape=[1, 1])), LIMITS)
    assert f"{shown}, " in str(caught.value)
