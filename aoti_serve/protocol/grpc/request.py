"""`ModelInferRequest` cut in two, and its raw tensors, which are views of the message.

What differs from one request of a client to the next is taken out: the raw contents and the id. What is left is the
head. Like the head of JSON it holds all that is checked, so one that comes again and again is read once. Field numbers
are those of `ModelInferRequest` in Triton's grpc_service.proto; KServe's grpc_predict_v2.proto has the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from aoti_serve.config import GatewayConfig
from aoti_serve.errors import InvalidBody, InvalidInputData, WrongInputLength, quantity
from aoti_serve.protocol.checks import check_tensor_count, tensor_view
from aoti_serve.protocol.grpc.payloads import text
from aoti_serve.protocol.grpc.wire import FieldBudget, WireBytes, fields_of, tag_of
from aoti_serve.protocol.messages import InputHead, RequestHead
from aoti_serve.signature.tensors import BYTES

_RAW = tag_of(7)
_CALLED = {tag_of(1): "model_name", tag_of(2): "model_version", tag_of(3): "id"}
SMALL_HEAD = 2**12  # bytes: such a head is bytes of its own, so that it can be kept without the message


class CutRequest(NamedTuple):
    """A request cut in two: `head` is what `decode_infer_head` reads, `raw` are the raw_input_contents.

    `model_version` is None where the client leaves it to the server, `id` where it gives none.
    """

    model_name: str
    model_version: str | None
    id: str | None
    head: WireBytes
    raw: list[memoryview]


def cut_request(message: WireBytes, limits: GatewayConfig) -> CutRequest:
    """Cut a ModelInferRequest; no tensor is copied. Raises InvalidBody, or TooManyTensors."""
    view, called = memoryview(message), {"model_name": "", "model_version": "", "id": ""}
    raw: list[memoryview] = []
    runs: list[list[int]] = []
    before = 0
    for tag, begin, end in fields_of(message, FieldBudget()):
        if tag == _RAW:
            raw.append(view[begin:end])
        elif tag in _CALLED:
            called[_CALLED[tag]] = text(view[begin:end])
        elif runs and runs[-1][1] == before:
            runs[-1][1] = end
        else:
            runs.append([before, end])
        before = end
    check_tensor_count(len(raw), "raw_input_contents", limits)
    head = _head([view[begin:end] for begin, end in runs], limits)
    return CutRequest(called["model_name"], called["model_version"] or None, called["id"] or None, head, raw)


def raw_arrays(head: RequestHead, raw: list[memoryview]) -> list[NDArray[Any]]:
    """The inputs in the head's order; those that are raw are views. Raises an InvalidInput that names the input."""
    if not raw:
        return [_without_raw(tensor) for tensor in head.inputs]
    for tensor in head.inputs:
        if tensor.array is not None:
            raise InvalidInputData(name=tensor.name, detail="contents must not be given with raw_input_contents")
    if len(raw) != len(head.inputs):
        raise InvalidBody(detail=f"{len(raw)} raw_input_contents were sent for {quantity(len(head.inputs), 'inputs')}")
    return [_from_raw(tensor, data) for tensor, data in zip(head.inputs, raw, strict=True)]


def _head(pieces: list[memoryview], limits: GatewayConfig) -> WireBytes:
    nbytes = sum(map(len, pieces))
    if nbytes > limits.max_json_bytes:
        beyond = f"more than {limits.max_json_bytes} bytes (gateway.max_json_bytes)"
        raise InvalidBody(detail=f"{beyond} beside raw_input_contents; send the tensors there")
    return pieces[0] if len(pieces) == 1 and nbytes > SMALL_HEAD else b"".join(pieces)


def _without_raw(tensor: InputHead) -> NDArray[Any]:
    if tensor.array is not None:
        return tensor.array
    if tensor.nbytes:
        raise InvalidInputData(name=tensor.name, detail="neither contents nor raw_input_contents are given")
    return tensor_view(tensor, memoryview(b""))


def _from_raw(tensor: InputHead, data: memoryview) -> NDArray[Any]:
    if tensor.dtype != BYTES.torch and len(data) != tensor.nbytes:
        assert tensor.nbytes is not None
        shape = list(tensor.shape)
        raise WrongInputLength(name=tensor.name, got=len(data), unit="bytes", shape=shape, expected=tensor.nbytes)
    return tensor_view(tensor, data)
