"""Messages written in every way that protobuf allows, with unknown fields in between; and damage to them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped, unused-ignore]

from aoti_serve.protocol.grpc.wire import DELIMITED, FIXED32, FIXED64, GROUP, VARINT

FLOATS = {FieldDescriptor.TYPE_FLOAT: "<f", FieldDescriptor.TYPE_DOUBLE: "<d"}
KINDS = {FieldDescriptor.TYPE_FLOAT: FIXED32, FieldDescriptor.TYPE_DOUBLE: FIXED64}
BYTES = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)
NARROW = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32)
FREE_NUMBERS = (9, 15, 16, 1000, 2**29 - 1)  # of no field here


class Disguise:
    """Writes messages in ways that `random` chooses."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def of(self, message: Any) -> bytes:
        return b"".join(self._chunks(message))

    def _often(self, share: float = 0.2) -> bool:
        return self._random.random() < share

    def _varint(self, value: int, most: int = 10) -> bytes:
        """Perhaps longer than it needs to be."""
        octets, value = [value & 0x7F], value >> 7
        while value:
            octets, value = [*octets, value & 0x7F], value >> 7
        if self._often(0.1):
            octets += [0] * self._random.randint(0, most - len(octets))
        return bytes([octet | 0x80 for octet in octets[:-1]] + octets[-1:])

    def _tag(self, number: int, kind: int) -> bytes:
        return self._varint(number << 3 | kind, 5)

    def _delimited(self, number: int, payload: bytes) -> bytes:
        return self._tag(number, DELIMITED) + self._varint(len(payload), 5) + payload

    def _chunks(self, message: Any) -> list[bytes]:
        """Whole fields; those of one field stay in their order."""
        lists = [self._field(field, value) for field, value in message.ListFields()]
        lists += [[self._unknown()] for _ in range(self._random.choice((0, 0, 0, 1, 2)))]
        return self._shuffled(lists)

    def _shuffled(self, lists: list[list[bytes]]) -> list[bytes]:
        turns = [index for index, chunks in enumerate(lists) for _ in chunks]
        self._random.shuffle(turns)
        queues = [iter(chunks) for chunks in lists]
        return [next(queues[turn]) for turn in turns]

    def _runs(self, values: list[Any]) -> list[list[Any]]:
        """The values in order, in a few lists."""
        cuts = sorted(self._random.randint(0, len(values)) for _ in range(self._random.choice((0, 0, 1, 2))))
        return [values[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(values)], strict=True)]

    def _field(self, field: Any, value: Any) -> list[bytes]:
        if field.message_type and field.message_type.GetOptions().map_entry:
            return [self._delimited(field.number, self._entry(key, value[key])) for key in value]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            messages = [[*self._chunks(one)] for one in value] if field.is_repeated else self._runs(self._chunks(value))
            return [self._delimited(field.number, b"".join(chunks)) for chunks in messages]
        if not field.is_repeated:
            earlier = [self._scalar(field, value)] if self._often(0.1) else []
            return [*earlier, self._scalar(field, value)]
        if field.type in BYTES:
            return [self._scalar(field, one) for one in value]
        return [chunk for run in self._runs(list(value)) for chunk in self._numbers(field, run)]

    def _entry(self, key: str, value: Any) -> bytes:
        """Without unknown fields: protobuf's Python drops an entry with one, its other parsers keep it."""
        keys = [self._delimited(1, key.encode())] if key or self._often() else []
        values = [self._delimited(2, b"".join(run)) for run in self._runs(self._chunks(value))]
        return b"".join(self._shuffled([keys, values]))

    def _numbers(self, field: Any, values: list[Any]) -> list[bytes]:
        if self._often(0.7):
            return [self._delimited(field.number, b"".join(self._payload(field, value) for value in values))]
        return [self._scalar(field, value) for value in values]

    def _scalar(self, field: Any, value: Any) -> bytes:
        if field.type in BYTES:
            return self._delimited(field.number, value.encode() if isinstance(value, str) else value)
        return self._tag(field.number, KINDS.get(field.type, VARINT)) + self._payload(field, value)

    def _payload(self, field: Any, value: Any) -> bytes:
        if field.type in FLOATS:
            return struct.pack(FLOATS[field.type], value)
        number = int(value) % 2**64
        if self._often(0.1):  # what is beyond its bits does not count
            if field.type in NARROW:
                number = number % 2**32 + 2**32 * self._random.getrandbits(32)
            elif field.type == FieldDescriptor.TYPE_BOOL:
                number *= self._random.choice((2, 2**32, 2**63))
        return self._varint(number)

    def _unknown(self, depth: int = 0) -> bytes:
        kind = self._random.choice((VARINT, FIXED64, DELIMITED, FIXED32, GROUP))
        # A known field that is a group is none of ours.
        number = self._random.choice((*FREE_NUMBERS, *(range(1, 9) if kind == GROUP else ())))
        payload: Callable[[], bytes] = {
            VARINT: lambda: self._varint(self._random.getrandbits(self._random.choice((7, 64)))),
            FIXED64: lambda: bytes(8),
            FIXED32: lambda: bytes(4),
            DELIMITED: lambda: self._varint(3, 5) + b"\xff\x07\x00",
            GROUP: lambda: b"".join(self._unknown(depth + 1) for _ in range(2 - depth)) + self._tag(number, GROUP + 1),
        }[kind]
        return self._tag(number, kind) + payload()


def damaged(data: bytes, random: Random) -> bytes:
    """A few bytes changed, put in, taken out or cut off."""
    octets = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randint(0, len(octets))
        match random.choice(("cut", "change", "change", "bit", "insert", "remove", "copy")):
            case "cut":
                del octets[at:]
            case "change":
                octets[at : at + 1] = bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF, random.getrandbits(8)))])
            case "bit":
                octets[at : at + 1] = bytes([octets[at] ^ 1 << random.randrange(8)]) if at < len(octets) else b""
            case "insert":
                octets[at:at] = random.randbytes(random.randint(1, 4))
            case "remove":
                del octets[at : at + random.randint(1, 4)]
            case "copy":
                octets[at:at] = octets[random.randint(0, len(octets)) :][:16]
    return bytes(octets)
