"""The elements of a tensor as JSON writes them, checked one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.errors import InvalidInputData, WrongInputLength
from aoti_serve.tensors import DType

# The types of JSON values that each kind of dtype (numpy's letters) accepts; a float for an integer would be cut off.
_ACCEPTED: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}


def from_json(name: str, dtype: DType, shape: tuple[int, ...], data: list[Any]) -> NDArray[Any]:
    """An array of `shape`, read-only, from a flat list, or one that is nested as `shape` says.

    Raises an InvalidInput that names the input.
    """
    if dtype.raw:
        raise InvalidInputData(name=name, detail=f"{dtype.oip} has no JSON form; send it as binary data")
    values, kinds = data, set(map(type, data))
    if list in kinds:
        values = _flat(name, shape, data)
        kinds = set(map(type, values))
    accepted = _ACCEPTED[np.dtype(dtype.numpy).kind]
    if not kinds <= accepted:
        wrong = next(value for value in values if type(value) not in accepted)
        raise InvalidInputData(name=name, detail=f"'data' holds {wrong!r:.40}, which is not {dtype.oip}")
    if len(values) != math.prod(shape):
        expected = math.prod(shape)
        raise WrongInputLength(name=name, got=len(values), unit="elements", shape=list(shape), expected=expected)
    try:
        with np.errstate(over="raise"):
            array = np.array(values, np.dtype(dtype.numpy)).reshape(shape)
    except (OverflowError, FloatingPointError) as error:
        raise InvalidInputData(name=name, detail=f"'data' holds values too large for {dtype.oip}") from error
    array.flags.writeable = False
    return array


def _flat(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    # As objects: numpy would turn true into 1, large integers into floats, and strings into arrays of their longest.
    found = np.asarray(data, object)
    values: list[Any] = found.ravel().tolist()
    if list in set(map(type, values)):
        raise InvalidInputData(name=name, detail="'data' is a list of lists of unequal lengths")
    if found.shape != shape and len(values) == math.prod(shape):
        raise InvalidInputData(name=name, detail=f"'data' is nested as {list(found.shape)}, 'shape' is {list(shape)}")
    return values
