"""The operations of the server and of one model: the Open Inference Protocol, and what is served of Triton's."""

from __future__ import annotations

from typing import Any, NamedTuple

from aoti_serve.gateway.openapi.operations import OpenApi, json_answer, operation, parameter, ref
from aoti_serve.protocol.messages import model_metadata
from aoti_serve.protocol.openapi import example_request
from aoti_serve.signature.signature import Signature

SERVER = "server"
_OCTETS: OpenApi = {"schema": {"type": "string", "format": "binary"}}
_LENGTH: OpenApi = {"type": "integer", "minimum": 0}
_HEADER_LENGTH = "Inference-Header-Content-Length"
_INFER_ERRORS = (400, 404, 410, 413, 500, 503, 504)
_IN_BYTES = (
    "Tensors go as JSON, or as bytes behind it: then `Inference-Header-Content-Length` says how long the JSON is, and "
    "`binary_data_size` of each input how many bytes it has. Outputs come as bytes that `binary_data` asks for. "
    "Bodies may be compressed with gzip or deflate."
)


class DescribedModel(NamedTuple):
    """A model as a document shows it. `version` is the one that answers."""

    name: str
    version: int
    signature: Signature


def server_paths(models: list[str]) -> OpenApi:
    """The paths that belong to no model."""
    ready = {status: json_answer(text, ref("Ready")) for status, text in ((200, "Ready."), (503, "Not ready."))}
    index: OpenApi = {"content": {"application/json": {"schema": ref("IndexRequest"), "example": {"ready": True}}}}
    listed = json_answer("The models.", ref("Models"), example={"models": models})
    led: dict[int, OpenApi] = {307: {"description": "A browser is led to a page."}}
    return {
        "/": {"get": operation("root", SERVER, "Who answers here, and where to go on", _one("Root") | led)},
        "/v2": {"get": operation("server", SERVER, "Name, version and extensions", _one("ServerMetadata"))},
        "/v2/health/live": {"get": operation("live", SERVER, "Whether it is alive", _one("Live"))},
        "/v2/health/ready": {"get": operation("ready", SERVER, "Whether every model answers", ready)},
        "/ready": {"get": operation("also_ready", SERVER, "The same as /v2/health/ready", ready)},
        "/v2/models": {"get": operation("models", SERVER, "The models", {200: listed})},
        "/v2/models/stats": {
            "get": operation("stats", SERVER, "What all models have answered", _one("Statistics"), errors=(503,))
        },
        "/v2/repository/index": {
            "post": operation(
                "index", SERVER, "The models, as Triton lists them", _one("Index"), errors=(400, 413), body=index
            )
        },
    }


def figures_paths(name: str) -> OpenApi:
    """The path of a model's live figures."""
    summary = "What it does now: totals, the latencies by bucket, and what waits"
    return {
        f"/v2/models/{name}/figures": {
            "get": operation(f"{name}.figures", name, summary, _one("LiveFigures"), errors=(404,))
        }
    }


def model_paths(model: DescribedModel) -> OpenApi:
    """The paths of one model, and of its version that answers."""
    version = parameter(
        *("path", "version", {"type": "string"}, "the weights version that must answer, or a label of it"),
        example=str(model.version),
    )
    return _paths(model, f"/v2/models/{model.name}", "", []) | _paths(
        model, f"/v2/models/{model.name}/versions/{{version}}", ".version", [version]
    )


