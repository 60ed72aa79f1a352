"""What is asked and answered, in each of the ways that a server of rows of 1024 floats may want it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aoti_serve.protocol.grpc.wire import FieldBudget, fields_of, tag_of
from aoti_serve.protocol.grpc.written import delimited, packed_numbers, string_field

WIDTH = 1024
Rows = NDArray[np.float32]
# The rows alone; V2 with binary tensors both ways; V2 in JSON; gRPC with raw contents both ways.
Protocol = Literal["raw", "v2", "json", "grpc"]
BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
GRPC_HEADERS = {"Content-Type": "application/grpc", "TE": "trailers"}
_PREFIX = 5  # bytes before a message: whether it is compressed, and its length


class Request(NamedTuple):
    """`least` is how many bytes an answer has at least: those of its rows."""

    headers: dict[str, str]
    body: bytes
    least: int


def rows_of(count: int, seed: int = 7) -> Rows:
    """The same rows in every run."""
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def request(protocol: Protocol, rows: Rows) -> Request:
    if protocol == "raw":
        return Request({"Content-Type": BINARY}, rows.tobytes(), rows.nbytes)
    if protocol == "grpc":
        return Request(GRPC_HEADERS, _framed(_message(rows)), rows.nbytes)
    tensor: dict[str, Any] = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
    if protocol == "json":
        body = json.dumps({"inputs": [tensor | {"data": rows.ravel().tolist()}]})
        return Request({"Content-Type": "application/json"}, body.encode(), rows.size)
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return Request({"Content-Type": BINARY, HEADER_LENGTH: str(len(header))}, header + rows.tobytes(), rows.nbytes)


def answered(protocol: Protocol, headers: Mapping[str, str], body: bytes) -> Rows:
    """The rows in an answer with status 200."""
    if protocol == "json":
        return np.array(json.loads(body)["outputs"][0]["data"], np.float32).reshape(-1, WIDTH)
    if protocol == "grpc":
        (start,) = [begin for tag, begin, _ in fields_of(body, FieldBudget()) if tag == tag_of(6)]
        return np.frombuffer(body[start:], np.float32).reshape(-1, WIDTH)
    start = int(headers[HEADER_LENGTH]) if protocol == "v2" else 0
    return np.frombuffer(body, np.float32, offset=start).reshape(-1, WIDTH)


def _message(rows: Rows) -> bytes:
    """A ModelInferRequest."""
    tensor = string_field(1, "x") + string_field(2, "FP32") + packed_numbers(3, rows.shape)
    return string_field(1, "mlp") + delimited(5, tensor) + delimited(7, rows.tobytes())


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(_PREFIX - 1, "big") + message


def unframed(request: Request) -> bytes:
    """The message of a gRPC request, for clients that frame it themselves."""
    return request.body[_PREFIX:]
