"""Requests in protobuf: what is read of them, and how what cannot be answered is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import InvalidBody, InvalidInput, InvalidInputData, UnservedParameter, WrongInputLength
from aoti_serve.protocol.grpc.head import decode_infer_head
from aoti_serve.protocol.grpc.request import cut_request, raw_arrays
from aoti_serve.protocol.messages import RequestHead, SequenceStep
from aoti_serve.signature.tensors import BY_OIP, DTYPES
from tests.unit.protocol.grpc.protobuf import message_class
from tests.unit.protocol.grpc.reference import TYPED, same

LIMITS = GatewayConfig()
FORMS = [pytest.param(dtype.oip, False, id=f"{dtype.torch}-raw") for dtype in DTYPES.values()]
FORMS += [
    pytest.param(datatype, True, id=f"{BY_OIP[datatype].torch}-typed") for datatype in TYPED if datatype in BY_OIP
]


def request(**fields: Any) -> Any:
    return message_class("ModelInferRequest")(**fields)


def tensor(**changes: Any) -> dict[str, Any]:
    """An input called x that fits, but for `changes`."""
    return {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1, 2]}} | changes


def raw_tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [2]} | changes


def head_of(message: Any) -> RequestHead:
    return decode_infer_head(cut_request(message.SerializeToString(), LIMITS).head, LIMITS)


def arrays_of(message: Any) -> list[NDArray[Any]]:
    cut = cut_request(message.SerializeToString(), LIMITS)
    return raw_arrays(decode_infer_head(cut.head, LIMITS), cut.raw)


def head_with(**parameters: dict[str, Any]) -> RequestHead:
    return head_of(request(parameters=parameters))


@pytest.mark.parametrize(("datatype", "typed"), FORMS)
@settings(max_examples=50)
@given(data=st.data())
def test_a_tensor_arrives_value_by_value(datatype: str, typed: bool, data: st.DataObject) -> None:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    sent = data.draw(hnp.arrays(np.dtype(BY_OIP[datatype].numpy), shapes))
    message = request(inputs=[raw_tensor(datatype=datatype, shape=sent.shape)])
    if typed:
        getattr(message.inputs[0].contents, TYPED[datatype]).extend(sent.reshape(-1).tolist())
        message.inputs[0].contents.SetInParent()
    else:
        message.raw_input_contents.append(sent.tobytes())
    [found] = arrays_of(message)
    assert same(found, sent)
    assert found.shape == sent.shape
    assert not found.flags.writeable


def test_raw_tensors_and_packed_floats_are_not_copied() -> None:
    raw = request(inputs=[raw_tensor()], raw_input_contents=[bytes(8)]).SerializeToString()
    many = {"shape": [2000], "contents": {"fp32_contents": [1] * 2000}}
    typed = request(model_name="m", inputs=[tensor(**many), tensor(**many)]).SerializeToString()
    for message in (raw, typed):
        cut = cut_request(message, LIMITS)
        for found in raw_arrays(decode_infer_head(cut.head, LIMITS), cut.raw):
            assert np.shares_memory(found, np.frombuffer(message, np.uint8))


def test_the_head_is_the_same_for_other_tensors_and_another_id() -> None:
    messages = [
        request(model_name="m", id=str(n), inputs=[raw_tensor()], raw_input_contents=[bytes([n] * 8)]) for n in (0, 1)
    ]
    cuts = [cut_request(memoryview(message.SerializeToString()), LIMITS) for message in messages]
    assert [cut.id for cut in cuts] == ["0", "1"]
    assert cuts[0].head == cuts[1].head
    assert hash(cuts[0].head) == hash(cuts[1].head)


def test_a_small_head_does_not_keep_the_message() -> None:
    message = request(inputs=[raw_tensor()], raw_input_contents=[bytes(8)]).SerializeToString()
    assert type(cut_request(message, LIMITS).head) is bytes


def test_raw_contents_may_stand_before_and_between_the_rest() -> None:
    parts = [
        request(raw_input_contents=[bytes(8)]),
        request(inputs=[raw_tensor(name="a")]),
        request(id="7", raw_input_contents=[b"\1" * 8]),
        request(inputs=[raw_tensor(name="b")]),
    ]
    cut = cut_request(b"".join(part.SerializeToString() for part in parts), LIMITS)
    head = decode_infer_head(cut.head, LIMITS)
    assert cut.head == parts[1].SerializeToString() + parts[3].SerializeToString()
    assert [tensor.name for tensor in head.inputs] == ["a", "b"]
    assert [array.tobytes() for array in raw_arrays(head, cut.raw)] == [bytes(8), b"\1" * 8]


def test_whom_a_request_is_for_is_read_before_the_head() -> None:
    named = cut_request(request(model_name="m", model_version="3", id="7").SerializeToString(), LIMITS)
    assert named == ("m", "3", "7", b"", [])
    assert cut_request(b"", LIMITS) == ("", None, None, b"", [])


def test_what_is_asked_of_the_answer_is_read() -> None:
    outputs = [{"name": "a", "parameters": {"binary_data": {"bool_param": True}}}, {"name": "b"}]
    head = head_of(request(outputs=outputs))
    assert (head.outputs, list(head.binary)) == (["a", "b"], ["a"])
    assert head_of(request()) == RequestHead(id=None, binary=[])


def test_priority_timeout_and_binary_data_output_are_read_as_from_json() -> None:
    head = head_with(priority={"uint64_param": 1}, timeout={"int64_param": 1_500_000})
    assert (head.priority, head.timeout) == (1, 1.5)
    assert head_with(binary_data_output={"bool_param": True}).binary_default
    head = head_with(sequence_id={"int64_param": 7}, sequence_start={"bool_param": True})
    assert head.sequence == SequenceStep("7", begins=True)
    assert head_with(sequence_id={"string_param": "a"}).sequence == SequenceStep("'a'", begins=False)
    assert head_with(priority={}, timeout={}, binary_data_output={}) == head_of(request())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", {"int64_param": 10}),
        ("priority", {"int64_param": -1}),
        ("priority", {"double_param": 1}),
        ("timeout", {"string_param": "1"}),
        ("timeout", {"bool_param": True}),
        ("timeout", {"uint64_param": 2**64 - 1}),
        ("binary_data_output", {"string_param": "false"}),
        ("binary_data_output", {"int64_param": 1}),
        ("sequence_id", {"int64_param": -7}),
        ("sequence_start", {"bool_param": True}),
        ("classification", {"int64_param": 3}),
        ("shared_memory_region", {"string_param": "r"}),
        ("headers", {"string_param": "a"}),
        ("triton_x", {"bool_param": True}),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: dict[str, Any]) -> None:
    with pytest.raises((InvalidBody, UnservedParameter), match=name):
        head_with(**{name: value})


def test_nothing_that_was_asked_of_an_output_is_passed_over() -> None:
    output = {"name": "y", "parameters": {"classification": {"int64_param": 3}}}
    with pytest.raises(UnservedParameter, match="parameter 'classification' is not served"):
        head_of(request(outputs=[output]))


def test_shared_memory_is_refused_by_the_inputs_name() -> None:
    with pytest.raises(UnservedParameter, match="'x': parameter 'shared_memory_region'"):
        head_of(request(inputs=[raw_tensor(parameters={"shared_memory_region": {"string_param": "r"}})]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"datatype": "BYTES"}, "hold fp32_contents, and bytes_contents is for BYTES", id="bytes"),
        pytest.param({"datatype": ""}, "datatype '' is not one of", id="no-datatype"),
        pytest.param({"shape": [-1]}, "shape holds -1 where a size belongs", id="negative-size"),
        pytest.param({"shape": [1] * 33}, "shape has 33 sizes", id="rank-33"),
        pytest.param({"shape": [1] * 100_000}, "shape has 100000 sizes", id="rank-100000"),
        pytest.param({"shape": [2**32, 2**32]}, "beyond what a tensor can have", id="huge"),
        pytest.param({"shape": [2**24 + 1, 0]}, "beyond what a tensor can have", id="rows-without-bytes"),
        pytest.param(
            {"datatype": "FP16"}, "send it in raw_input_contents: there are no typed contents of FP16", id="fp16-typed"
        ),
        pytest.param(
            {"datatype": "BF16"}, "send it in raw_input_contents: there are no typed contents of BF16", id="bf16-typed"
        ),
        pytest.param({"datatype": "INT32"}, "hold fp32_contents, and int_contents is for INT32", id="another-field"),
        pytest.param(
            {"contents": {"bytes_contents": [b""]}},
            "hold bytes_contents, and fp32_contents is for FP32",
            id="bytes-field",
        ),
        pytest.param(
            {"datatype": "INT8", "contents": {"int_contents": [1, 128]}},
            "'int_contents' holds values too large for INT8",
            id="above-int8",
        ),
        pytest.param(
            {"datatype": "UINT16", "contents": {"uint_contents": [1, 2**16]}},
            "'uint_contents' holds values too large for UINT16",
            id="above-uint16",
        ),
        pytest.param({"contents": {"fp32_contents": [1]}}, "1 element, shape \\[2\\] needs 2", id="too-few"),
        pytest.param({"contents": {}}, "0 elements, shape \\[2\\] needs 2", id="none"),
        pytest.param({"contents": None}, "neither contents nor raw_input_contents are given", id="nothing"),
        pytest.param(
            {"datatype": "BOOL", "contents": {"bool_contents": [True] * 3}}, "3 elements", id="too-many-bools"
        ),
        pytest.param({"parameters": {"binary_data_size": {"int64_param": 7}}}, "7 bytes", id="another-binary-size"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=f"input 'x': .*{says}"):
        arrays_of(request(inputs=[tensor(**changes)]))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        pytest.param(
            request(inputs=[tensor()], raw_input_contents=[bytes(8)]),
            "input 'x': contents must not be given with raw_input_contents",
            id="both",
        ),
        pytest.param(
            request(inputs=[raw_tensor(name="a"), tensor()], raw_input_contents=[bytes(8)]),
            "input 'x': contents must not be given with raw_input_contents",
            id="mixed",
        ),
        pytest.param(
            request(inputs=[raw_tensor()], raw_input_contents=[bytes(8)] * 2), "2 raw_.* for 1 input$", id="too-many"
        ),
        pytest.param(
            request(inputs=[raw_tensor()] * 2, raw_input_contents=[bytes(8)]), "1 raw_.* for 2 inputs", id="too-few"
        ),
    ],
)
def test_raw_contents_belong_to_all_inputs_or_none(message: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        arrays_of(message)


@pytest.mark.parametrize("size", [0, 7, 4, 12])
def test_raw_contents_of_another_size_than_the_shape_needs_are_refused_by_name(size: int) -> None:
    with pytest.raises(WrongInputLength, match=f"input 'x': {size} bytes, shape \\[2\\] needs 8"):
        arrays_of(request(inputs=[raw_tensor()], raw_input_contents=[bytes(size)]))


def test_a_raw_bool_that_is_neither_0_nor_1_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputData, match="input 'x'"):
        arrays_of(request(inputs=[raw_tensor(datatype="BOOL")], raw_input_contents=[b"\1\2"]))


def test_an_empty_tensor_needs_neither_contents_nor_raw_contents() -> None:
    assert arrays_of(request(inputs=[raw_tensor(shape=[0, 3])]))[0].shape == (0, 3)