def _paths(model: DescribedModel, prefix: str, suffix: str, parameters: list[OpenApi]) -> OpenApi:
    name, signature = model.name, model.signature
    about = model_metadata(name, [model.version], signature.inputs, signature.outputs)
    ready = {status: json_answer(text, ref("ModelReady")) for status, text in ((200, "Ready."), (503, "Not ready."))}

    def get(what: str, summary: str, answers: dict[int, OpenApi], *errors: int) -> OpenApi:
        identity = f"{name}.{what}{suffix}"
        return {"get": operation(identity, name, summary, answers, errors=(404, *errors), parameters=parameters)}

    described = {200: json_answer("Its inputs and outputs.", ref("ModelMetadata"), example=about)}
    return {
        f"{prefix}/infer": {"post": _infer(model, suffix, parameters)},
        prefix: get("metadata", "Inputs and outputs", described),
        f"{prefix}/ready": get("ready", "Whether it answers", ready),
        f"{prefix}/config": get("config", "Its configuration, as Triton's clients read it", _one("ModelConfig")),
        f"{prefix}/stats": get("stats", "What it has answered, by version", _one("Statistics"), 503),
    }


def _infer(model: DescribedModel, suffix: str, parameters: list[OpenApi]) -> OpenApi:
    name = model.name
    request = {"schema": ref(f"{name}.Request"), "example": example_request(model.signature)}
    body = {"required": True, "content": {"application/json": request, "application/octet-stream": _OCTETS}}
    answer = json_answer("The outputs.", ref(f"{name}.Response"))
    answer["content"]["application/octet-stream"] = _OCTETS
    answer["headers"] = {_HEADER_LENGTH: {"schema": _LENGTH, "description": "if outputs come as bytes"}}
    headers = [
        parameter("header", _HEADER_LENGTH, _LENGTH, "length of the JSON, if bytes follow it"),
        parameter("header", "X-Request-Timeout-Seconds", {"type": "number"}, "0 or less is no limit"),
    ]
    return operation(
        f"{name}.infer{suffix}",
        name,
        "Run the model",
        {200: answer},
        errors=_INFER_ERRORS,
        parameters=[*parameters, *headers],
        body=body,
        description=_IN_BYTES,
    )


def _one(schema: str) -> dict[int, OpenApi]:
    return {200: json_answer("The answer.", ref(schema))}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> OpenApi:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


_STRING: OpenApi = {"type": "string"}
_STRINGS: OpenApi = {"type": "array", "items": _STRING}
_BOOLEAN: OpenApi = {"type": "boolean"}
_LIST: OpenApi = {"type": "array", "items": {"type": "object"}}
_STATE: OpenApi = {"enum": ["READY", "UNAVAILABLE"]}
SCHEMAS: OpenApi = {
    "Root": _object(
        {"name": _STRING, "version": _STRING, "protocol": _STRING, "models": _STRING},
        {"console": _STRING, "docs": _STRING},
    ),
    "ServerMetadata": _object({"name": _STRING, "version": _STRING, "extensions": _STRINGS}),
    "Live": _object({"live": {"const": True}}),
    "Ready": _object({"ready": _BOOLEAN}, {"reason": _STRING}),
    "Models": _object({"models": _STRINGS}),
    "IndexRequest": _object({}, {"ready": _BOOLEAN}),
    "Index": {
        "type": "array",
        "items": _object({"name": _STRING, "version": _STRING, "state": _STATE, "reason": _STRING}),
    },
    "ModelMetadata": _object(
        {"name": _STRING, "versions": _STRINGS, "platform": _STRING, "inputs": _LIST, "outputs": _LIST}
    ),
    "Statistics": _object({"model_stats": _LIST}),
    "LiveFigures": _object(
        {
            "gateway": _STRING,
            "version": _LENGTH,
            "all": {"type": ["object", "null"]},
            "answered": _LENGTH,
            "failed": {"type": "object"},
            "latency": _object({"bounds": {"type": "array"}, "counts": {"type": "array"}}),
            "waiting": _LENGTH,
            "batches": _LENGTH,
            "runners": _LENGTH,
            "replicas": _LIST,
        }
    ),
    "ModelReady": _object({"name": _STRING, "ready": _BOOLEAN}),
    "ModelConfig": _object(
        {"name": _STRING, "platform": _STRING, "max_batch_size": _LENGTH, "input": _LIST, "output": _LIST}
    ),
}
