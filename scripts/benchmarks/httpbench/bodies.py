"""What is asked and answered over HTTP, in each of the ways that a server of rows of 1024 floats may want it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH = 1024
Rows = NDArray[np.float32]
# The rows alone; V2 with binary tensors both ways; V2 in JSON.
Protocol = Literal["raw", "v2", "json"]
BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"


class Request(NamedTuple):
    headers: dict[str, str]
    body: bytes


def rows_of(count: int, seed: int = 7) -> Rows:
    """The same rows in every run."""
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def request(protocol: Protocol, rows: Rows) -> Request:
    if protocol == "raw":
        return Request({"Content-Type": BINARY}, rows.tobytes())
    tensor: dict[str, Any] = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
    if protocol == "json":
        body = json.dumps({"inputs": [tensor | {"data": rows.ravel().tolist()}]})
        return Request({"Content-Type": "application/json"}, body.encode())
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return Request({"Content-Type": BINARY, HEADER_LENGTH: str(len(header))}, header + rows.tobytes())


def answered(protocol: Protocol, headers: Mapping[str, str], body: bytes) -> Rows:
    """The rows in an answer with status 200."""
    if protocol == "json":
        return np.array(json.loads(body)["outputs"][0]["data"], np.float32).reshape(-1, WIDTH)
    start = int(headers[HEADER_LENGTH]) if protocol == "v2" else 0
    return np.frombuffer(body, np.float32, offset=start).reshape(-1, WIDTH)
