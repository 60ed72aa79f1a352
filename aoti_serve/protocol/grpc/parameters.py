"""Parameters: `map<string, InferParameter>`, to what JSON would have said.

A map is a list of entries `{key = 1; value = 2}`, of which the last with a key counts. A parameter that says nothing is
None, as null is in JSON. Fields are those of `InferParameter` in Triton's grpc_service.proto.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from aoti_serve.protocol.grpc.payloads import last_text, payloads_of, signed, text, unsigned
from aoti_serve.protocol.grpc.wire import DELIMITED, FIXED64, VARINT, FieldBudget, WireBytes, fields_of, tag_of

ParameterValue = bool | int | str | float | None

_ENTRY = {tag_of(1): "key", tag_of(2): "value"}
_DOUBLE = Struct("<d")


def _bool(payload: WireBytes) -> bool:
    return unsigned(payload) != 0


def _double(payload: WireBytes) -> float:
    return float(_DOUBLE.unpack(payload)[0])


_CHOICES: dict[int, Callable[[WireBytes], ParameterValue]] = {
    tag_of(1, VARINT): _bool,
    tag_of(2, VARINT): signed,
    tag_of(3, DELIMITED): text,
    tag_of(4, FIXED64): _double,
    tag_of(5, VARINT): unsigned,
}


def parameters_of(entries: list[memoryview], budget: FieldBudget, nesting: int) -> dict[str, ParameterValue]:
    """The parameters in these entries of a map; `nesting` counts the messages around them. Raises InvalidBody."""
    return dict(_entry(entry, budget, nesting) for entry in entries)


def _entry(entry: memoryview, budget: FieldBudget, nesting: int) -> tuple[str, ParameterValue]:
    found = payloads_of([entry], _ENTRY, budget, nesting)
    return last_text(found["key"]), _chosen(found["value"], budget, nesting + 1)


def _chosen(pieces: list[memoryview], budget: FieldBudget, nesting: int) -> ParameterValue:
    """What an InferParameter chooses last."""
    value: ParameterValue = None
    for piece in pieces:
        for tag, begin, end in fields_of(piece, budget, nesting):
            if tag in _CHOICES:
                value = _CHOICES[tag](piece[begin:end])
    return value
