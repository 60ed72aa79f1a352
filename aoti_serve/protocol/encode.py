"""V2 responses to bytes, JSON and binary."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import orjson
from numpy.typing import NDArray

from aoti_serve.protocol.messages import InferResponse, RequestHead
from aoti_serve.tensors import DTYPES, TensorSpec


class Encoded(NamedTuple):
    """A response body; `header_length` is that of its JSON part when binary data follows it, else None."""

    body: bytes
    header_length: int | None


def encode_response(response: InferResponse, asked: RequestHead) -> Encoded:
    """Each output in the form that was asked for; binary data is copied once, into the body."""
    outputs: list[dict[str, Any]] = []
    tails: list[memoryview] = []
    for spec, array in response.outputs:
        entry: dict[str, Any] = {
            "name": spec.name,
            "datatype": DTYPES[spec.dtype].oip,
            "shape": list(array.shape),
        }
        if asked.wants_binary(spec.name):
            entry["parameters"] = {"binary_data_size": array.nbytes}
            tails.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        else:
            entry["data"] = _json_values(spec, array)
        outputs.append(entry)
    message = {"model_name": response.model_name, "model_version": str(response.model_version), "outputs": outputs}
    if response.id is not None:
        message["id"] = response.id
    header = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return Encoded(b"".join([header, *tails]), len(header) if tails else None)


def _json_values(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(getattr(ml_dtypes, spec.dtype)).astype(np.float32) if DTYPES[spec.dtype].raw else flat
