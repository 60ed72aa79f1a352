"""The elements of a tensor as JSON writes them, checked one by one."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import InvalidInputData, NotOfDatatype, WrongInputLength, shown_value
from aoti_serve.protocol.strings import check_strings
from aoti_serve.signature.strings import strings_of
from aoti_serve.signature.tensors import BYTES, DType

# The types of JSON values that each kind of dtype (numpy's letters) accepts; a float for an integer would be cut off.
_ACCEPTED: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}, "O": {str}}


def array_from_json(name: str, dtype: DType, shape: tuple[int, ...], data: list[Any]) -> NDArray[Any]:
    """An array of `shape`, read-only, from a flat list, or one that is nested as `shape` says.

    Raises an InvalidInput that names the input.
    """
    if dtype.raw:
        raise _not_of(dtype, name, "send it as binary data: there is no JSON form of")
    values = _flat(name, shape, data)
    accepted = _ACCEPTED[np.dtype(dtype.numpy).kind]
    if not set(map(type, values)) <= accepted:
        wrong = next(value for value in values if type(value) not in accepted)
        raise _not_of(dtype, name, f"'data' holds {shown_value(wrong)}, which is not")
    if len(values) != (expected := math.prod(shape)):
        raise WrongInputLength(name=name, got=len(values), unit="elements", shape=list(shape), expected=expected)
    if dtype is BYTES:
        check_strings(name, shape)
        return strings_of([value.encode() for value in values], shape)
    try:
        with np.errstate(over="raise"):
            array = np.array(values, np.dtype(dtype.numpy)).reshape(shape)
    except (OverflowError, FloatingPointError) as error:
        raise _not_of(dtype, name, "'data' holds values too large for") from error
    array.flags.writeable = False
    return array


def _flat(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    """`data` unnested level by level, each level as long as `shape` says.

    No deeper than that, and not by numpy: it would turn true into 1, large integers into floats, strings into arrays
    of their longest, and unequal nesting into more than was sent.
    """
    values, depth = data, 0
    while list in (kinds := set(map(type, values))):
        depth += 1
        if depth >= len(shape) or kinds != {list} or set(map(len, values)) != {shape[depth]}:
            raise _nested_wrongly(name, shape)
        values = list(chain.from_iterable(values))
    if depth and (depth != len(shape) - 1 or len(data) != shape[0]):
        raise _nested_wrongly(name, shape)
    return values


def _not_of(dtype: DType, name: str, detail: str) -> NotOfDatatype:
    return NotOfDatatype(name=name, detail=detail, datatype=dtype.oip)


def _nested_wrongly(name: str, shape: tuple[int, ...]) -> InvalidInputData:
    return InvalidInputData(name=name, detail=f"'data' is nested, but not as its shape {list(shape)}")
