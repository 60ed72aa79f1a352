"""The operations of the weights API, from the classes that its routes read and write."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from aoti_serve.cluster.status import WeightsStatus
from aoti_serve.gateway.http.weights.candidates import NoOptions
from aoti_serve.gateway.http.weights.labels import LabelBody
from aoti_serve.gateway.http.weights.offers import OfferedAsset
from aoti_serve.gateway.http.weights.swaps import RollbackBody, SwapBody
from aoti_serve.gateway.openapi.operations import OpenApi, json_answer, operation, parameter, ref
from aoti_serve.gateway.openapi.weights_words import DETAILS
from aoti_serve.weights.labels import NAME_PATTERN, RESERVED, VersionLabels
from aoti_serve.weights.store.usage import StoredVersion
from aoti_serve.weights.swap.story import StoryEvent
from aoti_serve.weights.swap_options import ExposureOptions, SwapOptions
from aoti_serve.weights.version import GoldenFile

ADMIN = "admin"
GOLDEN_SUMMARY = "Send golden requests, a file of them, for swaps that name its `digest` as `golden`"
ASSETS_SUMMARY = "Send a file that the processor reads, for swaps that name its `digest` in `assets`"
SCHEME: OpenApi = {"type": "http", "scheme": "bearer", "description": "the admin token"}
_READ_ERRORS = (401, 403, 404, 429, 503)
_CHANGE_ERRORS = (400, 401, 403, 404, 409, 413, 429, 500, 503, 507)
_OPTIONS = SwapOptions.model_json_schema()["properties"]
_WAIT = parameter(
    "query", "wait", {"type": "boolean", "default": True}, "whether to answer when it has ended, or at once"
)

_NO_LABEL: OpenApi = {"anyOf": [{"pattern": "^[0-9]+$"}, {"enum": [*RESERVED]}]}
_LABEL = parameter(
    *("path", "label", {"type": "string", "pattern": f"^{NAME_PATTERN}$", "not": _NO_LABEL}, "its name"),
    example="stable",
)
_EXPECTED = parameter("query", "expected", {"type": "integer", "minimum": 0}, "only if it names this version now")


def weights_schemas() -> OpenApi:
    """The schemas of all that comes and goes."""
    bodies = [(kind, "validation") for kind in (SwapBody, RollbackBody, ExposureOptions, NoOptions, LabelBody)]
    answered = (WeightsStatus, StoredVersion, StoryEvent, GoldenFile, OfferedAsset, VersionLabels)
    answers = [(kind, "serialization") for kind in answered]
    kinds: Any = bodies + answers
    _, found = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    schemas: OpenApi = found["$defs"]
    schemas["AdapterConfig"]["additionalProperties"] = True  # it is PEFT's file, of which the rest changes nothing
    return schemas


def weights_paths(model: str) -> OpenApi:
    """The paths of the weights API of one model."""
    prefix = f"/v2/models/{model}/weights"

    def get(name: str, summary: str, answer: OpenApi) -> OpenApi:
        return {"get": _guarded(model, name, summary, {200: answer}, errors=_READ_ERRORS)}

    listed = json_answer("The labels.", ref("VersionLabels"), example={"stable": 7})
    events = {"description": "The status now, and at every change.", "content": {"text/event-stream": {"schema": {}}}}
    status = get("status", "What answers, and the change under way", json_answer("The status.", ref("WeightsStatus")))
    return {
        prefix: status | {"post": _swap(model)},
        f"{prefix}/golden": {"post": _offer(model, "golden", GOLDEN_SUMMARY, "GoldenFile")},
        f"{prefix}/assets": {"post": _offer(model, "assets", ASSETS_SUMMARY, "OfferedAsset")},
        f"{prefix}/versions": get("versions", "The stored versions", _listed("StoredVersion")),
        f"{prefix}/story": get("story", "The last events of its cluster", _listed("StoryEvent")),
        f"{prefix}/events": get("events", "Follow the status", events),
        f"{prefix}/rollback": {"post": _rollback(model)},
        **_candidate_paths(model, prefix),
        f"{prefix}/labels": get("labels", "The labels that can be moved, with their versions", listed),
        f"{prefix}/labels/{{label}}": _relabel(model, {200: listed}),
    }


def _candidate_paths(model: str, prefix: str) -> OpenApi:
    share = "Change the shares of the requests that meet the candidate; one that is left out stays as it is"
    changed = {200: json_answer("It has ended.", ref("WeightsStatus"))}
    body = _json_body("ExposureOptions", {"share": "20%"})
    expose = _guarded(model, "expose", share, changed, errors=_CHANGE_ERRORS, body=body)
    return {
        f"{prefix}/candidate": {"post": expose},
        f"{prefix}/promote": {"post": _decide(model, "promote", "Let the candidate answer")},
        f"{prefix}/withdraw": {"post": _decide(model, "withdraw", "Free the candidate everywhere")},
    }


def _decide(model: str, name: str, summary: str) -> OpenApi:
    body = _json_body("NoOptions", {})
    return _guarded(model, name, summary, _changed(), errors=_CHANGE_ERRORS, parameters=[_WAIT], body=body)


def _guarded(model: str, name: str, summary: str, answers: dict[int, OpenApi], **more: Any) -> OpenApi:
    identity = f"{model}.weights.{name}"
    more |= {"description": DETAILS[name]} if name in DETAILS else {}
    return operation(identity, f"{model}: weights", summary, answers, security=[{ADMIN: []}], **more)


def _swap(model: str) -> OpenApi:
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": ref("SwapBody"), "example": {"uri": "v2.safetensors", "label": "new"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    summary = "Change the weights: to an upload in safetensors' format, or to a file that the server may read"
    return _guarded(model, "swap", summary, _changed(), errors=_CHANGE_ERRORS, parameters=[_WAIT, *_UPLOAD], body=body)


def _offer(model: str, name: str, summary: str, answer: str) -> OpenApi:
    body = {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    return _guarded(
        *(model, name, summary),
        {200: json_answer("It is here.", ref(answer))},
        errors=_CHANGE_ERRORS,
        body=body,
    )


def _flat(schema: OpenApi) -> OpenApi:
    """The schema of a query parameter: an object comes as JSON text, and nothing as no parameter."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
    first = kinds[0].get("oneOf", kinds)[0]
    if "$ref" in first or first.get("type") == "object":
        return {"type": "string"}
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


