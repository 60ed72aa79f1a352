"""V2 request bodies, JSON and binary, to arrays. Binary tensors are views of the body.

A body is a head, which is JSON, and perhaps binary data behind it. A head says all that has to be checked, but for the
bytes themselves; so who gets the same head again and again need not read it again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from aoti_serve.errors import InvalidBody, InvalidInputData, WrongInputLength
from aoti_serve.protocol.elements import from_json
from aoti_serve.protocol.messages import InputHead, RequestHead
from aoti_serve.tensors import BY_OIP, DTYPES, DType

_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
MAX_RANK = 32
MAX_ELEMENTS = 2**48
MAX_DIGITS = 18
LEAST_URGENT = 9


class InferRequest(NamedTuple):
    """A request in full: `arrays` are its inputs in the head's order."""

    head: RequestHead
    arrays: list[NDArray[Any]]


def decode_request(body: bytes | bytearray, header_length: str | None = None) -> InferRequest:
    """The request in `body`; `header_length` is the Inference-Header-Content-Length header, if one came.

    Raises InvalidBody, or an InvalidInput that names the input. Fits are checked later, against the signature.
    """
    split = head_length(body, header_length)
    view = memoryview(body)
    head = decode_head(view[:split])
    return InferRequest(head, arrays_of(head, view[split:]))


def head_length(body: bytes | bytearray, header_length: str | None) -> int:
    """How many bytes of the body are JSON. Raises InvalidBody."""
    if header_length is None:
        return len(body)
    if not header_length.isdecimal() or len(header_length) > MAX_DIGITS or int(header_length) > len(body):
        detail = f"Inference-Header-Content-Length {header_length!r} is not a length within {len(body)} bytes"
        raise InvalidBody(detail=detail)
    if int(header_length) == 0:
        raise InvalidBody(
            detail="Inference-Header-Content-Length 0: raw binary requests without JSON are not supported"
        )
    return int(header_length)


def decode_head(message: bytes | memoryview) -> RequestHead:
    """The JSON part. Raises InvalidBody, or an InvalidInput that names the input."""
    try:
        found = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise InvalidBody(detail=f"the body is not JSON: {error}") from error
    found = _typed(found, dict, "the body")
    inputs = tuple(_input(entry) for entry in _typed(found.get("inputs"), list, "'inputs'"))
    names = [tensor.name for tensor in inputs]
    if len(set(names)) < len(names):
        raise InvalidInputData(name=next(name for name in names if names.count(name) > 1), detail="sent twice")
    return _head(found, inputs)


def arrays_of(head: RequestHead, tail: memoryview) -> list[NDArray[Any]]:
    """The inputs in the head's order; those that are binary data are views of `tail`."""
    arrays, offset = [], 0
    for tensor in head.inputs:
        if tensor.nbytes is None:
            assert tensor.array is not None
            arrays.append(tensor.array)
            continue
        end = offset + tensor.nbytes
        if end > len(tail):
            left = len(tail) - offset
            detail = f"binary_data_size is {tensor.nbytes}, but only {left} bytes are left in the body"
            raise InvalidInputData(name=tensor.name, detail=detail)
        arrays.append(_viewed(tensor, tail[offset:end]))
        offset = end
    if offset < len(tail):
        raise InvalidBody(detail=f"{len(tail) - offset} bytes follow the last input's data")
    return arrays


def _viewed(tensor: InputHead, raw: memoryview) -> NDArray[Any]:
    if tensor.dtype == "bool" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise InvalidInputData(name=tensor.name, detail="a byte of BOOL data is neither 0 nor 1")
    return np.frombuffer(raw, DTYPES[tensor.dtype].numpy).reshape(tensor.shape)


def _head(message: dict[str, Any], inputs: tuple[InputHead, ...]) -> RequestHead:
    identity, outputs, parameters = message.get("id"), message.get("outputs"), _parameters(message)
    names, binary = None, []
    if outputs is not None and _typed(outputs, list, "'outputs'"):
        entries = [_typed(entry, dict, "an entry of 'outputs'") for entry in outputs]
        names = [_typed(entry.get("name"), str, "an output's 'name'") for entry in entries]
        binary = [name for name, entry in zip(names, entries, strict=True) if _flag(_parameters(entry), "binary_data")]
    timeout = _count(parameters, "timeout", "a whole number of microseconds")
    return RequestHead(
        id=None if identity is None else _typed(identity, str, "'id'"),
        inputs=inputs,
        outputs=names,
        binary=binary,
        binary_default=_flag(parameters, "binary_data_output"),
        priority=_count(parameters, "priority", f"a level from 1, the most urgent, to {LEAST_URGENT}", LEAST_URGENT),
        timeout=timeout / 1e6 if timeout else None,
    )


def _input(entry: Any) -> InputHead:
    entry = _typed(entry, dict, "an entry of 'inputs'")
    name: str = _typed(entry.get("name"), str, "an input's 'name'")
    dtype = BY_OIP.get(str(entry.get("datatype")))
    if dtype is None:
        known = ", ".join(BY_OIP)
        raise InvalidInputData(name=name, detail=f"datatype {entry.get('datatype')!r} is not one of {known}")
    shape = _shape(name, entry.get("shape"))
    size = _parameters(entry, f"input '{name}': ").get("binary_data_size")
    if size is not None:
        return InputHead(name, dtype.torch, shape, _size(name, dtype, shape, size))
    if "data" not in entry:
        raise InvalidInputData(name=name, detail="neither 'data' nor the parameter 'binary_data_size' is given")
    data = _typed(entry["data"], list, f"input '{name}': 'data'")
    return InputHead(name, dtype.torch, shape, None, from_json(name, dtype, shape, data))


def _size(name: str, dtype: DType, shape: tuple[int, ...], size: Any) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidInputData(name=name, detail=f"binary_data_size {size!r} is not a number of bytes")
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise WrongInputLength(name=name, got=size, unit="bytes", shape=list(shape), expected=expected)
    return size


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise InvalidInputData(name=name, detail=f"shape {value!r} is not a list of sizes")
    # numpy counts in 64 bits, also for a tensor that is empty because another dimension is 0.
    if len(value) > MAX_RANK or math.prod(max(size, 1) for size in value) > MAX_ELEMENTS:
        raise InvalidInputData(name=name, detail=f"shape {value!r} is beyond what a tensor can have")
    return tuple(value)


def _parameters(entry: dict[str, Any], owner: str = "") -> dict[str, Any]:
    value = entry.get("parameters")
    parameters: dict[str, Any] = {} if value is None else _typed(value, dict, f"{owner}'parameters'")
    return parameters


def _count(parameters: dict[str, Any], name: str, wanted: str, most: int = 2**63) -> int:
    value = parameters.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidBody(detail=f"parameter '{name}' is {value!r}, not {wanted}")
    return value


def _flag(parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidBody(detail=f"parameter '{name}' is {value!r}, neither true nor false")
    return bool(value)


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidBody(detail=f"{what} must be {_KINDS[kind]}")
    return value
