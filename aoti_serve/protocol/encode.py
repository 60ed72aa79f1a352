"""V2 responses to bytes, JSON and binary.

orjson holds the GIL while it writes: 16 million floats, 64 MB, take it 0.5 s. So a large output is written `STEP`
numbers at a time, 2 ms each, and stays in pieces: a join of 170 MB of text holds the GIL for another 0.1 s. Large
binary data is not copied at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import orjson
from numpy.typing import NDArray

from aoti_serve.protocol.messages import InferResponse, RequestHead
from aoti_serve.protocol.ragged import VARIES, ragged_rows
from aoti_serve.protocol.strings import raw_strings, texts_of
from aoti_serve.signature.strings import strings_nbytes
from aoti_serve.signature.tensors import BYTES, DTYPES, TensorSpec, dtype_named

STEP = 2**16
JOINED_BODY_BYTES = 2**16  # bytes: below this one piece is quicker than two
_LATER = b"\0"  # stands in no JSON text
_NUMBERS_LATER = orjson.Fragment(b"[" + _LATER + b"]")


class Encoded(NamedTuple):
    """A response body, in several pieces if it is large.

    `header_length` is that of its JSON part when binary data follows it, else None.
    """

    pieces: list[bytes | memoryview]
    header_length: int | None


def encode_response(response: InferResponse, asked: RequestHead) -> Encoded:
    """Each output in the form that was asked for. Large pieces of the body are views of its arrays."""
    outputs: list[dict[str, Any]] = []
    large: list[Iterator[bytes]] = []
    tails: list[memoryview] = []
    for spec, array in response.outputs:
        entry: dict[str, Any] = {"name": spec.name, "datatype": dtype_named(spec.dtype).oip, "shape": list(array.shape)}
        if (rows := ragged_rows(spec, array, response.lengths)) is not None:
            entry |= {"shape": [len(array), VARIES, *array.shape[2:]], "data": _NUMBERS_LATER}
            large.append(_nested(spec, rows))
        elif asked.wants_binary(spec.name):
            tails.append(_binary(spec, array))
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        elif spec.dtype == BYTES.torch:
            entry["data"] = texts_of(spec.name, array)
        elif array.size > STEP:
            entry["data"] = _NUMBERS_LATER
            large.append(_numbers(spec, _flat(array)))
        else:
            entry["data"] = _json_values(spec, _flat(array))
        outputs.append(entry)
    message = {"model_name": response.model_name, "model_version": str(response.model_version), "outputs": outputs}
    if response.id is not None:
        message["id"] = response.id
    header = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    if large:
        return _in_pieces(header, large, tails)
    length = len(header) if tails else None
    if sum(map(len, tails)) > JOINED_BODY_BYTES:
        return Encoded([header, *tails], length)
    return Encoded([b"".join([header, *tails])], length)


def takes_long(response: InferResponse, asked: RequestHead) -> bool:
    """Whether the encoding would block an event loop: more than `STEP` elements are written as JSON, or strings."""
    return sum([_effort(spec, array) for spec, array in response.outputs if not asked.wants_binary(spec.name)]) > STEP


def _effort(spec: TensorSpec, array: NDArray[Any]) -> int:
    return array.size if spec.dtype != BYTES.torch else strings_nbytes(array) // 16


def _binary(spec: TensorSpec, array: NDArray[Any]) -> memoryview:
    return memoryview(raw_strings(array)) if spec.dtype == BYTES.torch else _flat(array).view(np.uint8).data


def _in_pieces(header: bytes, large: list[Iterator[bytes]], tails: list[memoryview]) -> Encoded:
    first, *others = header.split(_LATER)
    pieces: list[bytes | memoryview] = [first]
    for numbers, after in zip(large, others, strict=True):
        pieces += [*numbers, after]
    length = sum(map(len, pieces))
    return Encoded([*pieces, *tails], length if tails else None)


def _numbers(spec: TensorSpec, flat: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, flat.size, STEP):
        text = orjson.dumps(_json_values(spec, flat[start : start + STEP]), option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"," if start else b"") + text[1:-1]


def _nested(spec: TensorSpec, rows: Iterator[NDArray[Any]]) -> Iterator[bytes]:
    for index, row in enumerate(rows):
        text = orjson.dumps(_json_values(spec, row), option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"," if index else b"") + text


def _json_values(spec: TensorSpec, flat: NDArray[Any]) -> NDArray[Any]:
    return flat.view(getattr(ml_dtypes, spec.dtype)).astype(np.float32) if DTYPES[spec.dtype].raw else flat


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).reshape(-1)
