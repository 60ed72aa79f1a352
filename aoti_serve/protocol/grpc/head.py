"""The head of a `ModelInferRequest`: what it says of the tensors, and those that it holds as typed contents.

Field numbers are those of `ModelInferRequest` in Triton's grpc_service.proto. What the fields may say is as in JSON.
"""

from __future__ import annotations

import math
from typing import Any

from aoti_serve.config import GatewayConfig
from aoti_serve.protocol.checks import (
    MAX_RANK,
    check_rank,
    check_tensor_count,
    checked_dtype,
    checked_head,
    checked_nbytes,
    checked_parameters,
    checked_shape,
)
from aoti_serve.protocol.grpc.contents import array_from_contents
from aoti_serve.protocol.grpc.parameters import parameters_of
from aoti_serve.protocol.grpc.payloads import last_text, payloads_of, signed_numbers
from aoti_serve.protocol.grpc.varints import count_varints, joined_varints
from aoti_serve.protocol.grpc.wire import DELIMITED, VARINT, FieldBudget, WireBytes, tag_of
from aoti_serve.protocol.messages import InputHead, RequestHead
from aoti_serve.signature.tensors import BYTES, DType

_REQUEST = {tag_of(4): "parameters", tag_of(5): "inputs", tag_of(6): "outputs"}
_INPUT = {tag_of(1): "name", tag_of(2): "datatype", tag_of(4): "parameters", tag_of(5): "contents"}
_INPUT |= {tag_of(3, kind): "shape" for kind in (DELIMITED, VARINT)}
_OUTPUT = {tag_of(1): "name", tag_of(2): "parameters"}


def decode_infer_head(head: WireBytes, limits: GatewayConfig) -> RequestHead:
    """Read the head of a ModelInferRequest, as it was cut. Raises an InvalidInput that names the input, or InvalidBody.

    An input with contents has its array, perhaps a view of the head; one without has `nbytes`, which `raw_arrays` looks
    for. The id was cut off, so it is None. Whether it fits a model is checked later, against the signature.
    """
    budget = FieldBudget()
    found = payloads_of([memoryview(head)], _REQUEST, budget)
    for what in ("inputs", "outputs"):
        check_tensor_count(len(found[what]), what, limits)
    parameters = checked_parameters(parameters_of(found["parameters"], budget, nesting=1))
    inputs = tuple([_input(entry, budget) for entry in found["inputs"]])
    return checked_head(None, inputs, [_output(entry, budget) for entry in found["outputs"]], parameters)


def _input(entry: memoryview, budget: FieldBudget) -> InputHead:
    found = payloads_of([entry], _INPUT, budget, nesting=1)
    name = last_text(found["name"])
    dtype = checked_dtype(name, last_text(found["datatype"]))
    shape = checked_shape(name, _sizes(name, found["shape"]))
    nbytes = _nbytes(name, dtype, shape, parameters_of(found["parameters"], budget, nesting=2))
    if not found["contents"]:
        return InputHead(name, dtype.torch, shape, nbytes)
    return InputHead(name, dtype.torch, shape, None, array_from_contents(name, dtype, shape, found["contents"], budget))


def _sizes(name: str, payloads: list[memoryview]) -> list[int]:
    packed = joined_varints(payloads)
    if len(packed) > MAX_RANK:  # else they are no more
        check_rank(name, count_varints(packed))
    return signed_numbers(packed)


def _nbytes(name: str, dtype: DType, shape: tuple[int, ...], parameters: dict[str, Any]) -> int:
    """How many bytes the input has; a client may say so itself, as in JSON."""
    size = checked_parameters(parameters, name).get("binary_data_size")
    sent = None if size is None else checked_nbytes(name, dtype, shape, size)
    # Of strings the least: how long they are is said where they are.
    return math.prod(shape) * dtype.itemsize if sent is None or dtype is BYTES else sent


def _output(entry: memoryview, budget: FieldBudget) -> tuple[str, dict[str, Any]]:
    found = payloads_of([entry], _OUTPUT, budget, nesting=1)
    return last_text(found["name"]), checked_parameters(parameters_of(found["parameters"], budget, nesting=2))
