"""BYTES: strings of any bytes, in JSON as text, in binary data and protobuf each behind its length, a u32.

A tensor of them is an array of `bytes` objects.
"""

from __future__ import annotations

import math
from struct import Struct
from typing import Any

from numpy.typing import NDArray

from aoti_serve.errors import InvalidBody, InvalidInputData, WrongInputLength
from aoti_serve.signature.strings import strings_of

STRING_LENGTH = Struct("<I")
MAX_STRINGS = 2**18  # of a tensor: they are looked at one by one, 0.05 s of an event loop


def check_strings(name: str, shape: tuple[int, ...]) -> None:
    """Raises InvalidInputData if input `name` has too many."""
    if math.prod(shape) > MAX_STRINGS:
        raise InvalidInputData(name=name, detail=f"{math.prod(shape)} strings, the limit is {MAX_STRINGS}")


def strings_from_raw(name: str, raw: memoryview, shape: tuple[int, ...]) -> NDArray[Any]:
    """Input `name` out of binary data. Raises InvalidInputData, or WrongInputLength."""
    check_strings(name, shape)
    elements: list[bytes] = []
    expected, at = math.prod(shape), 0
    while len(raw) - at >= STRING_LENGTH.size and len(elements) < expected:
        begin = at + STRING_LENGTH.size
        at = begin + STRING_LENGTH.unpack_from(raw, at)[0]
        if at > len(raw):
            raise InvalidInputData(name=name, detail=f"string {len(elements)} is longer than the data behind it")
        elements.append(bytes(raw[begin:at]))
    if len(elements) < expected:
        raise WrongInputLength(name=name, got=len(elements), unit="strings", shape=list(shape), expected=expected)
    if at < len(raw):
        raise InvalidInputData(name=name, detail=f"{len(raw) - at} bytes are behind its {expected} strings")
    return strings_of(elements, shape)


def raw_strings(array: NDArray[Any]) -> bytes:
    """The binary data of a tensor."""
    elements = array.reshape(-1).tolist()
    return b"".join([piece for element in elements for piece in (STRING_LENGTH.pack(len(element)), element)])


def texts_of(name: str, array: NDArray[Any]) -> list[str]:
    """The elements of output `name` as JSON has them. Raises InvalidBody where they are no text."""
    try:
        return [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        detail = f"output '{name}' holds bytes that are no UTF-8, which JSON cannot write: ask for it as binary data"
        raise InvalidBody(detail=detail) from error
