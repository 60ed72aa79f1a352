"""Protobuf's wire format: a message cut into its fields.

A field is a tag and a payload. The tag is a varint, `number << 3 | kind`; the kind says how long the payload is. As
https://protobuf.dev/programming-guides/encoding/ says, and where that leaves room, as protobuf's parser upb decides:
a tag or a length has five bytes at most, unknown groups are skipped and may be nested a hundred deep, the messages
around them included, and field 0 exists inside a group only. What is wrong raises InvalidBody and nothing else.
"""

from __future__ import annotations

from typing import NoReturn

from aoti_serve.errors import InvalidBody

WireBytes = bytes | memoryview

VARINT, FIXED64, DELIMITED, GROUP, GROUP_END, FIXED32 = range(6)
MAX_FIELDS = 2**14  # of one message with all that is in it: they take up to 0.1 s
MAX_NESTING = 100
VARINT_BYTES = 10
_TAG_BYTES, _LENGTH_BYTES = 5, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}


class FieldBudget:
    """How many fields may still be read of one message and all the messages in it: they are read one by one."""

    def __init__(self, left: int = MAX_FIELDS) -> None:
        self.left = left

    def take(self, fields: int) -> None:
        """Raises InvalidBody if fewer are left."""
        self.left -= fields
        if self.left < 0:
            raise InvalidBody(detail=f"the message has more than {MAX_FIELDS} fields")


def fields_of(message: WireBytes, budget: FieldBudget, nesting: int = 0) -> list[tuple[int, int, int]]:
    """All fields of a message in their order: (tag, begin, end), where the payload is message[begin:end].

    `nesting` counts the messages around this one. The function is long because a small request spends most of its time
    here, and a call would cost as much as a field.
    """
    found: list[tuple[int, int, int]] = []
    at, size = 0, len(message)
    try:
        while at < size and len(found) <= budget.left:
            tag, at = message[at], at + 1
            if tag > 0x7F:
                tag, at = _tag_at(message, at - 1)
            if tag & 7 == DELIMITED:
                length, at = message[at], at + 1
                if length > 0x7F:
                    length, at = varint_at(message, at - 1, _LENGTH_BYTES)
                begin, at = at, at + length
            else:
                begin, at = at, _skipped(message, at, tag, budget, nesting)
            if at > size or tag < 8:
                malformed("it ends within a field" if at > size else "it has a field 0")
            found.append((tag, begin, at))
    except IndexError:
        malformed("it ends within a field")
    budget.take(len(found))
    return found


def malformed(reason: str) -> NoReturn:
    """Raise InvalidBody: nobody can read the message, whatever it is meant to be."""
    raise InvalidBody(detail=f"the message is not protobuf: {reason}")


def tag_of(number: int, kind: int = DELIMITED) -> int:
    return number << 3 | kind


def varint_at(message: WireBytes, at: int, most: int) -> tuple[int, int]:
    """The varint that begins at `at`, and where it ends. Raises an IndexError where the message ends."""
    value = 0
    for index in range(most):
        octet = message[at + index]
        value |= (octet & 0x7F) << 7 * index
        if octet <= 0x7F:
            return value, at + index + 1
    malformed(f"a varint has more than {most} bytes")


def _tag_at(message: WireBytes, at: int) -> tuple[int, int]:
    tag, at = varint_at(message, at, _TAG_BYTES)
    if tag >> 32:
        malformed("a tag has more than 32 bits")
    return tag, at


def _skipped(message: WireBytes, at: int, tag: int, budget: FieldBudget, nesting: int) -> int:
    """Where the payload ends that begins at `at`."""
    kind = tag & 7
    if kind == VARINT:
        return varint_at(message, at, VARINT_BYTES)[1]
    if kind in _FIXED_BYTES:
        return at + _FIXED_BYTES[kind]
    if kind == DELIMITED:
        length, at = varint_at(message, at, _LENGTH_BYTES)
        return at + length
    if kind == GROUP:
        return _group_end(message, at, tag + 1, budget, nesting)
    malformed("a group ends that has not begun" if kind == GROUP_END else f"it has a wire type {kind}")


def _group_end(message: WireBytes, at: int, last: int, budget: FieldBudget, nesting: int) -> int:
    if nesting >= MAX_NESTING:
        malformed(f"it is nested more than {MAX_NESTING} deep")
    tag, at = _tag_at(message, at)
    while tag != last:
        budget.take(1)
        at = _skipped(message, at, tag, budget, nesting + 1)
        tag, at = _tag_at(message, at)
    return at
