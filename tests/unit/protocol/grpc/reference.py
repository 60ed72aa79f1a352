"""What a `ModelInferRequest` means, from the message that protobuf reads: slow, plain, and written apart from ours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.protocol.grpc.head import decode_infer_head
from aoti_serve.protocol.grpc.request import cut_request, raw_arrays
from aoti_serve.signature.tensors import BY_OIP, BYTES, DType

ALL: dict[str, DType] = {**BY_OIP, "BYTES": BYTES}
TYPED = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
REFUSED = {"classification", "shared_memory_region"}


class Refused(Exception):
    """The message can be read, and asks for what is not answered."""


class Meaning(NamedTuple):
    """A request in full."""

    asked: tuple[Any, ...]
    inputs: list[tuple[str, str, tuple[int, ...]]]
    arrays: list[NDArray[Any]]

    def equals(self, other: Meaning) -> bool:
        return (self.asked, self.inputs) == (other.asked, other.inputs) and all(map(same, self.arrays, other.arrays))


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """NaNs are equal, whatever their bits: protobuf's Python makes doubles of floats."""
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def ours(data: bytes, limits: GatewayConfig) -> Meaning:
    """What our code reads. Raises its errors."""
    cut = cut_request(data, limits)
    head = decode_infer_head(cut.head, limits)
    called = (cut.model_name, cut.model_version, cut.id)
    asked = (head.outputs, list(head.binary), head.binary_default, head.priority, head.timeout)
    inputs = [(tensor.name, tensor.dtype, tensor.shape) for tensor in head.inputs]
    return Meaning((*called, *asked), inputs, raw_arrays(head, cut.raw))


def meaning(message: Any) -> Meaning:
    """Raises Refused."""
    parameters = _parameters(message)
    timeout = _count(parameters, "timeout", 2**63)
    outputs = [(output.name, _flag(_parameters(output), "binary_data")) for output in message.outputs]
    asked = (
        message.model_name,
        message.model_version or None,
        message.id or None,
        [name for name, _ in outputs] or None,
        [name for name, binary in outputs if binary],
        _flag(parameters, "binary_data_output"),
        _count(parameters, "priority", 9),
        timeout / 1e6 if timeout else None,
    )
    inputs = [(tensor.name, _torch(tensor.datatype), _shape(tensor)) for tensor in message.inputs]
    return Meaning(asked, inputs, _arrays(message))


def _arrays(message: Any) -> list[NDArray[Any]]:
    raw = message.raw_input_contents
    if raw and (len(raw) != len(message.inputs) or any(tensor.HasField("contents") for tensor in message.inputs)):
        raise Refused
    if raw:
        return [_raw(tensor, data) for tensor, data in zip(message.inputs, raw, strict=True)]
    return [_typed(tensor) for tensor in message.inputs]


def _raw(tensor: Any, data: bytes) -> NDArray[Any]:
    dtype = ALL[tensor.datatype]
    if dtype is BYTES:
        return _strings(tensor, list(_raw_strings(data)))
    if len(data) != math.prod(tensor.shape) * dtype.itemsize or (dtype.torch == "bool" and set(data) - {0, 1}):
        raise Refused
    return np.frombuffer(data, dtype.numpy).reshape(_shape(tensor))


def _raw_strings(data: bytes) -> Iterator[bytes]:
    while data:
        length = int.from_bytes(data[:4], "little")
        if len(data) < 4 + length:
            raise Refused
        yield data[4 : 4 + length]
        data = data[4 + length :]


def _strings(tensor: Any, values: list[bytes]) -> NDArray[Any]:
    if len(values) != math.prod(tensor.shape):
        raise Refused
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(_shape(tensor))


def _typed(tensor: Any) -> NDArray[Any]:
    dtype = np.dtype(ALL[tensor.datatype].numpy)
    if not tensor.HasField("contents"):
        return _raw(tensor, b"")
    given = {field.name: list(values) for field, values in tensor.contents.ListFields()}
    if tensor.datatype not in TYPED or given.keys() - {TYPED[tensor.datatype]}:
        raise Refused
    values = given.get(TYPED[tensor.datatype], [])
    if len(values) != math.prod(tensor.shape):
        raise Refused
    if dtype.kind == "O":
        return _strings(tensor, values)
    if dtype.kind in "iu" and any(not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max for value in values):
        raise Refused
    return np.array(values, dtype).reshape(_shape(tensor))


def _torch(datatype: str) -> str:
    if datatype not in ALL:
        raise Refused
    return ALL[datatype].torch


def _shape(tensor: Any) -> tuple[int, ...]:
    shape = list(tensor.shape)
    if len(shape) > 32 or any(size < 0 for size in shape):
        raise Refused
    if math.prod(size or 1 for size in shape) > (2**24 if 0 in shape else 2**48):
        raise Refused
    size = _parameters(tensor).get("binary_data_size")
    if tensor.datatype == "BYTES" and type(size) is int and size >= 0:
        return tuple(shape)
    if size is not None and (type(size) is not int or size != math.prod(shape) * ALL[tensor.datatype].itemsize):
        raise Refused
    return tuple(shape)


def _parameters(owner: Any) -> dict[str, Any]:
    found = {}
    for name, value in owner.parameters.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, choice) if choice else None
    if REFUSED & found.keys():
        raise Refused
    return found


def _count(parameters: dict[str, Any], name: str, most: int) -> int:
    value = parameters.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= most):
        raise Refused
    return value or 0


def _flag(parameters: dict[str, Any], name: str) -> bool:
    if type(value := parameters.get(name)) not in (bool, type(None)):
        raise Refused
    return bool(value)


def lost_an_entry(message: Any) -> bool:
    """Whether protobuf's Python has put an entry of a map aside, because it has an unknown field.

    Its parsers in C++, Java, Go and pure Python keep such an entry, and so do we.
    """
    owners = [(message, 4), *((tensor, 4) for tensor in message.inputs), *((output, 2) for output in message.outputs)]
    return any(
        (field.field_number, field.wire_type) == (number, 2)
        for owner, number in owners
        for field in UnknownFieldSet(owner)
    )
