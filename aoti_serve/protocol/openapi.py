"""The inference of one model in OpenAPI: the schemas of its requests and answers, and an example of a request.

OpenAPI 3.1, whose schemas are those of JSON Schema 2020-12. They say of a tensor its name, datatype, rank and sizes.
That its data are as many as its shape says, and that two sizes are equal, no such schema can say.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from aoti_serve.protocol.messages import LEAST_URGENT, LONGEST_KEY
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import BYTES, Dim, DType, Shaped, TensorSpec, dtype_named

JsonSchema = dict[str, Any]

EXAMPLE_ELEMENTS = 4096  # with more, an example in JSON would be no example to read
_VERSION: JsonSchema = {"type": "string", "pattern": "^[0-9]+$"}
_SIZE: JsonSchema = {"type": ["integer", "null"], "minimum": 0, "description": "bytes of the tensor behind the JSON"}
_BINARY: JsonSchema = {"type": ["boolean", "null"], "description": "answer as binary data, not as JSON"}
_COUNT: JsonSchema = {"type": ["integer", "null"], "minimum": 0}
# Of an output: what was split into batches comes back in one piece, so their bounds do not hold for it.
_ANY_SIZES: JsonSchema = {"type": "array", "items": {"type": "integer", "minimum": -1}}  # -1 where rows differ
_PARAMETERS: JsonSchema = {
    "type": ["object", "null"],
    "properties": {
        "timeout": _COUNT | {"description": "in microseconds; beyond it the answer is a 504"},
        "priority": _COUNT | {"maximum": LEAST_URGENT, "description": "1 is the most urgent; 0, or none, means 5"},
        "binary_data_output": _BINARY,
        "routing_key": {
            "type": ["string", "null"],
            "maxLength": LONGEST_KEY,
            "description": "requests of one key are answered by the same version while a candidate is out",
        },
        "sequence_id": {
            "type": ["integer", "string", "null"],
            "minimum": 0,
            "maxLength": LONGEST_KEY,
            "description": "requests that belong together: the first begins, the others ask for its `model_version`",
        },
        "sequence_start": {"type": ["boolean", "null"], "description": "true in the first request of a sequence"},
        "sequence_end": {
            "type": ["boolean", "null"],
            "description": "true in the last; nothing is kept, so it frees nothing",
        },
    },
}


def request_schema(signature: Signature) -> JsonSchema:
    """The JSON of an inference request: all of it, or its head if binary data follows."""
    specs = enumerate(signature.for_any_batch.inputs)
    inputs = [_input(f"INPUT__{place}", spec, signature.lengths) for place, spec in specs]
    needed = len(inputs) - len(signature.padding.masks if signature.padding else ())
    names = [name for place, spec in enumerate(signature.outputs) for name in (spec.name, f"OUTPUT__{place}")]
    wanted = {"name": {"enum": names}, "parameters": _object({"binary_data": _BINARY})}
    properties = {
        "id": {"type": ["string", "null"], "description": "comes back with the answer"},
        "inputs": {"type": "array", "minItems": needed, "maxItems": len(inputs), "items": {"anyOf": inputs}},
        "outputs": {
            "type": ["array", "null"],
            "description": "which, and in which order; all, if none is named",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": wanted,
                "additionalProperties": False,
            },
        },
        "parameters": _PARAMETERS,
        "model_name": {"description": "passed over: the path says it"},
        "model_version": {"description": "passed over: the path says it"},
    }
    return {"type": "object", "required": ["inputs"], "properties": properties, "additionalProperties": False}


def response_schema(name: str, signature: Signature) -> JsonSchema:
    """The JSON of an answer: all of it, or its head if binary data follows."""
    outputs = {"type": "array", "items": {"anyOf": [_output(spec) for spec in signature.outputs]}}
    properties = {
        "model_name": {"const": name},
        "model_version": _VERSION | {"description": "the weights version that computed it"},
        "id": {"type": "string"},
        "outputs": outputs,
    }
    required = ["model_name", "model_version", "outputs"]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def example_request(signature: Signature) -> dict[str, Any]:
    """A request of zeros, as small as it can be. As the head of a binary one if it has no JSON, or very much."""
    shapes = signature.for_any_batch.smallest_inputs
    elements = sum(math.prod(shaped.shape) for shaped in shapes.values())
    binary = elements > EXAMPLE_ELEMENTS or any(dtype_named(shaped.dtype).raw for shaped in shapes.values())
    return {"id": "1", "inputs": [_zeros(name, shaped, binary) for name, shaped in shapes.items()]}


def _zeros(name: str, shaped: Shaped, binary: bool) -> dict[str, Any]:
    dtype, elements = dtype_named(shaped.dtype), math.prod(shaped.shape)
    entry: dict[str, Any] = {"name": name, "datatype": dtype.oip, "shape": list(shaped.shape)}
    if binary:
        return entry | {"parameters": {"binary_data_size": elements * dtype.itemsize}}
    return entry | {"data": [_zero(dtype)] * elements}


def _zero(dtype: DType) -> int | bool | str:
    if dtype is BYTES:
        return ""
    return False if dtype.torch == "bool" else 0


def _input(ordinal: str, spec: TensorSpec, lengths: Collection[str]) -> JsonSchema:
    dtype = dtype_named(spec.dtype)
    sizes = list(map(_size, spec.shape))
    if len(spec.shape) > 1 and isinstance(dim := spec.shape[1], Dim) and dim.symbol in lengths:
        sizes[1] = {
            "anyOf": [sizes[1], {"const": -1, "description": "rows of different lengths, each in its own list"}]
        }
    data = {"type": "array", "items": {"anyOf": [_element(dtype), {"type": "array"}]}, "description": "flat, or nested"}
    properties = {
        "name": {"enum": [spec.name, ordinal]},
        "datatype": {"const": dtype.oip},
        "shape": {"type": "array", "prefixItems": sizes} | _of_rank(len(spec.shape)),
        "parameters": _object({"binary_data_size": _SIZE}),
    }
    schema = {"type": "object", "title": spec.name, "properties": properties, "additionalProperties": False}
    if dtype.raw:  # it has no form in JSON
        return schema | {"required": ["name", "datatype", "shape", "parameters"]}
    properties["data"] = data
    either: list[JsonSchema] = [{"required": ["data"]}, {"required": ["parameters"]}]
    return schema | {"required": ["name", "datatype", "shape"], "anyOf": either}


def _output(spec: TensorSpec) -> JsonSchema:
    dtype = dtype_named(spec.dtype)
    kind = "number" if dtype.raw else _element(dtype)["type"]
    properties = {
        "name": {"const": spec.name},
        "datatype": {"const": dtype.oip},
        "shape": _ANY_SIZES | _of_rank(len(spec.shape)),
        "data": {"type": "array", "items": {"type": [kind, "null"]}, "description": "null for what is not finite"},
        "parameters": _object({"binary_data_size": _SIZE}),
    }
    required = ["name", "datatype", "shape"]
    return {"type": "object", "title": spec.name, "required": required, "properties": properties}


def _object(properties: dict[str, JsonSchema]) -> JsonSchema:
    return {"type": ["object", "null"], "properties": properties}


def _of_rank(rank: int) -> JsonSchema:
    return {"minItems": rank, "maxItems": rank}


def _size(dim: int | Dim) -> JsonSchema:
    if isinstance(dim, int):
        return {"const": dim}
    bounds = {"minimum": dim.min} if dim.max is None else {"minimum": dim.min, "maximum": dim.max}
    return {"type": "integer", "title": dim.symbol, **bounds}


def _element(dtype: DType) -> JsonSchema:
    if dtype is BYTES:
        return {"type": "string"}
    kind = np.dtype(dtype.numpy).kind
    if kind in "iu":
        bounds = np.iinfo(dtype.numpy)
        return {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}
    return {"type": "boolean" if kind == "b" else "number"}
