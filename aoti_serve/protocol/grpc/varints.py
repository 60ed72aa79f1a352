"""Packed varints to arrays, a block at a time: each number by itself would take as long as a hundred do here.

Numbers are as in the section "Repeated Elements" of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.protocol.grpc.wire import VARINT_BYTES, WireBytes, malformed

BLOCK = 2**14  # bytes: what is made of them meanwhile stays in a processor's cache


def joined_varints(pieces: list[memoryview]) -> WireBytes:
    """One payload of several, each of which holds whole varints; one alone is not copied. Raises InvalidBody."""
    for piece in pieces:
        if piece and piece[-1] > 0x7F:
            malformed("a varint is cut off")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def count_varints(packed: WireBytes) -> int:
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) <= 0x7F))


def decoded_varints(packed: WireBytes, dtype: str) -> NDArray[Any]:
    """The values as numpy's `dtype`: bits beyond its own are dropped, and a bool is whether any bit is set.

    Takes little more memory than the array. Raises InvalidBody.
    """
    octets = np.frombuffer(packed, np.uint8)
    decoded = np.empty(count_varints(packed), dtype)
    at = done = 0
    while at < len(octets):
        ends = np.flatnonzero(octets[at : at + BLOCK] <= 0x7F)
        if not len(ends):
            malformed(f"a varint has more than {VARINT_BYTES} bytes")
        decoded[done : done + len(ends)] = _values(octets[at : at + ends[-1] + 1], ends)
        at, done = at + int(ends[-1]) + 1, done + len(ends)
    return decoded


def _values(octets: NDArray[np.uint8], ends: NDArray[np.intp]) -> NDArray[np.unsignedinteger[Any]]:
    """The values modulo 2**64 of the varints that end at `ends`."""
    if len(ends) == len(octets):
        return octets
    starts = np.concatenate((np.zeros(1, ends.dtype), ends[:-1] + 1))
    lengths = ends - starts + 1
    if (longest := int(lengths.max())) > VARINT_BYTES:
        malformed(f"a varint has more than {VARINT_BYTES} bytes")
    values = _seven_bits(octets, starts, 0)
    for index in range(1, longest):
        longer = np.flatnonzero(lengths > index)
        values[longer] |= _seven_bits(octets, starts[longer], index)
    return values


def _seven_bits(octets: NDArray[np.uint8], starts: NDArray[np.intp], index: int) -> NDArray[np.uint64]:
    """Byte `index` of each varint, at its place in the value."""
    return (octets[starts + index] & 0x7F).astype(np.uint64) << np.uint64(7 * index)
