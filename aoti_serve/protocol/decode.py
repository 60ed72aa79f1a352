"""V2 request bodies, JSON and binary, to arrays. Binary tensors are views of the body."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from aoti_serve.errors import InvalidBody, InvalidInputData, WrongInputLength
from aoti_serve.protocol.messages import InferRequest, InputTensor
from aoti_serve.tensors import BY_OIP, DType

_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
MAX_RANK = 32
MAX_ELEMENTS = 2**48
MAX_DIGITS = 18
# The types of JSON values that each kind of dtype (numpy's letters) accepts; a float for an integer would be cut off.
_ACCEPTED: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}


def decode_request(body: bytes, header_length: str | None = None) -> InferRequest:
    """The request in `body`; `header_length` is the Inference-Header-Content-Length header, if one came.

    Raises InvalidBody, or an InvalidInput that names the input. Fits are checked later, against the signature.
    """
    split = len(body) if header_length is None else _header_length(header_length, len(body))
    try:
        message = orjson.loads(memoryview(body)[:split])
    except orjson.JSONDecodeError as error:
        raise InvalidBody(detail=f"the body is not JSON: {error}") from error
    message = _typed(message, dict, "the body")
    reader = _TailReader(memoryview(body)[split:])
    inputs = [_input(entry, reader) for entry in _typed(message.get("inputs"), list, "'inputs'")]
    reader.finish()
    by_name: dict[str, InputTensor] = {}
    for tensor in inputs:
        if by_name.setdefault(tensor.name, tensor) is not tensor:
            raise InvalidInputData(name=tensor.name, detail="sent twice")
    return _request(message, by_name)


def _request(message: dict[str, Any], inputs: dict[str, InputTensor]) -> InferRequest:
    identity = message.get("id")
    outputs = message.get("outputs")
    names, binary = None, []
    if outputs:
        entries = [_typed(entry, dict, "an entry of 'outputs'") for entry in _typed(outputs, list, "'outputs'")]
        names = [_typed(entry.get("name"), str, "an output's 'name'") for entry in entries]
        binary = [name for name, entry in zip(names, entries, strict=True) if _parameters(entry).get("binary_data")]
    return InferRequest(
        id=None if identity is None else _typed(identity, str, "'id'"),
        inputs=inputs,
        outputs=names,
        binary=binary,
        binary_default=bool(_parameters(message).get("binary_data_output")),
    )


class _TailReader:
    """Hands out the binary data behind the JSON, in order."""

    def __init__(self, tail: memoryview) -> None:
        self._tail = tail
        self._offset = 0

    def take(self, name: str, size: int) -> memoryview:
        left = len(self._tail) - self._offset
        if size > left:
            detail = f"binary_data_size is {size}, but only {left} bytes are left in the body"
            raise InvalidInputData(name=name, detail=detail)
        self._offset += size
        return self._tail[self._offset - size : self._offset]

    def finish(self) -> None:
        if self._offset < len(self._tail):
            raise InvalidBody(detail=f"{len(self._tail) - self._offset} bytes follow the last input's data")


def _input(entry: Any, reader: _TailReader) -> InputTensor:
    entry = _typed(entry, dict, "an entry of 'inputs'")
    name: str = _typed(entry.get("name"), str, "an input's 'name'")
    dtype = BY_OIP.get(str(entry.get("datatype")))
    if dtype is None:
        known = ", ".join(BY_OIP)
        raise InvalidInputData(name=name, detail=f"datatype {entry.get('datatype')!r} is not one of {known}")
    shape = _shape(name, entry.get("shape"))
    size = _parameters(entry, f"input '{name}': ").get("binary_data_size")
    if size is not None:
        array = _from_binary(name, dtype, shape, size, reader)
    elif "data" in entry:
        array = _from_json(name, dtype, shape, entry["data"])
    else:
        raise InvalidInputData(name=name, detail="neither 'data' nor the parameter 'binary_data_size' is given")
    return InputTensor(name, dtype.torch, shape, array)


def _from_binary(name: str, dtype: DType, shape: tuple[int, ...], size: Any, reader: _TailReader) -> NDArray[Any]:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidInputData(name=name, detail=f"binary_data_size {size!r} is not a number of bytes")
    raw = reader.take(name, size)
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise WrongInputLength(name=name, got=size, unit="bytes", shape=list(shape), expected=expected)
    if dtype.torch == "bool" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise InvalidInputData(name=name, detail="a byte of BOOL data is neither 0 nor 1")
    return np.frombuffer(raw, np.dtype(dtype.numpy)).reshape(shape)


def _from_json(name: str, dtype: DType, shape: tuple[int, ...], data: Any) -> NDArray[Any]:
    if dtype.raw:
        raise InvalidInputData(name=name, detail=f"{dtype.oip} has no JSON form; send it as binary data")
    # As objects: numpy would turn true into 1, large integers into floats, and strings into arrays of their longest.
    found = np.asarray(_typed(data, list, f"input '{name}': 'data'"), object)
    values = found.ravel().tolist()
    kinds = set(map(type, values))
    if list in kinds:
        raise InvalidInputData(name=name, detail="'data' is a list of lists of unequal lengths")
    if not kinds <= _ACCEPTED[np.dtype(dtype.numpy).kind]:
        raise InvalidInputData(name=name, detail=f"'data' holds values that are not {dtype.oip}")
    if len(values) != math.prod(shape):
        expected = math.prod(shape)
        raise WrongInputLength(name=name, got=len(values), unit="elements", shape=list(shape), expected=expected)
    if found.ndim > 1 and found.shape != shape:
        raise InvalidInputData(name=name, detail=f"'data' is nested as {list(found.shape)}, 'shape' is {list(shape)}")
    try:
        with np.errstate(over="raise"):
            return np.array(values, np.dtype(dtype.numpy)).reshape(shape)
    except (OverflowError, FloatingPointError) as error:
        raise InvalidInputData(name=name, detail=f"'data' holds values too large for {dtype.oip}") from error


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


def _header_length(value: str, body: int) -> int:
    if not value.isdecimal() or len(value) > MAX_DIGITS or int(value) > body:
        raise InvalidBody(detail=f"Inference-Header-Content-Length {value!r} is not a length within {body} bytes")
    if int(value) == 0:
        raise InvalidBody(
            detail="Inference-Header-Content-Length 0: raw binary requests without JSON are not supported"
        )
    return int(value)


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidBody(detail=f"{what} must be {_KINDS[kind]}")
    return value
