"""InferTensorContents: tensors as numbers in protobuf's own types, to arrays.

The fields and the datatypes that go with them are those of `InferTensorContents` in Triton's grpc_service.proto. What
is packed and what is not are read alike: joined, the payloads of numbers that came one by one are a packed field.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import InvalidInputData, NotOfDatatype, WrongInputLength
from aoti_serve.protocol.grpc.payloads import payloads_of
from aoti_serve.protocol.grpc.varints import count_varints, decoded_varints, joined_varints
from aoti_serve.protocol.grpc.wire import DELIMITED, FIXED32, FIXED64, VARINT, FieldBudget, WireBytes, malformed, tag_of
from aoti_serve.protocol.strings import check_strings
from aoti_serve.signature.strings import strings_of
from aoti_serve.signature.tensors import BYTES, DType


class ContentsField(NamedTuple):
    """A field of InferTensorContents; `numbers` is numpy's name of its type."""

    name: str
    number: int
    kind: int
    numbers: str


_BOOL = ContentsField("bool_contents", 1, VARINT, "bool")
_INT = ContentsField("int_contents", 2, VARINT, "int32")
_INT64 = ContentsField("int64_contents", 3, VARINT, "int64")
_UINT = ContentsField("uint_contents", 4, VARINT, "uint32")
_UINT64 = ContentsField("uint64_contents", 5, VARINT, "uint64")
_FP32 = ContentsField("fp32_contents", 6, FIXED32, "<f4")
_FP64 = ContentsField("fp64_contents", 7, FIXED64, "<f8")
_BYTES = ContentsField("bytes_contents", 8, DELIMITED, "")
_ALL = (_BOOL, _INT, _INT64, _UINT, _UINT64, _FP32, _FP64, _BYTES)
_BY_TAG = {tag_of(field.number, kind): field for field in _ALL for kind in (DELIMITED, field.kind)}
_BY_DTYPE = {
    "bool": _BOOL,
    **dict.fromkeys(("int8", "int16", "int32"), _INT),
    "int64": _INT64,
    **dict.fromkeys(("uint8", "uint16", "uint32"), _UINT),
    "uint64": _UINT64,
    "float32": _FP32,
    "float64": _FP64,
    BYTES.torch: _BYTES,
}


def array_from_contents(
    name: str, dtype: DType, shape: tuple[int, ...], messages: list[memoryview], budget: FieldBudget
) -> NDArray[Any]:
    """An array of `shape`, read-only, from an input's `contents`, which may come in several pieces.

    Floats that come packed in one piece are not copied. Raises an InvalidInput that names the input, or InvalidBody.
    """
    found = payloads_of(messages, _BY_TAG, budget, nesting=2)
    given = [field for field, payloads in found.items() if field is _BYTES or any(payloads)]
    wanted = _BY_DTYPE.get(dtype.torch)
    if wanted is None:
        detail = "send it in raw_input_contents: there are no typed contents of"
        raise NotOfDatatype(name=name, detail=detail, datatype=dtype.oip)
    for other in [field for field in given if field is not wanted]:
        detail = f"contents hold {other.name}, and {wanted.name} is for"
        raise NotOfDatatype(name=name, detail=detail, datatype=dtype.oip)
    if wanted is _BYTES:
        return _strings(name, shape, found[wanted])
    numbers = _numbers(name, wanted, shape, found[wanted])
    array = _narrowed(name, wanted, dtype, numbers).reshape(shape)
    array.flags.writeable = False
    return array


def _numbers(name: str, field: ContentsField, shape: tuple[int, ...], pieces: list[memoryview]) -> NDArray[Any]:
    """As many as the shape has, counted before any are read."""
    if field.kind != VARINT:
        packed = _joined_floats(pieces, np.dtype(field.numbers).itemsize)
        _check_length(name, len(packed) // np.dtype(field.numbers).itemsize, shape)
        return np.frombuffer(packed, field.numbers)
    packed = joined_varints(pieces)
    _check_length(name, count_varints(packed), shape)
    return decoded_varints(packed, field.numbers)


def _strings(name: str, shape: tuple[int, ...], elements: list[memoryview]) -> NDArray[Any]:
    check_strings(name, shape)
    _check_length(name, len(elements), shape)
    return strings_of([bytes(element) for element in elements], shape)


def _joined_floats(pieces: list[memoryview], itemsize: int) -> WireBytes:
    if any(len(piece) % itemsize for piece in pieces):
        malformed("a packed number is cut off")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_length(name: str, got: int, shape: tuple[int, ...]) -> None:
    if got != (expected := math.prod(shape)):
        raise WrongInputLength(name=name, got=got, unit="elements", shape=list(shape), expected=expected)


def _narrowed(name: str, field: ContentsField, dtype: DType, numbers: NDArray[Any]) -> NDArray[Any]:
    """The numbers in the input's own type, which may be smaller than the field's."""
    if numbers.dtype == dtype.numpy:
        return numbers
    narrow = numbers.astype(dtype.numpy)
    if not np.array_equal(narrow, numbers):
        raise InvalidInputData(name=name, detail=f"'{field.name}' holds values too large for {dtype.oip}")
    return narrow
