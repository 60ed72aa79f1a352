"""Rows of different lengths in one request, and masks that are left out: checked, filled up, and answered as sent."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import InvalidBody, InvalidInput, InvalidInputData, MissingInput, WrongInputShape
from aoti_serve.gateway.request_checker import CheckedRequest, RequestChecker
from aoti_serve.protocol.decode import arrays_of
from aoti_serve.protocol.encode import encode_response
from aoti_serve.protocol.messages import InferResponse
from aoti_serve.signature.padding import Padding
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

BATCH, LENGTH = Dim(symbol="batch", max=8), Dim(symbol="length", min=1, max=16)
TWICE = LENGTH.model_copy(update={"factor": 2, "min": 2, "max": 32})
IDS = TensorSpec(name="ids", dtype="int64", shape=(BATCH, LENGTH))
MASK = TensorSpec(name="mask", dtype="float32", shape=(BATCH, LENGTH))
FRAMES = TensorSpec(name="frames", dtype="float32", shape=(BATCH, LENGTH, 2))
HIDDEN = TensorSpec(name="hidden", dtype="float32", shape=(BATCH, LENGTH, 2))
LONGER = TensorSpec(name="longer", dtype="int64", shape=(BATCH, TWICE))
POOLED = TensorSpec(name="pooled", dtype="float32", shape=(BATCH, 2))
RULE = Padding(values={"ids": -7, "mask": 0, "frames": 0.5}, masks=("mask",))


def checker(
    *inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (HIDDEN, POOLED), rule: Padding | None = RULE, **limits: int
) -> RequestChecker:
    signature = Signature(inputs=inputs, outputs=outputs, constants=(), padding=rule)
    return RequestChecker(signature, GatewayConfig.model_validate(limits))


def ids(*rows: list[Any], **changes: Any) -> dict[str, Any]:
    return {"name": "ids", "datatype": "INT64", "shape": [len(rows), -1], "data": rows} | changes


def mask(*rows: list[float], **changes: Any) -> dict[str, Any]:
    return {"name": "mask", "datatype": "FP32", "shape": [len(rows), -1], "data": rows} | changes


def body(*inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": inputs, **rest}).encode()


def arrays(request: CheckedRequest) -> list[Any]:
    return request.ordered(arrays_of(request.head, memoryview(b"")))


def test_rows_are_filled_up_to_the_longest_and_the_mask_is_made() -> None:
    request = checker(IDS, MASK).read(body(ids([1, 2, 3], [4])))
    sent, made = arrays(request)
    assert sent.tolist() == [[1, 2, 3], [4, -7, -7]]
    assert (made.dtype, made.tolist()) == (np.float32, [[1, 1, 1], [1, 0, 0]])
    assert request.lengths == {"length": (3, 1)}


def test_a_mask_that_is_sent_is_filled_up_as_its_rule_says() -> None:
    request = checker(IDS, MASK).read(body(mask([1, 0, 1], [1]), ids([1, 2, 3], [4])))
    assert arrays(request)[1].tolist() == [[1, 0, 1], [1, 0, 0]]


def test_a_mask_that_is_left_out_is_ones_where_rows_are_of_one_length() -> None:
    request = checker(IDS, MASK).read(body(ids([1, 2], [3, 4], shape=[2, 2])))
    assert [array.tolist() for array in arrays(request)] == [[[1, 2], [3, 4]], [[1, 1], [1, 1]]]
    assert request.lengths == {}


def test_a_mask_alone_is_no_request() -> None:
    with pytest.raises(MissingInput, match="'ids'"):
        checker(IDS, MASK).read(body(mask([1, 0])))


def test_elements_of_rows_may_have_dimensions_of_their_own() -> None:
    frames = {"name": "frames", "datatype": "FP32", "shape": [2, -1, 2], "data": [[[1, 2]], [[3, 4], [5, 6]]]}
    (found,) = arrays(checker(FRAMES).read(body(frames)))
    assert found.tolist() == [[[1, 2], [0.5, 0.5]], [[3, 4], [5, 6]]]


def test_answers_come_row_by_row_at_the_lengths_that_were_sent() -> None:
    outputs = (HIDDEN, LONGER, POOLED)
    request = checker(IDS, MASK, outputs=outputs).read(body(ids([1, 2], [3])))
    given = np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.arange(8).reshape(2, 4), np.ones((2, 2), np.float32)
    response = InferResponse("m", 3, None, list(zip(outputs, given, strict=True)), 2, request.lengths)
    answer = json.loads(b"".join(encode_response(response, request.head).pieces))
    hidden, longer, pooled = answer["outputs"]
    assert (hidden["shape"], hidden["data"]) == ([2, -1, 2], [[[0, 1], [2, 3]], [[4, 5]]])
    assert (longer["shape"], longer["data"]) == ([2, -1], [[0, 1, 2, 3], [4, 5]])
    assert (pooled["shape"], pooled["data"]) == ([2, 2], [1, 1, 1, 1])


def test_an_output_that_does_not_vary_may_still_be_binary() -> None:
    wanted = [{"name": "pooled", "parameters": {"binary_data": True}}]
    assert checker(IDS, MASK).read(body(ids([1, 2], [3]), outputs=wanted)).head.binary == {"pooled"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param(
            [ids([1, 2], [3]), mask([1], [1, 1])], "'mask': its rows are not as long as those of 'ids'", id="unlike"
        ),
        pytest.param(
            [ids([1, 2], [3]), mask([1, 1], [1, 1], shape=[2, 2])],
            "the rows of 'ids' differ in length",
            id="one-ragged",
        ),
        pytest.param([ids([1], [], shape=[2, -1])], "row 1 has a length of 0", id="empty-row"),
        pytest.param([ids([1] * 17, [1])], r"dimension 1 \('length'\) is 17, it must be 1 to 16", id="too-long"),
        pytest.param([ids([1], [2], shape=[3, -1])], "'data' has 2 lists", id="too-few"),
        pytest.param([ids(shape=[2, -1], data=[1, 2])], "each in a list of its own|in a list of its own", id="flat"),
        pytest.param([ids([1], [[2]])], "nested, but not as its shape", id="nested"),
        pytest.param([ids([1], ["2"])], "holds '2', which is not INT64", id="text"),
        pytest.param([ids(shape=[2, -1], data=None, parameters={"binary_data_size": 8})], "sent as JSON", id="binary"),
        pytest.param([ids([1], shape=[-1, -1])], "where a size belongs", id="rows"),
        pytest.param([ids([1], shape=[1, -1, -1])], "where a size belongs", id="two"),
        pytest.param([ids([1], shape=[None, -1])], "where a size belongs", id="no-size"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(inputs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        checker(IDS, MASK).read(body(*inputs))


def test_without_a_rule_rows_have_one_length() -> None:
    with pytest.raises(InvalidInputData, match=r"'ids': .*send a request for each row, or package .* --pad ids=0"):
        checker(IDS, rule=None).read(body(ids([1, 2], [3])))


def test_a_dimension_that_is_elsewhere_too_has_one_length() -> None:
    square = TensorSpec(name="bias", dtype="float32", shape=(BATCH, LENGTH, LENGTH))
    with pytest.raises((InvalidInputData, MissingInput)):
        checker(IDS, square).read(body(ids([1, 2], [3])))


def test_an_output_that_cannot_be_cut_row_by_row_is_refused() -> None:
    square = TensorSpec(name="attention", dtype="float32", shape=(BATCH, 4, LENGTH))
    with pytest.raises(InvalidBody, match="'attention' does not vary in 'length' row by row"):
        checker(IDS, outputs=(square, POOLED)).read(body(ids([1, 2], [3])))
    with pytest.raises(InvalidBody, match="'hidden': rows of different lengths have no binary form"):
        checker(IDS).read(body(ids([1, 2], [3]), parameters={"binary_data_output": True}))


def test_few_bytes_do_not_become_many() -> None:
    with pytest.raises(InvalidInputData, match=r"have 512 bytes, the limit is 500 \(gateway.max_body_bytes\)"):
        checker(IDS, max_body_bytes=500).read(body(ids([1] * 16, [1], [1], [1])))


def test_a_row_that_is_shorter_than_the_model_takes_is_refused() -> None:
    long = TensorSpec(name="ids", dtype="int64", shape=(BATCH, LENGTH.model_copy(update={"min": 2})))
    with pytest.raises(WrongInputShape, match="row 1 has a length of 1"):
        checker(long).read(body(ids([1, 2], [3])))
