"""Answers as `ModelInferResponse`, their tensors raw, and as `ModelStreamInferResponse`.

gRPC takes one bytes object, so each large tensor is copied once, when all pieces are joined. What stands before the
tensors is the same from answer to answer, and kept. Field numbers are those of Triton's grpc_service.proto.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.protocol.grpc.written import delimited, field_start, packed_numbers, string_field
from aoti_serve.protocol.messages import InferResponse
from aoti_serve.protocol.strings import raw_strings
from aoti_serve.signature.tensors import dtype_named

SMALL_TENSOR = 2**12  # bytes: copied once more, which is quicker than a view
_KEPT = 512
_RAW = 6


def encode_infer_response(response: InferResponse) -> bytes:
    return b"".join(_pieces(response))


def encode_stream_response(response: InferResponse) -> bytes:
    """The same as an answer in a stream."""
    pieces = _pieces(response)
    return b"".join([field_start(2, sum(map(len, pieces))), *pieces])


def encode_stream_failure(message: str, identity: str | None) -> bytes:
    """An error as an answer in a stream, with the request's id as Triton sends it. An empty message would be none."""
    assert message
    return string_field(1, message) + (delimited(2, string_field(3, identity)) if identity else b"")


def _pieces(response: InferResponse) -> list[bytes | memoryview]:
    pieces: list[bytes | memoryview] = [_model(response.model_name, response.model_version)]
    pieces.append(string_field(3, response.id or ""))
    pieces += [_output(spec.name, dtype_named(spec.dtype).oip, array.shape) for spec, array in response.outputs]
    for _, array in response.outputs:
        content = _bytes_of(array)
        pieces += (_raw_start(len(content)), content)
    return pieces


@lru_cache(_KEPT)
def _model(name: str, version: int) -> bytes:
    return string_field(1, name) + string_field(2, str(version))


@lru_cache(_KEPT)
def _output(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    return delimited(5, string_field(1, name) + string_field(2, datatype) + packed_numbers(3, shape))


@lru_cache(_KEPT)
def _raw_start(nbytes: int) -> bytes:
    return field_start(_RAW, nbytes)


def _bytes_of(array: NDArray[Any]) -> bytes | memoryview:
    if array.dtype == object:
        return raw_strings(array)
    if array.nbytes <= SMALL_TENSOR:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
