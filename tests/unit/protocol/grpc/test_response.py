"""Answers in protobuf: what we write, protobuf reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aoti_serve.protocol.grpc.response import (
    SMALL_TENSOR,
    encode_infer_response,
    encode_stream_failure,
    encode_stream_response,
)
from aoti_serve.protocol.messages import InferResponse
from aoti_serve.signature.tensors import DTYPES, TensorSpec
from tests.unit.protocol.grpc.protobuf import message_class

ARRAYS = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda dtype: st.tuples(
        st.just(dtype.torch),
        hnp.arrays(np.dtype(dtype.numpy), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    )
)


def response(*outputs: tuple[str, str, NDArray[Any]], identity: str | None = "7") -> InferResponse:
    specs = [(TensorSpec(name=name, dtype=dtype, shape=array.shape), array) for name, dtype, array in outputs]
    return InferResponse("m", 3, identity, specs)


def by_protobuf(answer: InferResponse) -> bytes:
    message = message_class("ModelInferResponse")(
        model_name=answer.model_name, model_version=str(answer.model_version), id=answer.id or ""
    )
    for spec, array in answer.outputs:
        message.outputs.add(name=spec.name, datatype=DTYPES[spec.dtype].oip, shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    data: bytes = message.SerializeToString()
    return data


@settings(max_examples=300)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), ARRAYS), max_size=3), st.none() | st.text("ab7"))
def test_an_answer_has_the_bytes_that_protobuf_would_write(
    outputs: list[tuple[str, tuple[str, NDArray[Any]]]], identity: str | None
) -> None:
    answer = response(*[(name, dtype, array) for name, (dtype, array) in outputs], identity=identity)
    assert encode_infer_response(answer) == by_protobuf(answer)


@pytest.mark.parametrize("elements", [SMALL_TENSOR // 4, SMALL_TENSOR // 4 + 1, 2**20])
def test_a_tensor_of_any_size_leaves_bit_by_bit(elements: int) -> None:
    array = np.arange(2 * elements, dtype=np.float32)
    for sent in (array[:elements], array[::2], array.reshape(2, elements).T):
        answer = response(("y", "float32", sent))
        assert encode_infer_response(answer) == by_protobuf(answer)


def test_an_answer_in_a_stream_is_the_same_answer() -> None:
    answer = response(("y", "int64", np.arange(1000)), ("z", "bool", np.array(True)))
    message = message_class("ModelStreamInferResponse").FromString(encode_stream_response(answer))
    assert message.error_message == ""
    assert message.infer_response.SerializeToString() == by_protobuf(answer)


@pytest.mark.parametrize("identity", [None, "", "7"])
def test_a_failure_in_a_stream_names_its_request(identity: str | None) -> None:
    message = message_class("ModelStreamInferResponse").FromString(encode_stream_failure("größer", identity))
    assert (message.error_message, message.infer_response.id) == ("größer", identity or "")
