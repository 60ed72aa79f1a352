"""Checks of what a request says, the same for JSON and protobuf: dtypes, shapes, sizes, parameters, numbers of tensors.

Values are as JSON has them: what is a number in protobuf may still be a string, a list or nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import (
    InvalidBody,
    InvalidInputData,
    TooManyTensors,
    UnservedParameter,
    WrongInputLength,
    shown_value,
)
from aoti_serve.protocol.messages import LEAST_URGENT, LONGEST_KEY, InputHead, RequestHead, SequenceStep
from aoti_serve.protocol.strings import check_strings, strings_from_raw
from aoti_serve.signature.tensors import BY_OIP, BYTES, DTYPES, DType

MAX_RANK = 32
MAX_ELEMENTS = 2**48
MAX_EMPTY = 2**24  # the product of an empty tensor's other sizes: no byte is sent for them
# What Triton's clients may ask for, and what would be passed over in silence; and what to do instead.
_SHARED_MEMORY = "a client's shared memory is not read or written here; send the tensors themselves"
UNSERVED = {
    "classification": "a client takes the largest of the outputs itself, or the model does",
    "shared_memory_region": _SHARED_MEMORY,
    "shared_memory_byte_size": _SHARED_MEMORY,
    "shared_memory_offset": _SHARED_MEMORY,
    "headers": "a compiled model takes tensors only; leave it out",
}
TRITONS = "triton_"
FINAL = "triton_enable_empty_final_response"  # each answer is the final one; perf_analyzer asks for it over gRPC
_TRITONS_OWN = "names that begin so are kept for Triton's own; call it otherwise, or leave it out"


def check_tensor_count(got: int, what: str, limits: GatewayConfig) -> None:
    """Raises TooManyTensors; `what` is "inputs", or what else is counted."""
    if got > limits.max_request_tensors:
        raise TooManyTensors(got=got, what=what, limit=limits.max_request_tensors)


def checked_dtype(name: str, datatype: object) -> DType:
    """The dtype of input `name`. Raises InvalidInputData."""
    dtype = BY_OIP.get(datatype) if isinstance(datatype, str) else None
    if datatype == BYTES.oip:
        return BYTES
    if dtype is None:
        raise InvalidInputData(name=name, detail=f"datatype {shown_value(datatype)} is not one of {', '.join(BY_OIP)}")
    return dtype


def checked_shape(name: str, value: Any) -> tuple[int, ...]:
    """The shape of input `name`. Raises InvalidInputData."""
    if not isinstance(value, list):
        raise InvalidInputData(name=name, detail=f"shape is {shown_value(value)}, not a list of sizes")
    check_rank(name, len(value))
    for size in value:
        if type(size) is not int or size < 0:
            raise InvalidInputData(name=name, detail=f"shape holds {shown_value(size)} where a size belongs")
    if math.prod([size or 1 for size in value]) > (MAX_EMPTY if 0 in value else MAX_ELEMENTS):
        raise InvalidInputData(name=name, detail=f"shape {value} is beyond what a tensor can have")
    return tuple(value)


def check_rank(name: str, rank: int) -> None:
    if rank > MAX_RANK:
        raise InvalidInputData(name=name, detail=f"shape has {rank} sizes, a tensor has at most {MAX_RANK}")


def checked_nbytes(name: str, dtype: DType, shape: tuple[int, ...], size: object) -> int:
    """The parameter binary_data_size of input `name`. Raises InvalidInputData, or WrongInputLength."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidInputData(name=name, detail=f"binary_data_size is {shown_value(size)}, not a number of bytes")
    if dtype is BYTES:
        check_strings(name, shape)
        return size
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise WrongInputLength(name=name, got=size, unit="bytes", shape=list(shape), expected=expected)
    return size


def checked_parameters(value: Any, owner: str | None = None) -> dict[str, Any]:
    """Parameters, none of which would be passed over. Of input `owner`, or of the request.

    Raises UnservedParameter, and InvalidBody, or InvalidInputData of the input.
    """
    value = {} if value is None else value
    if not isinstance(value, dict):
        detail = "'parameters' must be an object"
    else:
        for name in value:
            if name in UNSERVED or (name.startswith(TRITONS) and name != FINAL):
                where = "" if owner is None else f"input '{owner}': "
                raise UnservedParameter(where=where, name=name, instead=UNSERVED.get(name, _TRITONS_OWN))
        return value
    raise InvalidBody(detail=detail) if owner is None else InvalidInputData(name=owner, detail=detail)


def checked_head(
    identity: str | None,
    inputs: tuple[InputHead, ...],
    outputs: Sequence[tuple[str, dict[str, Any]]],
    parameters: dict[str, Any],
) -> RequestHead:
    """The head of a request with these parameters; `outputs` are the wanted names, each with its own parameters.

    Raises InvalidBody.
    """
    names = [name for name, _ in outputs]
    flags = [_flag(wanted, "binary_data") for _, wanted in outputs]
    timeout = _count(parameters, "timeout", "a whole number of microseconds")
    return RequestHead(
        id=identity,
        inputs=inputs,
        outputs=names or None,
        binary=list(compress(names, flags)),
        binary_default=_flag(parameters, "binary_data_output"),
        priority=_count(parameters, "priority", f"a level from 1, the most urgent, to {LEAST_URGENT}", LEAST_URGENT),
        timeout=timeout / 1e6 if timeout else None,
        routing_key=_text(parameters, "routing_key"),
        sequence=_sequence(parameters),
    )


def tensor_view(tensor: InputHead, raw: memoryview) -> NDArray[Any]:
    """The tensor whose bytes are `raw`, without a copy but of strings. Raises an InvalidInput."""
    if tensor.dtype == BYTES.torch:
        return strings_from_raw(tensor.name, raw, tensor.shape)
    if tensor.dtype == "bool" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise InvalidInputData(name=tensor.name, detail="a byte of BOOL data is neither 0 nor 1")
    return np.frombuffer(raw, DTYPES[tensor.dtype].numpy).reshape(tensor.shape)


def _count(parameters: dict[str, Any], name: str, wanted: str, most: int = 2**63) -> int:
    value = parameters.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidBody(detail=f"parameter '{name}' is {shown_value(value)}, not {wanted}")
    return value


def _text(parameters: dict[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and (type(value) is not str or len(value) > LONGEST_KEY):
        raise InvalidBody(
            detail=f"parameter '{name}' is {shown_value(value)}, no text of {LONGEST_KEY} characters or less"
        )
    return value


def _sequence(parameters: dict[str, Any]) -> SequenceStep | None:
    """An id that is 0, or empty, is none, as in Triton."""
    identity, marks = parameters.get("sequence_id"), [_flag(parameters, f"sequence_{end}") for end in ("start", "end")]
    if type(identity) is int and 0 < identity < 2**64:
        return SequenceStep(str(identity), begins=marks[0])
    if isinstance(identity, str) and 0 < len(identity) <= LONGEST_KEY:
        return SequenceStep(repr(identity), begins=marks[0])
    if type(identity) not in (int, str, type(None)) or identity:
        wanted = f"neither a whole number nor text of {LONGEST_KEY} characters or less"
        raise InvalidBody(detail=f"parameter 'sequence_id' is {shown_value(identity)}, {wanted}")
    if any(marks):
        raise InvalidBody(detail="parameter 'sequence_start' or 'sequence_end' is true, and there is no 'sequence_id'")
    return None


def _flag(parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidBody(detail=f"parameter '{name}' is {shown_value(value)}, neither true nor false")
    return bool(value)
