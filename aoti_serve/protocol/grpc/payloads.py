"""What the fields of a message hold: their payloads by field, and the values of those that are scalars.

Where a field that is no list comes several times, protobuf takes the last scalar and merges messages, which is to read
one after the other as if they were one. So payloads are lists everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from aoti_serve.protocol.grpc.wire import VARINT_BYTES, FieldBudget, WireBytes, fields_of, malformed, varint_at

Key = TypeVar("Key", bound=Hashable)

UINT64_VALUES = 2**64


def payloads_of(
    pieces: Iterable[memoryview], keys: Mapping[int, Key], budget: FieldBudget, nesting: int = 0
) -> defaultdict[Key, list[memoryview]]:
    """The payloads of a message that comes in `pieces`, by the key of their tag, in their order.

    Fields of other tags are passed over: newer ones, and those of another type. Raises InvalidBody.
    """
    found: defaultdict[Key, list[memoryview]] = defaultdict(list)
    for piece in pieces:
        for tag, begin, end in fields_of(piece, budget, nesting):
            if (key := keys.get(tag)) is not None:
                found[key].append(piece[begin:end])
    return found


def unsigned(payload: WireBytes) -> int:
    """The value of a varint, from 0 to 2**64 - 1; bits beyond the 64th are dropped. Raises InvalidBody."""
    return varint_at(payload, 0, VARINT_BYTES)[0] % UINT64_VALUES


def signed(payload: WireBytes) -> int:
    """The value of an int64. Raises InvalidBody."""
    return _as_signed(unsigned(payload))


def signed_numbers(packed: WireBytes) -> list[int]:
    """The values of a few int64, each a whole varint, one behind the other. Raises InvalidBody."""
    values, at = [], 0
    while at < len(packed):
        value, at = varint_at(packed, at, VARINT_BYTES)
        values.append(_as_signed(value % UINT64_VALUES))
    return values


def text(payload: WireBytes) -> str:
    """Raises InvalidBody if it is not UTF-8."""
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError:
        malformed("a string is not UTF-8")


def last_text(payloads: list[memoryview]) -> str:
    """The last of them, "" if there is none; all must be UTF-8. Raises InvalidBody."""
    return [text(payload) for payload in payloads][-1] if payloads else ""


def _as_signed(value: int) -> int:
    return value - UINT64_VALUES if value >> 63 else value
