"""Fields as bytes, for those that write messages. The other way round: `payloads`."""

from __future__ import annotations

from collections.abc import Iterable

from aoti_serve.protocol.grpc.wire import tag_of


def varint(value: int) -> bytes:
    """A whole number of 64 bits; a negative one as its two's complement, which takes ten bytes."""
    value %= 2**64
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def field_start(number: int, length: int) -> bytes:
    """What stands before a payload of `length` bytes: a string, a message, or packed numbers."""
    return varint(tag_of(number)) + varint(length)


def delimited(number: int, payload: bytes) -> bytes:
    return field_start(number, len(payload)) + payload


def packed_numbers(number: int, values: Iterable[int]) -> bytes:
    """A repeated field of whole numbers; nothing if there are none."""
    payload = b"".join(map(varint, values))
    return delimited(number, payload) if payload else b""


def string_field(number: int, value: str) -> bytes:
    """A string that is no list's; an empty one is what a reader takes it for if it is not there."""
    return delimited(number, value.encode()) if value else b""
