"""V2 responses: each output in the form that was asked for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aoti_serve.protocol.encode import JOINED_BODY_BYTES, STEP, Encoded, encode_response, takes_long
from aoti_serve.protocol.messages import InferResponse, RequestHead
from aoti_serve.signature.tensors import DTYPES, DType, TensorSpec

EVERY_DTYPE = [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values()]
JSON_DTYPES = [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values() if not dtype.raw]
AS_JSON = RequestHead(id=None)
AS_BINARY = RequestHead(id=None, binary_default=True)


def spec(name: str = "y", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=())


def response(*outputs: tuple[TensorSpec, NDArray[Any]]) -> InferResponse:
    return InferResponse("m", 3, None, list(outputs))


def body_of(encoded: Encoded) -> bytes:
    return b"".join(encoded.pieces)


def header_of(encoded: Encoded) -> Any:
    return json.loads(body_of(encoded)[: encoded.header_length])


def arrays_of(dtype: DType, *, finite: bool) -> st.SearchStrategy[NDArray[Any]]:
    limits = {"allow_nan": False, "allow_infinity": False} if finite and dtype.torch.startswith("float") else None
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return hnp.arrays(np.dtype(dtype.numpy), shapes, elements=limits)


def test_large_binary_outputs_are_not_copied() -> None:
    array = np.arange(JOINED_BODY_BYTES, dtype=np.float32)
    encoded = encode_response(response((spec(), array), (spec("z"), array[:1])), AS_BINARY)
    array[:] = 7  # as seen in the body, which is a view
    assert body_of(encoded)[encoded.header_length :] == array.tobytes() + array[:1].tobytes()


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@settings(max_examples=50)
@given(data=st.data())
def test_binary_outputs_leave_bit_by_bit(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays_of(dtype, finite=False))
    encoded = encode_response(response((spec(dtype=dtype.torch), array)), AS_BINARY)
    [entry] = header_of(encoded)["outputs"]
    assert entry == {
        "name": "y",
        "datatype": dtype.oip,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    assert body_of(encoded)[encoded.header_length :] == array.tobytes()


@pytest.mark.parametrize("dtype", JSON_DTYPES)
@settings(max_examples=50)
@given(data=st.data())
def test_json_outputs_leave_value_by_value(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays_of(dtype, finite=True))
    encoded = encode_response(response((spec(dtype=dtype.torch), array)), AS_JSON)
    assert encoded.header_length is None
    [entry] = header_of(encoded)["outputs"]
    assert (entry["datatype"], entry["shape"]) == (dtype.oip, list(array.shape))
    assert "parameters" not in entry
    np.testing.assert_array_equal(np.array(entry["data"], array.dtype), array.reshape(-1))


@pytest.mark.parametrize(
    ("dtype", "bits", "numbers"),
    [
        pytest.param(
            "bfloat16", np.array([0x3F80, 0xBF80, 0x4049, 0x0000], np.uint16), [1.0, -1.0, 3.140625, 0.0], id="bfloat16"
        ),
        pytest.param("bfloat16", np.array([0x7F80, 0xFF80, 0x7FC0], np.uint16), [None] * 3, id="bfloat16-not-finite"),
        pytest.param(
            "float8_e4m3fn", np.array([0x38, 0xB8, 0x7E, 0x7F], np.uint8), [1.0, -1.0, 448.0, None], id="float8_e4m3fn"
        ),
        pytest.param(
            "float8_e5m2", np.array([0x3C, 0xBC, 0x34, 0x7C], np.uint8), [1.0, -1.0, 0.25, None], id="float8_e5m2"
        ),
    ],
)
def test_raw_types_are_written_as_numbers_in_json(dtype: str, bits: NDArray[Any], numbers: list[float | None]) -> None:
    encoded = encode_response(response((spec(dtype=dtype), bits)), AS_JSON)
    assert header_of(encoded)["outputs"][0]["data"] == numbers


def test_what_is_not_finite_is_null_in_json() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    encoded = encode_response(response((spec(), array)), AS_JSON)
    assert header_of(encoded)["outputs"][0]["data"] == [None, None, None, 1.0]


def test_only_the_outputs_that_were_asked_as_binary_are_binary() -> None:
    request = RequestHead(id=None, outputs=["a", "b", "c"], binary=["c", "a"])
    a, b, c = (np.full(size, size, np.int16) for size in (1, 2, 3))
    outputs = [(spec("a", "int16"), a), (spec("b", "int16"), b), (spec("c", "int16"), c)]
    encoded = encode_response(response(*outputs), request)
    forms = [(entry["name"], "data" in entry) for entry in header_of(encoded)["outputs"]]
    assert forms == [("a", False), ("b", True), ("c", False)]
    assert body_of(encoded)[encoded.header_length :] == a.tobytes() + c.tobytes()


@pytest.mark.parametrize("asked", [pytest.param(AS_JSON, id="json"), pytest.param(AS_BINARY, id="binary")])
@pytest.mark.parametrize("step", [pytest.param(1, id="transposed"), pytest.param(2, id="every-second")])
def test_strides_do_not_show(asked: RequestHead, step: int) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::step]
    plain = encode_response(response((spec(), np.ascontiguousarray(array))), asked)
    assert encode_response(response((spec(), array)), asked) == plain


def test_an_empty_binary_output_still_has_a_header_length() -> None:
    encoded = encode_response(response((spec(), np.empty((0, 4), np.float32))), AS_BINARY)
    assert encoded.header_length == len(body_of(encoded))


def test_the_answer_says_model_version_and_id() -> None:
    answer = header_of(encode_response(InferResponse("digits", 7, "abc", []), AS_JSON))
    assert answer == {"model_name": "digits", "model_version": "7", "id": "abc", "outputs": []}


def test_an_id_that_was_not_sent_is_not_answered() -> None:
    assert "id" not in header_of(encode_response(response(), AS_JSON))


@pytest.mark.parametrize("size", [STEP, STEP + 1, 3 * STEP])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int64"])
def test_a_large_output_is_written_a_step_at_a_time_and_says_the_same(size: int, dtype: str) -> None:
    array = (np.arange(size) % 2).astype(DTYPES[dtype].numpy)
    encoded = encode_response(InferResponse("m", 1, "[\0]", [(spec(dtype=dtype), array)]), AS_JSON)
    found = header_of(encoded)
    assert max(map(len, encoded.pieces)) < 32 * STEP
    assert (len(encoded.pieces) > 1, encoded.header_length) == (size > STEP, None)
    assert found["id"] == "[\0]"
    values = found["outputs"][0]["data"]
    assert len(values) == size
    if dtype != "bfloat16":
        np.testing.assert_array_equal(np.array(values, array.dtype), array)


def test_large_and_small_json_and_binary_outputs_lie_in_the_order_of_the_outputs() -> None:
    asked = RequestHead(id=None, outputs=["a", "b", "c", "d"], binary=["b", "d"])
    arrays = [np.full(size, number, np.int16) for number, size in enumerate((STEP + 1, 3, 2 * STEP, 2 * STEP))]
    encoded = encode_response(response(*zip((spec(name, "int16") for name in "abcd"), arrays, strict=True)), asked)
    found = header_of(encoded)["outputs"]
    assert [len(entry.get("data", ())) for entry in found] == [STEP + 1, 0, 2 * STEP, 0]
    assert {*found[0]["data"]} | {*found[2]["data"]} == {0, 2}
    assert body_of(encoded)[encoded.header_length :] == arrays[1].tobytes() + arrays[3].tobytes()


def test_only_much_json_takes_long() -> None:
    half = np.zeros(STEP // 2 + 1, np.float32)
    assert not takes_long(response((spec("a"), half)), AS_JSON)
    assert takes_long(response((spec("a"), half), (spec("b"), half)), AS_JSON)
    assert not takes_long(response((spec("a"), half), (spec("b"), half)), AS_BINARY)