_UPLOAD = [parameter("query", name, _flat(schema), "of an upload") for name, schema in _OPTIONS.items()]


def _rollback(model: str) -> OpenApi:
    return _guarded(
        *(model, "rollback", "Go back to a stored version, the previous one if none is named", _changed()),
        errors=_CHANGE_ERRORS,
        parameters=[_WAIT],
        body=_json_body("RollbackBody", {}),
    )


def _json_body(schema: str, example: OpenApi) -> OpenApi:
    """A body that may be left out."""
    return {"content": {"application/json": {"schema": ref(schema), "example": example}}}


def _relabel(model: str, answers: dict[int, OpenApi]) -> OpenApi:
    body = {"required": True, "content": {"application/json": {"schema": ref("LabelBody"), "example": {"version": 7}}}}
    move, delete = "Let a label name a version", "Delete a label"
    return {
        "put": _guarded(*(model, "label", move, answers), errors=_CHANGE_ERRORS, parameters=[_LABEL], body=body),
        "delete": _guarded(*(model, "unlabel", delete, answers), errors=_CHANGE_ERRORS, parameters=[_LABEL, _EXPECTED]),
    }


def _changed() -> dict[int, OpenApi]:
    return {
        200: json_answer("It has ended.", ref("WeightsStatus")),
        202: json_answer("It has begun.", ref("WeightsStatus")),
    }


def _listed(schema: str) -> OpenApi:
    return json_answer("The list.", {"type": "array", "items": ref(schema)})
