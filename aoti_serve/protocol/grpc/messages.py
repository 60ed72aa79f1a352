"""Messages of `schema` as dicts: to bytes, and back. For all that is small and rare.

A dict has the names of the .proto: numbers, bools, strings, enums by their names, lists, and dicts for messages. What
protobuf leaves out because it is 0, "" or empty may be missing from a dict that is written; in one that was read it is
there, and a message that was not sent is None. That of several fields only one may be sent (`oneof`) is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aoti_serve.protocol.grpc.payloads import payloads_of, signed_numbers, text
from aoti_serve.protocol.grpc.schema import ENUMS, MESSAGES, MessageField
from aoti_serve.protocol.grpc.varints import joined_varints
from aoti_serve.protocol.grpc.wire import DELIMITED, VARINT, FieldBudget, tag_of
from aoti_serve.protocol.grpc.written import delimited, packed_numbers, varint

MessageValues = Mapping[str, Any]

# What is left of 64 bits, read as an int64.
_NUMBERS: dict[str, Callable[[int], int]] = {
    "bool": bool,
    "int32": lambda value: (value + 2**31) % 2**32 - 2**31,
    "int64": lambda value: value,
    "uint32": lambda value: value % 2**32,
    "uint64": lambda value: value % 2**64,
}


def encode_message(kind: str, message: MessageValues) -> bytes:
    """The bytes of a message that `schema.MESSAGES` calls `kind`."""
    assert message.keys() <= {field.name for field in MESSAGES[kind]}, (kind, message)
    return b"".join(_written(field, message[field.name]) for field in MESSAGES[kind] if field.name in message)


def decode_message(kind: str, message: bytes | memoryview) -> dict[str, Any]:
    """A message that `schema.MESSAGES` calls `kind`. Raises InvalidBody."""
    return _read(kind, [memoryview(message)], FieldBudget(), 0)


def _written(field: MessageField, value: Any) -> bytes:
    values = value if field.repeated else [value]
    if field.type in MESSAGES:
        return b"".join(delimited(field.number, encode_message(field.type, one)) for one in values if one is not None)
    if field.type == "string":
        return b"".join(delimited(field.number, one.encode()) for one in values if one or field.repeated)
    numbers = [ENUMS[field.type].index(one) if field.type in ENUMS else int(one) for one in values]
    if field.repeated:
        return packed_numbers(field.number, numbers)
    return varint(tag_of(field.number, VARINT)) + varint(numbers[0]) if numbers[0] else b""


def _read(kind: str, pieces: list[memoryview], budget: FieldBudget, nesting: int) -> dict[str, Any]:
    tags = {tag: field.name for field in MESSAGES[kind] for tag in _tags(field)}
    found = payloads_of(pieces, tags, budget, nesting)
    return {field.name: _value(field, found[field.name], budget, nesting + 1) for field in MESSAGES[kind]}


def _tags(field: MessageField) -> list[int]:
    """The tags that it may have: numbers of a list come packed or one by one."""
    if field.type in MESSAGES or field.type == "string":
        return [tag_of(field.number)]
    return [tag_of(field.number, kind) for kind in ((VARINT, DELIMITED) if field.repeated else (VARINT,))]


def _value(field: MessageField, payloads: list[memoryview], budget: FieldBudget, nesting: int) -> Any:
    if field.type in MESSAGES:
        if field.repeated:
            return [_read(field.type, [payload], budget, nesting) for payload in payloads]
        return _read(field.type, payloads, budget, nesting) if payloads else None
    values: list[Any] = list(map(text, payloads)) if field.type == "string" else _numbers(field, payloads)
    if field.repeated:
        return values
    return values[-1] if values else _default(field)


def _numbers(field: MessageField, payloads: list[memoryview]) -> list[Any]:
    numbers = signed_numbers(joined_varints(payloads))
    if field.type not in ENUMS:
        return list(map(_NUMBERS[field.type], numbers))
    names = dict(enumerate(ENUMS[field.type]))
    return [names.get(number, number) for number in map(_NUMBERS["int32"], numbers)]


def _default(field: MessageField) -> Any:
    if field.type == "string":
        return ""
    return ENUMS[field.type][0] if field.type in ENUMS else _NUMBERS[field.type](0)
